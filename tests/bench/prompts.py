"""Completion requests of an exact size: half of each prompt is shared by all, as a system prompt is. As load.lua does."""

from __future__ import annotations

from typing import Final

_TEXT: Final = "the valve stays open until the pressure falls below the mark on the third gauge "


class Prompts:
    """Bodies of `size_bytes` bytes each; `salt` keeps one run's prompts apart from another's."""

    def __init__(self, size_bytes: int, *, salt: str, stream: bool) -> None:
        self._before = '{"model":"m","max_tokens":16,' + ('"stream":true,' if stream else "") + '"prompt":"'
        self._after = '"}'
        prompt = size_bytes - len(self._before) - len(self._after)
        self._shared = _repeat(_TEXT, prompt // 2)
        self._own = prompt - len(self._shared)
        self._salt = salt

    def body(self, number: int) -> bytes:
        own = _repeat(f"{self._salt}-{number} ", self._own)
        return (self._before + self._shared + own + self._after).encode()


def _repeat(text: str, size: int) -> str:
    return (text * (size // len(text) + 1))[:size]
