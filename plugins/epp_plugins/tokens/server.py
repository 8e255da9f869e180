"""Asks a vLLM server for the tokens of a request: its render endpoints, or `/tokenize` where it has none."""

from __future__ import annotations

from typing import Final

import msgspec

from epp.api import Medium, Outside, OutsideError, Prompt
from epp_plugins.parsers.token_ids import token_prompt
from epp_plugins.tokens.bodies import CHAT, COMPLETIONS, MESSAGES, RESPONSES, chat_fields, texts
from epp_plugins.tokens.known import Known

_RENDER: Final = {
    CHAT: "/v1/chat/completions/render",
    COMPLETIONS: "/v1/completions/render",
    MESSAGES: "/v1/messages/render",
    RESPONSES: "/v1/responses/render",
}
# vLLM without --enable-scale-out says 403, one without these endpoints 404 or 405, a model that has none 501.
_NO_RENDER: Final = frozenset({403, 404, 405, 501})
# Of the server or what stands before it, whatever the request. 500 is not among them: some requests bring it about.
_UNABLE: Final = frozenset({401, 429, 502, 503, 504})
_JSON: Final = {"content-type": "application/json"}


class Refused(Exception):
    """The server does not tokenize this request; another one it may."""


class _Place(msgspec.Struct):
    offset: int
    length: int


class _Features(msgspec.Struct):
    mm_hashes: dict[str, list[str]] = {}
    mm_placeholders: dict[str, list[_Place]] = {}


class _Rendered(msgspec.Struct):
    token_ids: list[int]
    features: _Features | None = None


class _Tokenized(msgspec.Struct):
    tokens: list[int]


_one: Final = msgspec.json.Decoder(_Rendered)
_many: Final = msgspec.json.Decoder(list[_Rendered])
_tokenized: Final = msgspec.json.Decoder(_Tokenized)


class TokenServer:
    """A vLLM server, or its render process, at `url`, which knows the model as `model`."""

    def __init__(self, outside: Outside, url: str, *, model: str) -> None:
        self._outside = outside
        self._url = url.rstrip("/")
        self._model = model
        self._renders = True

    async def tokens(self, kind: str, body: bytes, *, timeout_s: float) -> Known:
        """The tokens of `body`, which names the server's model. Raises Refused, OutsideError, TimeoutError.

        `timeout_s` is for each call; there are several only where a completion has several texts.
        """
        if self._renders:
            status, answer = await self._post(_RENDER[kind], body, timeout_s)
            if status == 200:
                return _rendered(answer)
            if status not in _NO_RENDER:
                raise Refused(f"render: status {status}")
            self._renders = False
        if kind == CHAT:
            return await self._tokenize_chat(body, timeout_s)
        if kind == COMPLETIONS:
            return await self._tokenize_texts(body, timeout_s)
        raise Refused(f"the server has no {_RENDER[kind]}, and /tokenize takes no such request")

    async def _tokenize_chat(self, body: bytes, timeout_s: float) -> Known:
        fields = chat_fields(body)
        if fields is None:
            raise Refused("/tokenize takes no such messages")
        return Known((await self._tokenize({**msgspec.structs.asdict(fields), "model": self._model}, timeout_s),))

    async def _tokenize_texts(self, body: bytes, timeout_s: float) -> Known:
        found = texts(body)
        if found is None:
            raise Refused("/tokenize takes texts only")
        prompts = [
            await self._tokenize({"model": self._model, "prompt": text, "add_special_tokens": found[1]}, timeout_s)
            for text in found[0]
        ]
        return Known(tuple(prompts))

    async def _tokenize(self, fields: dict[str, object], timeout_s: float) -> Prompt:
        given = {name: value for name, value in fields.items() if value is not None}
        status, answer = await self._post("/tokenize", msgspec.json.encode(given), timeout_s)
        if status in _NO_RENDER:
            self._renders = True  # as far as anybody knows: it may be the model that is not there
            raise OutsideError(f"{self._url}/tokenize: status {status}; does the server serve {self._model!r}?")
        if status != 200:
            raise Refused(f"/tokenize: status {status}")
        try:
            return token_prompt(_tokenized.decode(answer).tokens)
        except (msgspec.MsgspecError, ValueError) as error:
            raise OutsideError(f"{self._url}/tokenize: {error}") from error

    async def _post(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        reply = await self._outside.http("POST", self._url + path, body=body, headers=_JSON, timeout_s=timeout_s)
        if reply.status in _UNABLE:
            raise OutsideError(f"{self._url}{path}: status {reply.status}")
        return reply.status, reply.body


def _rendered(answer: bytes) -> Known:
    try:
        parts = _many.decode(answer) if answer.lstrip()[:1] == b"[" else [_one.decode(answer)]
        prompts = tuple(token_prompt(part.token_ids) for part in parts)
    except (msgspec.MsgspecError, ValueError) as error:
        raise OutsideError(f"the answer cannot be read: {error}") from error
    media = [m for number, part in enumerate(parts) if part.features for m in _media(part.features, number)]
    return Known(prompts, tuple(media))


def _media(features: _Features, prompt: int) -> list[Medium]:
    found = [
        Medium(identifier.encode(), place.length, identifier=identifier, prompt=prompt, offset=place.offset)
        for kind, hashes in features.mm_hashes.items()
        for identifier, place in zip(hashes, features.mm_placeholders.get(kind, ()), strict=False)
        if place.offset >= 0 and place.length > 0
    ]
    return sorted(found, key=lambda m: m.offset)
