"""Whatever a body holds, cutting its long texts leaves the same document with beginnings of its texts (names stay whole)."""

from __future__ import annotations

import json
from typing import Any
from unittest.mock import patch

from hypothesis import given
from hypothesis import strategies as st

from epp_plugins.parsers import long_texts

_TEXTS = st.text() | st.lists(
    st.sampled_from(["\\", '"', "\n", " ", ",", "x", "é", "😀", "\\u", "\x00"]), max_size=200
).map("".join)
_DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | _TEXTS,
    lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=20,
)


@given(document=_DOCUMENTS, ascii_only=st.booleans(), left=st.integers(0, 300), least=st.integers(10, 60))
def test_cut_bodies_hold_the_same_with_shorter_texts(document: object, ascii_only: bool, left: int, least: int) -> None:
    body = json.dumps(document, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")

    with patch.multiple(long_texts, _LEFT_BYTES=left, _LEAST_BYTES=least):
        short, left_out = long_texts.cut(body)

    assert len(short) <= len(body)
    assert (left_out > 0) <= (len(short) < len(body))
    assert begins(document, json.loads(short))


def begins(whole: Any, short: Any) -> bool:
    """Whether `short` is `whole` but for the ends of texts."""
    if isinstance(whole, str):
        return isinstance(short, str) and whole.startswith(short)
    if isinstance(whole, list):
        return len(whole) == len(short) and all(map(begins, whole, short))
    if isinstance(whole, dict):
        return whole.keys() == short.keys() and all(begins(value, short[key]) for key, value in whole.items())
    return bool(whole == short)
