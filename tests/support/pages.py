"""What pages show, taken out of them to be run: fenced blocks, and the commands in blocks for a shell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec

_FENCE: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_NOTE: Final = re.compile(r"\s{2,}#\s.*$")  # a remark behind a command
_LINK: Final = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_PROMPT: Final = "$ "


class Block(msgspec.Struct, frozen=True):
    """A fenced block. `line` is that of its fence, from 1."""

    page: str
    language: str
    text: str
    line: int


class Command(msgspec.Struct, frozen=True):
    """One command of a page, and the lines that the page shows below it."""

    page: str
    line: int
    text: str
    output: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {self.text}"


def blocks(page: Path, language: str) -> list[Block]:
    """The fenced blocks of `page` in this language, in order."""
    text = page.read_text()
    return [
        Block(page.name, m[1], m[2], text.count("\n", 0, m.start()) + 1)
        for m in _FENCE.finditer(text)
        if m[1] == language
    ]


def commands(page: Path) -> list[Command]:
    """In ```console blocks what stands behind `$ `, with the output below it; in ```sh blocks every line."""
    found = [*blocks(page, "console"), *blocks(page, "sh")]
    return [command for block in sorted(found, key=lambda b: b.line) for command in _commands_of(block)]


def _commands_of(block: Block) -> Iterator[Command]:
    prompt = _PROMPT if block.language == "console" else ""
    text, output, at = "", [], 0
    for number, line in enumerate(block.text.splitlines(), start=block.line + 1):
        if text.endswith("\\"):
            text = text[:-1] + line.strip()
        elif prompt and not line.startswith(prompt):
            output.append(line)
        else:
            if text:
                yield Command(block.page, at, text, tuple(output))
            text, output, at = _NOTE.sub("", line.removeprefix(prompt)).strip(), [], number
            if text.startswith("#"):
                text = ""
    if text:
        yield Command(block.page, at, text, tuple(output))


def relative_links(page: Path) -> list[str]:
    """Files that `page` links to, without what stands behind `#`."""
    targets = (target.partition("#")[0] for target in _LINK.findall(page.read_text()))
    return [target for target in targets if target and "://" not in target]
