"""Integers and strings of HPACK, as a decoder reads them."""

import hpack
import pytest

from epp.http2 import literals


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 254, 255, 300, 20_000])
def test_field_of_any_length(length: int) -> None:
    assert list(hpack.Decoder(2**20).decode(literals.field(b"x", b"v" * length))) == [("x", "v" * length)]


@pytest.mark.parametrize(("value", "encoded"), [(10, b"\x0a"), (1337, b"\x1f\x9a\x0a"), (31, b"\x1f\x00")])
def test_integer(value: int, encoded: bytes) -> None:
    # The first two are the examples of RFC 7541, appendix C.1.
    assert literals.integer(value, 5, 0) == encoded


@pytest.mark.parametrize("code", [200, 415, 431])
def test_status(code: int) -> None:
    assert list(hpack.Decoder().decode(literals.status(code))) == [(":status", str(code))]


def test_content_type() -> None:
    assert list(hpack.Decoder().decode(literals.content_type(b"text/plain"))) == [("content-type", "text/plain")]
