"""Request heads: what is malformed, what is refused, and what sharing them by block may not change."""

import hpack
import pytest

from epp.http2 import Limits
from epp.http2.requests import HeadReader, RequestHead
from tests.support.http2_peer import REQUEST

Fields = tuple[tuple[str, str], ...]


def read(*fields: tuple[str, str], limits: Limits | None = None) -> RequestHead:
    return HeadReader(limits or Limits()).request(hpack.Encoder().encode(fields))


def without(name: str) -> Fields:
    return tuple(field for field in REQUEST if field[0] != name)


@pytest.mark.parametrize(
    "fields",
    [
        without(":method"),
        without(":scheme"),
        without(":path"),
        (*without(":path"), (":path", "")),
        ((":path", ""), *without(":path")),
        ((":path", "no/slash"), *without(":path")),
        ((":path", "/second"), *REQUEST),
        ((":status", "200"), *REQUEST),
        ((":made-up", "x"), *REQUEST),
        (*REQUEST, (":authority", "late")),
        (*REQUEST, ("X-Upper", "x")),
        (*REQUEST, ("with space", "x")),
        (*REQUEST, ("", "x")),
        (*REQUEST, ("connection", "keep-alive")),
        (*REQUEST, ("proxy-connection", "x")),
        (*REQUEST, ("keep-alive", "x")),
        (*REQUEST, ("transfer-encoding", "chunked")),
        (*REQUEST, ("upgrade", "h2c")),
        (*REQUEST, ("te", "gzip")),
        (*REQUEST, ("content-length", "x")),
        (*REQUEST, ("content-length", "-1")),
        (*REQUEST, ("content-length", "1"), ("content-length", "2")),
        (*REQUEST, ("x-nul", "a\x00b")),
        (*REQUEST, ("x-newline", "a\nb")),
        (*REQUEST, ("x-space", " a")),
        (*REQUEST, ("x-space", "a\t")),
        ((":method", "CONNECT"), (":scheme", "http"), (":path", "/"), (":authority", "a")),
        ((":method", "CONNECT"),),
    ],
)
def test_malformed(fields: Fields) -> None:
    assert read(*fields).facts.malformed


@pytest.mark.parametrize(
    "fields",
    [
        REQUEST,
        (*REQUEST, ("content-length", "1"), ("content-length", "1")),
        (*REQUEST, ("x-inner", "a b\tc")),
        (*REQUEST, ("x-empty", "")),
        (*REQUEST, ("x-latin", "\u00e9")),
        ((":method", "OPTIONS"), (":scheme", "http"), (":path", "*")),
        ((":method", "CONNECT"), (":authority", "a:1")),
    ],
)
def test_well_formed(fields: Fields) -> None:
    assert not read(*fields).facts.malformed


@pytest.mark.parametrize(
    ("content_type", "method", "refusal"),
    [
        ("application/grpc", "POST", 0),
        ("application/grpc+proto", "POST", 0),
        ("application/grpc; charset=utf-8", "POST", 0),
        ("application/grpc", "GET", 405),
        ("application/grpc-web", "POST", 415),
        ("application/grpc+json", "POST", 415),
        ("text/html", "GET", 415),
    ],
)
def test_refusal(content_type: str, method: str, refusal: int) -> None:
    head = read((":method", method), (":scheme", "http"), (":path", "/"), ("content-type", content_type))

    assert head.facts.http_refusal == refusal


def test_what_grpc_reads() -> None:
    head = read(
        *REQUEST,
        ("grpc-timeout", "250m"),
        ("grpc-encoding", "gzip"),
        ("grpc-accept-encoding", "identity, gzip"),
        ("content-length", "17"),
        ("x-custom", "v"),
    )

    facts = head.facts
    assert (facts.path, facts.authority) == ("/echo.Echo/Echo", "epp")
    assert (facts.timeout_s, facts.encoding, facts.accepts_gzip, facts.content_length) == (0.25, "gzip", True, 17)
    assert ("x-custom", "v") in head.headers
    assert not any(name.startswith(":") for name, _ in head.headers)


def test_large_header_list_is_431() -> None:
    assert read(*REQUEST, ("x", "y" * 600), limits=Limits(max_header_list_bytes=800)).facts.http_refusal == 431


def test_equal_blocks_share_a_head_while_the_table_stands_still() -> None:
    reader, encoder = HeadReader(Limits()), hpack.Encoder()
    first = reader.request(encoder.encode(REQUEST))
    block = encoder.encode(REQUEST)

    assert reader.request(block) == first
    assert reader.request(block) is reader.request(block)


def test_equal_blocks_mean_other_fields_after_the_table_moved() -> None:
    reader = HeadReader(Limits())
    # ":method POST", ":scheme http", ":path /" from the static table; then entry 62, the newest of the dynamic one.
    block = b"\x83\x86\x84\xbe"
    reader.trailers(b"\x40\x01a\x011")
    assert reader.request(block).headers == (("a", "1"),)
    reader.trailers(b"\x40\x01b\x012")

    assert reader.request(block).headers == (("b", "2"),)


def test_shrinking_the_table_drops_shared_heads() -> None:
    reader, encoder = HeadReader(Limits()), hpack.Encoder()
    reader.request(encoder.encode([*REQUEST, ("a", "1")]))
    block = encoder.encode([*REQUEST, ("a", "1")])
    assert not reader.request(block).facts.malformed
    reader.skip(b"\x20")  # table size 0: the entries that the block refers to are gone

    with pytest.raises(Exception, match="does not decode"):
        reader.request(block)


def test_the_memory_of_heads_is_bounded() -> None:
    reader = HeadReader(Limits(max_cached_heads=4))
    for number in range(50):
        value = b"%03d" % number
        head = reader.request(b"\x83\x86\x84\x00\x01a\x03" + value)

        assert head.headers == (("a", value.decode()),)
    assert len(reader._heads) <= 4
