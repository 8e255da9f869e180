"""What real engines published, and what they were asked: `tests/fixtures/kv_events`, written by `tests/vllm/capture.py`."""

from __future__ import annotations

import base64
import json
from array import array
from pathlib import Path
from typing import Any, Final

import msgspec

FOLDER: Final = Path(__file__).parents[1] / "fixtures" / "kv_events"
LORA: Final = "vllm-0.32-sha256_cbor-32-seed42-lora.json"


class Asked(msgspec.Struct):
    """One request to the engine: its prompt, the engine's tokens of it, and how many of them were cached."""

    prompt: str
    tokens: list[int]
    cached_tokens: int
    cache_salt: str = ""


class Captured(msgspec.Struct):
    """One run of an engine."""

    name: str
    algorithm: str
    block_size: int
    seed: str  # empty: PYTHONHASHSEED was not set
    requests: list[Asked]
    frames: list[tuple[bytes, bytes, bytes]]

    @property
    def payloads(self) -> list[bytes]:
        return [payload for _, _, payload in self.frames]


def captures() -> list[Captured]:
    """Every run that `capture.py` wrote down."""
    return [_capture(path) for path in sorted(FOLDER.glob("vllm-*seed*.json")) if path.name != LORA]


def lora_frames() -> list[tuple[bytes, bytes, bytes]]:
    """A run with two adapters, evictions and a reset of the cache."""
    return [_frames(frame) for frame in json.loads((FOLDER / LORA).read_text())]


def packed(tokens: list[int]) -> bytes:
    """Token ids as in Prompt.data."""
    return array("I", tokens).tobytes()


def _capture(path: Path) -> Captured:
    document: dict[str, Any] = json.loads(path.read_text())
    facts = document["facts"]
    return Captured(
        path.stem,
        facts["algorithm"],
        int(facts["block_size"]),
        facts["seed"],
        msgspec.convert(document["requests"], list[Asked]),
        [_frames(frame) for frame in document["frames"]],
    )


def _frames(encoded: list[str]) -> tuple[bytes, bytes, bytes]:
    topic, number, payload = (base64.b64decode(part) for part in encoded)
    return topic, number, payload
