"""Sizes are read from the first bytes of real formats; what is none gives zeros."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_plugins.image_size import size_in_base64, size_of
from tests.support.images import gif, jpeg, png, webp

FILES = {
    "png": png(1000, 500),
    "gif": gif(1000, 500),
    "jpeg": jpeg(1000, 500),
    "progressive jpeg": jpeg(1000, 500, progressive=True),
    "jpeg with a thumbnail": jpeg(1000, 500, before=70_000),
    "webp": webp(1000, 500),
    "lossless webp": webp(1000, 500, "VP8L"),
    "lossy webp": webp(1000, 500, "VP8 "),
}


@pytest.mark.parametrize("name", FILES)
def test_sizes_of_every_format(name: str) -> None:
    assert size_of(FILES[name]) == (1000, 500)
    assert size_in_base64(base64.b64encode(FILES[name])) == (1000, 500)


def test_slashes_may_be_escaped_as_some_json_writers_do() -> None:
    text = base64.b64encode(jpeg(1000, 500, before=100))
    assert b"/" in text

    assert size_in_base64(text.replace(b"/", b"\\/")) == (1000, 500)


def test_what_comes_too_late_is_not_looked_for() -> None:
    assert size_in_base64(base64.b64encode(jpeg(1000, 500, before=200_000))) == (0, 0)


@given(
    st.one_of(
        st.binary(max_size=64),
        st.sampled_from(list(FILES.values())).flatmap(lambda data: st.integers(0, 40).map(lambda cut: data[:cut])),
    ),
    st.binary(max_size=12),
)
def test_anything_gives_a_size(beginning: bytes, rest: bytes) -> None:
    data = beginning + rest

    assert all(
        number >= 0 for number in (*size_of(data), *size_in_base64(base64.b64encode(data)), *size_in_base64(data))
    )
