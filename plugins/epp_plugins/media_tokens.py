"""How many tokens an image, a video or an audio is taken for, which only the model could say exactly. No I/O.

The rules, names and defaults are those of the Go EPP's token-producer (backend `estimate`); its rule for audio is that of
versions after 0.10, since 0.10 counts an inline audio by the length of its base64 and one with an address as a single token.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Final, Literal

import msgspec

from epp.api import Medium, Payload, Prompt, headers

# A mark and a hash. A medium never takes less of a prompt's data.
LEAST_BYTES: Final = 17
BYTES_PER_TOKEN: Final = 4
# More than any model takes: a request may claim anything.
MOST_TOKENS: Final = 1 << 22

_PIXELS_PER_TOKEN: Final = 1024
_WIDTH, _HEIGHT = 640, 360
_SECONDS: Final = 10.0
_SAMPLED_PER_S: Final = 2.0
_FRAMES_PER_S: Final = 24.0
_AUDIO_TOKENS_PER_S: Final = 12.5
_AUDIO_OVERHEAD_TOKENS: Final = 14

_Count = Annotated[int, msgspec.Meta(ge=0)]
_Amount = Annotated[float, msgspec.Meta(ge=0)]


class _Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """In all of them 0 means the default, or no limit."""


class Resolution(_Params, frozen=True):
    width: _Count = _WIDTH
    height: _Count = _HEIGHT


class ByPixels(_Params, frozen=True):
    factor: _Count = _PIXELS_PER_TOKEN


class PerImage(_Params, frozen=True):
    static_token: _Count = 0


class ImageEstimate(_Params, frozen=True):
    """`dynamic`: width * height / factor, of the default resolution where the image's is not known. `static`: a number."""

    mode: Literal["dynamic", "static"] = "dynamic"
    default_resolution: Resolution = Resolution()
    dynamic: ByPixels = ByPixels()
    static: PerImage = PerImage()

    def tokens(self, width: int, height: int) -> int:
        if self.mode == "static":
            return max(self.static.static_token, 1)
        return _by_pixels(width, height, self.default_resolution, self.dynamic.factor)


class PerFrame(_Params, frozen=True):
    num_tokens_per_frame: _Count = 0


class FrameEstimate(_Params, frozen=True):
    mode: Literal["dynamic", "static"] = "dynamic"
    dynamic: ByPixels = ByPixels()
    static: PerFrame = PerFrame()


class Sampled(_Params, frozen=True):
    sample_fps: _Amount = msgspec.field(default=_SAMPLED_PER_S, name="sampleFPS")
    temporal_patch_size: _Count = 0


class Strided(_Params, frozen=True):
    default_source_fps: _Amount = msgspec.field(default=_FRAMES_PER_S, name="defaultSourceFPS")
    frame_stride: _Count = 1


class Frames(_Params, frozen=True):
    """`sampled`: so many a second, several of them perhaps taken together. `strided`: every so many of the video's own."""

    mode: Literal["sampled", "strided"] = "sampled"
    min_frames: _Count = 0
    max_frames: _Count = 0
    sampled: Sampled = Sampled()
    strided: Strided = Strided()

    def count(self, seconds: float, fps: float) -> int:
        if self.mode == "strided":
            rate = fps or self.strided.default_source_fps or _FRAMES_PER_S
            return self._within(_whole(seconds * rate) // max(self.strided.frame_stride, 1))
        frames = self._within(_whole(seconds * (self.sampled.sample_fps or _SAMPLED_PER_S)))
        return frames // max(self.sampled.temporal_patch_size, 1)

    def _within(self, frames: int) -> int:
        frames = max(frames, self.min_frames)
        return min(frames, self.max_frames) if self.max_frames else frames


class VideoHints(msgspec.Struct, frozen=True):
    """What the client's headers say of the request's videos; 0: nothing."""

    seconds: float = 0.0
    width: int = 0
    height: int = 0
    fps: float = 0.0


class VideoEstimate(_Params, frozen=True):
    """Frames times tokens of a frame."""

    tokens_per_frame: FrameEstimate = FrameEstimate()
    frames: Frames = Frames()
    default_resolution: Resolution = Resolution()
    default_duration: _Amount = _SECONDS
    max_video_tokens: _Count = 0

    def tokens(self, hints: VideoHints) -> int:
        frame = self.tokens_per_frame
        per_frame = (
            max(frame.static.num_tokens_per_frame, 1)
            if frame.mode == "static"
            else _by_pixels(hints.width, hints.height, self.default_resolution, frame.dynamic.factor)
        )
        total = self.frames.count(hints.seconds or self.default_duration or _SECONDS, hints.fps) * per_frame
        return min(total, self.max_video_tokens) if self.max_video_tokens else total


class Estimate(_Params, frozen=True):
    """How media are counted."""

    image: ImageEstimate = ImageEstimate()
    video: VideoEstimate = VideoEstimate()

    def tokens(self, medium: Medium, hints: VideoHints) -> int:
        """At least 1. Files of other kinds are not estimated: they take what their mark and hash take."""
        match medium.kind:
            case "image":
                count = self.image.tokens(medium.width, medium.height)
            case "video":
                count = self.video.tokens(hints)
            case "audio":
                count = _AUDIO_OVERHEAD_TOKENS + _whole((medium.seconds or _SECONDS) * _AUDIO_TOKENS_PER_S)
            case _:
                count = -(-LEAST_BYTES // BYTES_PER_TOKEN)
        return min(max(count, 1), MOST_TOKENS)


DEFAULT: Final = Estimate()
NO_HINTS: Final = VideoHints()


def video_hints(given: Mapping[str, str]) -> VideoHints:
    """From a request's headers. What cannot be read counts as not said."""
    if not any(map(given.__contains__, headers.VIDEO_HINTS)):
        return NO_HINTS
    width, _, height = given.get(headers.VIDEO_RESOLUTION, "").lower().partition("x")
    size = (_pixels(width), _pixels(height))
    return VideoHints(
        _positive(given.get(headers.VIDEO_SECONDS, "")),
        *(size if all(size) else (0, 0)),
        _positive(given.get(headers.VIDEO_FPS, "")),
    )


def estimated_anew(prompt: Prompt, estimate: Estimate, hints: VideoHints) -> Prompt:
    """`prompt` with its media counted by `estimate`. One that is longer than what is kept of it stays as it is."""
    if not prompt.media or prompt.size_bytes:
        return prompt
    pieces: list[bytes] = []
    media: list[Medium] = []
    end = size = 0
    for medium in prompt.media:
        pieces.append(prompt.data[end : medium.at + LEAST_BYTES])
        size += len(pieces[-1])
        end = medium.at + size_bytes(medium.tokens)
        tokens = estimate.tokens(medium, hints)
        media.append(msgspec.structs.replace(medium, tokens=tokens, at=size - LEAST_BYTES))
        pieces.append(bytes(size_bytes(tokens) - LEAST_BYTES))
        size += len(pieces[-1])
    pieces.append(prompt.data[end:])
    return Prompt(b"".join(pieces), media=tuple(media))


def count_anew(payload: Payload, given: Mapping[str, str], estimate: Estimate = DEFAULT) -> None:
    """Count the media of `payload` by `estimate` and by what the headers `given` say of them."""
    hints = video_hints(given)
    if hints is not NO_HINTS or estimate is not DEFAULT:
        payload.replace_prompts(tuple([estimated_anew(prompt, estimate, hints) for prompt in payload.prompts]))


def size_bytes(tokens: int) -> int:
    """Of a medium in a prompt's data."""
    return max(tokens * BYTES_PER_TOKEN, LEAST_BYTES)


def _by_pixels(width: int, height: int, default: Resolution, factor: int) -> int:
    if width <= 0 or height <= 0:
        width, height = default.width or _WIDTH, default.height or _HEIGHT
    return max(width * height // (factor or _PIXELS_PER_TOKEN), 1)


def _whole(number: float) -> int:
    return int(min(number, float(MOST_TOKENS)))


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        return 0.0
    return value if value > 0 and math.isfinite(value) else 0.0


def _pixels(text: str) -> int:
    text = text.strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) <= 6 else 0
