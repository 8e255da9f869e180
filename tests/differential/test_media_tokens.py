"""Both EPPs take images and videos for as many tokens, up to the few that mark where messages and parts begin."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.differential.configurations import IN_FLIGHT, plugin, simple
from tests.differential.fleet import Load
from tests.differential.pair import Both, pair
from tests.differential.talk import Ask
from tests.support.images import data_url, gif, jpeg, png

pytestmark = pytest.mark.e2e

_SCALE: Final = 1_000_000  # a score is 1 - tokens / this
_MARKS: Final = 10

_HINTS: Final = {
    "x-llm-d-video-duration-seconds": "3.5",
    "x-llm-d-video-resolution": "1280x720",
    "x-llm-d-video-fps": "30",
}
_GEMMA: Final = {
    "image": {"mode": "static", "static": {"staticToken": 280}},
    "video": {
        "tokensPerFrame": {"mode": "static", "static": {"numTokensPerFrame": 296}},
        "frames": {"mode": "strided", "minFrames": 1, "maxFrames": 8, "strided": {"frameStride": 4}},
    },
}
_QWEN: Final = {
    "image": {"dynamic": {"factor": 784}, "defaultResolution": {"width": 1024, "height": 768}},
    "video": {
        "frames": {"minFrames": 4, "maxFrames": 768, "sampled": {"sampleFPS": 2, "temporalPatchSize": 2}},
        "maxVideoTokens": 4000,
    },
}


def _part(kind: str, url: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}


def _chat(*parts: dict[str, Any], **headers: str) -> Ask:
    body = {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Ask(path="/v1/chat/completions", body=json.dumps(body).encode(), headers=named)


def _anthropic(data: bytes) -> Ask:
    source = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(data).decode()}
    content = [{"type": "image", "source": source}, {"type": "text", "text": "what is it?"}]
    body = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": content}]}
    return Ask(path="/v1/messages", body=json.dumps(body).encode())


# Each with content of its own: what is believed to be cached is taken off.
ASKS: Final = {
    "an address": _chat(_part("image_url", "http://a/b.png")),
    "png": _chat(_part("image_url", data_url(png(1000, 500)))),
    "a tiny one": _chat(_part("image_url", data_url(png(2, 2)))),
    "gif": _chat(_part("image_url", data_url(gif(320, 200), "image/gif"))),
    "jpeg": _chat(_part("image_url", data_url(jpeg(800, 600), "image/jpeg"))),
    "a jpeg with much before its size": _chat(
        _part("image_url", data_url(jpeg(640, 480, before=40_000), "image/jpeg"))
    ),
    "no image": _chat(_part("image_url", "data:image/png;base64,AAAA")),
    "two images": _chat(_part("image_url", "http://a/c.png"), _part("image_url", data_url(png(640, 640)))),
    "video": _chat(_part("video_url", "http://a/1.mp4")),
    "video with hints": _chat(_part("video_url", "http://a/2.mp4"), **_HINTS),
    "messages API": _anthropic(png(700, 500)),
}


@pytest.mark.parametrize("estimate", [{}, _GEMMA, _QWEN], ids=["default", "gemma", "qwen"])
async def test_media_count_as_many_tokens(estimate: dict[str, Any], go_epp: Path, tmp_path: Path) -> None:
    extra = [IN_FLIGHT, plugin("token-load-scorer", queueThresholdTokens=_SCALE)]
    if estimate:
        extra.append(plugin("token-producer", estimate=estimate))
    found: dict[str, tuple[float, float]] = {}
    async with pair(tmp_path, go_epp, simple(("token-load-scorer", 1), extra=tuple(extra)), ({},)) as both:
        await both.fleet.show([Load()])
        for name, ask in ASKS.items():
            found[name] = _tokens(await both.ask(ask))

    assert {name: pair for name, pair in found.items() if abs(pair[0] - pair[1]) > _MARKS} == {}


def _tokens(outcomes: Both) -> tuple[float, float]:
    (go,), (ours,) = outcomes.go.scores.values(), outcomes.ours.scores.values()
    return round((1 - go) * _SCALE), round((1 - ours) * _SCALE)
