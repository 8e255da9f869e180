"""Tokens from a tokenizer's files: `tokenizer.json` and, for chats, the chat template beside it.

Needs the extra `tokenizers`. Text between special tokens is tokenized for itself (that this tokenizer does so is tried at
the start), so that of a conversation only what is new costs time.
"""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections import OrderedDict
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import xxhash

from epp.api import ConfigError, Prompt

_SMALL: Final = 4096  # characters that are tokenized at once: about a millisecond
_PIECES_BYTES: Final = 64 << 20
_PIECE_BYTES: Final = 200  # of an entry besides its tokens
_SAMPLE: Final = ("A first piece,  with spaces ", " and a second one\n\n with others. ")


class MissingExtra(ConfigError):
    """A package that only some configurations need is not installed."""


class NotRendered(Exception):
    """The template refuses the conversation, or it holds something that a template alone cannot make tokens of."""


class _Encoding(Protocol):
    @property
    def ids(self) -> list[int]: ...


class _Tokenizer(Protocol):
    def encode(self, sequence: str, *, add_special_tokens: bool) -> _Encoding: ...


class LocalTokenizer:
    """The tokenizer in the folder `path`. Raises MissingExtra or ConfigError."""

    def __init__(self, path: str) -> None:
        folder = Path(path)
        self._tokenizer = _load(folder / "tokenizer.json")
        self._settings = _read_json(folder / "tokenizer_config.json", missing={})
        self._template = _template_of(folder, self._settings)
        self._split = self._find_split(_read_json(folder / "tokenizer.json"))
        self._pieces: OrderedDict[bytes, bytes] = OrderedDict()
        self._pieces_bytes = 0

    @property
    def has_template(self) -> bool:
        return self._template is not None

    @property
    def splits(self) -> bool:
        """Text between special tokens is tokenized for itself."""
        return self._split is not None

    def chat(self, fields: dict[str, Any]) -> str:
        """The text that the model reads. `fields` as `bodies.ChatFields` has them. Raises NotRendered."""
        if self._template is None:
            raise NotRendered("the tokenizer has no chat template")
        return self._template.render(fields, self._settings)

    def known(self, text: str, *, special: bool) -> tuple[list[bytes | None], list[str]]:
        """The pieces of `text` and what is known of them: token ids as in `Prompt.data`, or None."""
        pieces = self._pieces_of(text)
        return [self._look_up(piece, special=special and not i) for i, piece in enumerate(pieces)], pieces

    def encode(self, piece: str, *, special: bool) -> bytes:
        """Token ids of one piece. May be called on another thread; `special`: with those that begin and end a prompt."""
        ids = self._tokenizer.encode(piece, add_special_tokens=special).ids
        return np.array(ids, dtype="<u4").tobytes()

    def learn(self, piece: str, ids: bytes, *, special: bool) -> None:
        """Remember what `encode` gave."""
        key = _piece_key(piece, special=special)
        if key in self._pieces:
            return
        self._pieces[key] = ids
        self._pieces_bytes += len(ids) + _PIECE_BYTES
        while self._pieces_bytes > _PIECES_BYTES:
            _, dropped = self._pieces.popitem(last=False)
            self._pieces_bytes -= len(dropped) + _PIECE_BYTES

    def prompt(self, ids: list[bytes]) -> Prompt:
        return Prompt(b"".join(ids), tokenized=True)

    def _look_up(self, piece: str, *, special: bool) -> bytes | None:
        key = _piece_key(piece, special=special)
        found = self._pieces.get(key)
        if found is not None:
            self._pieces.move_to_end(key)
        return found

    def _pieces_of(self, text: str) -> list[str]:
        """`text` cut before each special token; each piece but the first begins with one."""
        if self._split is None:
            return [text]
        starts = [match.start() for match in self._split.finditer(text)]
        bounds = [0, *(s for s in starts if s), len(text)]
        return [text[a:b] for a, b in itertools.pairwise(bounds)] or [""]

    def _find_split(self, document: dict[str, Any]) -> re.Pattern[str] | None:
        names = [t["content"] for t in document.get("added_tokens", ()) if _stands_alone(t)]
        if not names:
            return None
        plain = functools.partial(self.encode, special=False)
        for name in names[:3]:
            first, second = _SAMPLE[0], name + _SAMPLE[1]
            if plain(first + second) != plain(first) + plain(second):
                return None
        # With special tokens of its own, a prompt gets them at the beginning, where they may change nothing behind them,
        # or at the end, where they belong to the last piece.
        whole = self.encode(_SAMPLE[0] + names[0], special=True)
        if whole != self.encode(_SAMPLE[0], special=True) + plain(names[0]):
            return None
        return re.compile("|".join(re.escape(n) for n in sorted(names, key=len, reverse=True)))


def is_small(pieces: list[str]) -> bool:
    """They may be tokenized at once; more of them would hold up other requests."""
    return sum(map(len, pieces)) <= _SMALL


class _Template:
    """A chat template, in the surroundings that transformers gives it."""

    def __init__(self, source: str, place: Path) -> None:
        try:
            from jinja2 import TemplateError, nodes
            from jinja2.ext import loopcontrols
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError as error:
            raise MissingExtra(_missing("jinja2")) from error
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        self._error = TemplateError
        try:
            self._template = environment.from_string(source)
            tree = environment.parse(source)
        except TemplateError as error:
            raise ConfigError(f"{place}: the chat template cannot be read: {error}") from error
        self._wants_parts = any(_reads_content(loop.iter) for loop in tree.find_all(nodes.For))

    def render(self, fields: dict[str, Any], settings: dict[str, Any]) -> str:
        names = {name: _token_text(settings.get(name)) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        messages = [self._message(message) for message in fields["messages"]]
        given = {**names, **fields, "messages": messages, **(fields.get("chat_template_kwargs") or {})}
        try:
            return self._template.render(**given)
        # The template is a program of the model's authors, run on what a client sent.
        except Exception as error:
            raise NotRendered(f"the chat template fails: {type(error).__name__}: {error}") from error

    def _message(self, message: Any) -> Any:
        """`message` with its content as this template reads it: as parts, or as one text (vLLM does the same)."""
        if not isinstance(message, dict) or message.get("content") is None:
            return message
        content = message["content"]
        parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(parts, list) or not all(_is_text(part) for part in parts):
            raise NotRendered("media need the model's own processor")
        if self._wants_parts:
            return {**message, "content": parts}
        return {**message, "content": "\n".join(part["text"] for part in parts)}


def _load(path: Path) -> _Tokenizer:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra(_missing("tokenizers")) from error
    if not path.is_file():
        raise ConfigError(f"there is no {path}")
    try:
        loaded: _Tokenizer = Tokenizer.from_file(str(path))
    # The package raises plain Exception for a file that it cannot read.
    except Exception as error:
        raise ConfigError(f"{path}: {error}") from error
    return loaded


def _missing(package: str) -> str:
    return f'needs the package {package}, which is not installed; try: pip install "llm-epp[tokenizers]"'


def _template_of(folder: Path, settings: dict[str, Any]) -> _Template | None:
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return _Template(beside.read_text(encoding="utf-8"), beside)
    found = settings.get("chat_template")
    if isinstance(found, list):  # several with names
        found = next((t.get("template") for t in found if t.get("name") == "default"), None)
    return _Template(found, folder / "tokenizer_config.json") if isinstance(found, str) else None


def _read_json(path: Path, *, missing: dict[str, Any] | None = None) -> dict[str, Any]:
    if missing is not None and not path.is_file():
        return missing
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected a JSON object")
    return document


def _stands_alone(token: dict[str, Any]) -> bool:
    """An added token that takes nothing of what stands around it."""
    around = ("single_word", "lstrip", "rstrip", "normalized")
    return bool(token.get("special")) and bool(token.get("content")) and not any(token.get(name) for name in around)


def _piece_key(piece: str, *, special: bool) -> bytes:
    return xxhash.xxh3_128_digest(piece.encode("utf-8", "surrogatepass"), seed=int(special))


def _reads_content(node: Any) -> bool:
    """`message.content`, `message['content']`"""
    argument = getattr(node, "arg", None)
    return getattr(node, "attr", None) == "content" or getattr(argument, "value", None) == "content"


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and isinstance(part.get("text"), str) and part.get("type", "text") == "text"


def _token_text(value: Any) -> str:
    """Special tokens stand in tokenizer_config.json as texts, or as objects with their text."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    """Without the escapes for HTML that jinja adds."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> str:
    raise NotRendered(message)
