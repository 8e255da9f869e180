"""gRPC's rules as pure functions."""

import gzip
import zlib

import hpack
import pytest

from epp.http2 import ErrorCode, Status, grpc, status_of_reset


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1H", 3600.0), ("2M", 120.0), ("3S", 3.0), ("250m", 0.25), ("5u", 5e-6), ("99999999n", 0.099999999), ("0S", 0.0)],
)
def test_timeout(value: str, seconds: float) -> None:
    assert grpc.timeout_s(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", ["", "1", "S", "123456789S", "-1S", "1.5S", "1 S", "1s", "\u0661S"])
def test_timeout_that_cannot_be_read(value: str) -> None:
    with pytest.raises(ValueError, match="grpc-timeout"):
        grpc.timeout_s(value)


@pytest.mark.parametrize(
    ("message", "encoded"),
    [("plain text", b"plain text"), ("100%", b"100%25"), ("née\n", b"n%C3%A9e%0A"), ("\ud800", b"?")],
)
def test_percent_encoding(message: str, encoded: bytes) -> None:
    assert grpc.percent_encode(message) == encoded


def test_status_message_is_cut() -> None:
    assert len(grpc.percent_encode("é" * 10_000)) <= 3 * grpc.MAX_STATUS_MESSAGE_BYTES


def test_gzip_round_trip() -> None:
    assert grpc.gunzip(grpc.gzip(b"x" * 1000), 1000) == b"x" * 1000
    assert grpc.gunzip(gzip.compress(b""), 0) == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"not gzip", Status.INTERNAL),
        (b"", Status.INTERNAL),
        (gzip.compress(b"x" * 50)[:-1], Status.INTERNAL),
        (gzip.compress(b"x") + b"tail", Status.INTERNAL),
        (zlib.compress(b"x"), Status.INTERNAL),
        (gzip.compress(bytes(10**7)), Status.RESOURCE_EXHAUSTED),
        (gzip.compress(bytes(101)), Status.RESOURCE_EXHAUSTED),
    ],
)
def test_bad_gzip(data: bytes, status: Status) -> None:
    with pytest.raises(grpc.MessageError) as raised:
        grpc.gunzip(data, 100)

    assert raised.value.status is status


def test_trailers_block_is_plain_hpack_without_a_table() -> None:
    decoder = hpack.Decoder()
    block = grpc.trailers_block(5, "a%b", [("x-text", " v "), ("x-data-bin", b"\xff\x00\x01")])

    assert list(decoder.decode(block)) == [
        ("grpc-status", "5"),
        ("grpc-message", "a%25b"),
        ("x-text", "v"),
        ("x-data-bin", "/wAB"),
    ]
    assert not decoder.header_table.dynamic_entries


@pytest.mark.parametrize(
    ("name", "value"),
    [("Upper", "x"), ("grpc-status", "0"), (":path", "x"), ("", "x"), ("x", "a\nb"), ("x", b"raw"), ("x-bin", "text")],
)
def test_metadata_that_grpc_forbids(name: str, value: str | bytes) -> None:
    with pytest.raises(ValueError, match="metadata"):
        grpc.metadata_block([(name, value)])


@pytest.mark.parametrize(
    ("code", "status"),
    [
        (ErrorCode.NO_ERROR, Status.INTERNAL),
        (ErrorCode.REFUSED_STREAM, Status.UNAVAILABLE),
        (ErrorCode.CANCEL, Status.CANCELLED),
        (ErrorCode.ENHANCE_YOUR_CALM, Status.RESOURCE_EXHAUSTED),
        (ErrorCode.INADEQUATE_SECURITY, Status.PERMISSION_DENIED),
        (0xFFFF, Status.INTERNAL),
    ],
)
def test_status_of_reset(code: int, status: Status) -> None:
    assert status_of_reset(code) is status
