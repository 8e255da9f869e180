"""How media are counted: the Go EPP's rules with hand-computed values, and prompts that are counted anew."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.api import Medium, Payload
from epp_plugins.media_tokens import DEFAULT, MOST_TOKENS, NO_HINTS, Estimate, estimated_anew, video_hints
from epp_plugins.parsers.anthropic_parser import AnthropicParser
from epp_plugins.parsers.openai_parser import OpenAIParser
from tests.support.images import data_url, gif, jpeg, png
from tests.support.parsing import parse

HINTS = {
    "x-llm-d-video-duration-seconds": "3.5",
    "x-llm-d-video-resolution": "1280x720",
    "x-llm-d-video-fps": "30",
}
GEMMA = {
    "tokensPerFrame": {"mode": "static", "static": {"numTokensPerFrame": 296}},
    "frames": {"mode": "strided", "minFrames": 1, "maxFrames": 8, "strided": {"frameStride": 4}},
}
QWEN = {
    "frames": {"minFrames": 4, "maxFrames": 768, "sampled": {"sampleFPS": 2, "temporalPatchSize": 2}},
    "maxVideoTokens": 12288,
}


def image(width: int = 0, height: int = 0) -> Medium:
    return Medium(b"h" * 16, kind="image", width=width, height=height)


VIDEO = Medium(b"v" * 16, kind="video")


def tokens(medium: Medium, estimate: dict[str, Any], hints: dict[str, str]) -> int:
    return msgspec.convert(estimate, Estimate).tokens(medium, video_hints(hints))


@pytest.mark.parametrize(
    ("medium", "estimate", "hints", "expected"),
    [
        (image(), {}, {}, 640 * 360 // 1024),
        (image(1000, 500), {}, {}, 488),
        (image(2, 2), {}, {}, 1),
        (image(1000, 500), {"image": {"dynamic": {"factor": 784}}}, {}, 637),
        (image(1000, 500), {"image": {"dynamic": {"factor": 0}}}, {}, 488),
        (image(), {"image": {"defaultResolution": {"width": 1024, "height": 1024}}}, {}, 1024),
        (image(1000, 500), {"image": {"mode": "static", "static": {"staticToken": 280}}}, {}, 280),
        (image(1000, 500), {"image": {"mode": "static"}}, {}, 1),
        (image(10**9, 10**9), {}, {}, MOST_TOKENS),
        (VIDEO, {}, {}, 20 * 225),
        (VIDEO, {}, HINTS, 7 * 900),
        (VIDEO, {"video": QWEN}, {}, 10 * 225),
        (VIDEO, {"video": QWEN}, {"x-llm-d-video-duration-seconds": "600"}, 12288),
        (VIDEO, {"video": QWEN}, {"x-llm-d-video-duration-seconds": "0.5"}, 2 * 225),
        (VIDEO, {"video": GEMMA}, {}, 8 * 296),
        (VIDEO, {"video": GEMMA}, HINTS | {"x-llm-d-video-duration-seconds": "0.2"}, 296),
        (VIDEO, {"video": GEMMA}, {"x-llm-d-video-duration-seconds": "1", "x-llm-d-video-fps": "12"}, 3 * 296),
        (VIDEO, {"video": {"defaultDuration": 2, "defaultResolution": {"width": 1024, "height": 1}}}, {}, 4),
        (Medium(b"a" * 16, kind="audio"), {}, {}, 14 + 125),
        (Medium(b"a" * 16, kind="audio", seconds=2), {}, {}, 14 + 25),
        (Medium(b"f" * 16, kind="file"), {}, {}, 5),
    ],
)
def test_hand_computed(medium: Medium, estimate: dict[str, Any], hints: dict[str, str], expected: int) -> None:
    assert tokens(medium, estimate, hints) == expected


@pytest.mark.parametrize(
    "hints",
    [
        {"x-llm-d-video-duration-seconds": value, "x-llm-d-video-fps": value, "x-llm-d-video-resolution": value}
        for value in ("", "x", "-1", "nan", "inf", "0", "1x", "x9", "-3x4", "1_0x1_0", "²x²", "9" * 99 + "x1")
    ],
)
def test_hints_that_cannot_be_read_count_for_nothing(hints: dict[str, str]) -> None:
    assert tokens(VIDEO, {}, hints) == 4500


def chat(*parts: dict[str, Any], headers: dict[str, str] | None = None) -> Payload:
    body = {"model": "m", "messages": [{"role": "user", "content": list(parts)}]}
    return parse(OpenAIParser, "/v1/chat/completions", body, headers=headers or {})


def part(kind: str, url: str) -> dict[str, Any]:
    return {"type": kind, kind: {"url": url}}


@pytest.mark.parametrize(
    ("given_part", "expected"),
    [
        (part("image_url", "http://x/y.png"), 225),
        (part("image_url", data_url(png(1000, 500))), 488),
        (part("image_url", data_url(gif(320, 200), "image/gif")), 62),
        (part("image_url", data_url(jpeg(800, 600, before=40_000), "image/jpeg")), 468),
        (part("image_url", "data:image/png;base64,AAAA"), 225),
        (part("image_url", "data:image/svg+xml,<svg/>"), 225),
        ({"type": "input_image", "image_url": data_url(png(64, 64))}, 4),
        (part("video_url", "http://x/y.mp4"), 4500),
        (part("audio_url", "http://x/y.mp3"), 139),
        ({"type": "input_audio", "input_audio": {"data": "A" * 64_000, "format": "mp3"}}, 14 + 37),
        ({"type": "file", "file": {"file_id": "f"}}, 5),
    ],
)
def test_media_of_requests(given_part: dict[str, Any], expected: int) -> None:
    payload = chat(given_part)

    [medium] = payload.prompts[0].media
    assert medium.tokens == expected
    assert abs(payload.prompt_tokens - expected) <= 9  # marks, the role, the kind of the part


def test_an_image_of_the_messages_api_counts_by_its_size() -> None:
    source = {"type": "base64", "media_type": "image/png", "data": data_url(png(1000, 500)).rpartition(",")[2]}
    body = {
        "model": "m",
        "max_tokens": 5,
        "messages": [{"role": "user", "content": [{"type": "image", "source": source}]}],
    }

    [prompt] = parse(AnthropicParser, "/v1/messages", body).prompts

    assert [medium.tokens for medium in prompt.media] == [488]


def test_headers_say_how_long_and_large_a_video_is() -> None:
    assert chat(part("video_url", "v"), headers=HINTS).prompts[0].media[0].tokens == 6300


@given(
    st.lists(st.sampled_from(["", "text", "a" * 300, "http://i/1", "http://i/2", "v"]), max_size=6), st.integers(0, 400)
)
def test_counting_anew_changes_nothing_but_the_room_of_media(words: list[str], static: int) -> None:
    """There and back again gives the same bytes, and the text between the media stays."""
    kinds = {"http": "image_url", "v": "video_url"}
    parts = [
        part(kinds[key], word)
        if (key := next((k for k in kinds if word.startswith(k)), ""))
        else {"type": "text", "text": word}
        for word in words
    ]
    [prompt] = chat(*parts).prompts
    other = msgspec.convert({"image": {"mode": "static", "static": {"staticToken": static}}}, Estimate)

    changed = estimated_anew(prompt, other, NO_HINTS)

    assert [medium.content_hash for medium in changed.media] == [medium.content_hash for medium in prompt.media]
    assert all(changed.data[m.at + 1 : m.at + 17] == m.content_hash for m in changed.media)
    assert estimated_anew(changed, DEFAULT, NO_HINTS) == prompt
