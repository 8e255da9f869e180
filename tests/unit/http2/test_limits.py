"""Limits say what they cannot be."""

import pytest

from epp.http2 import Limits


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_frame_bytes", 16_383),
        ("max_frame_bytes", 2**24),
        ("stream_window_bytes", 0),
        ("stream_window_bytes", 2**31),
        ("connection_window_bytes", 65_534),
        ("max_message_bytes", 2**32),
        ("max_concurrent_streams", -1),
        ("max_concurrent_streams", 2**32),
        ("max_header_list_bytes", 2**32),
        ("output_chunk_bytes", 0),
        ("flood_window_s", 0.0),
    ],
)
def test_impossible_value_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name}: {value} is"):
        Limits(**{name: value})  # type: ignore[arg-type]
