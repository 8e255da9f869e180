"""Any bytes as header blocks: our decoder and the `hpack` library agree, and a request's head is read or refused in time.

An input is a row of blocks for one connection, each preceded by its length in two bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import hpack

from epp.http2.errors import ConnectionFailure
from epp.http2.headers import FIELD_OVERHEAD_BYTES, Field, HeaderDecoder
from epp.http2.limits import Limits
from epp.http2.requests import HeadReader

LIMITS = Limits(max_header_list_bytes=4000, max_cached_heads=3)
MAX_LIST_BYTES = 2 * LIMITS.max_header_list_bytes


def blocks_of(data: bytes) -> Iterator[bytes]:
    while len(data) >= 2:
        length = int.from_bytes(data[:2], "big")
        yield data[2 : 2 + length]
        data = data[2 + length :]


def reference(decoder: hpack.Decoder, block: bytes) -> list[Field] | None:
    """What `hpack` reads; None where it finds an error."""
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return None


def compare(data: bytes) -> None:
    ours = HeaderDecoder(MAX_LIST_BYTES)
    theirs = hpack.Decoder(max_header_list_size=MAX_LIST_BYTES)
    theirs.max_allowed_table_size = 4096
    for block in blocks_of(data):
        expected = reference(theirs, block)
        try:
            found = ours.decode(block)
        except ConnectionFailure:
            assert expected is None, (block, expected)
            return
        assert found == expected, (block, found, expected)
        size = sum(len(name) + len(value) + FIELD_OVERHEAD_BYTES for name, value in found)
        assert ours.list_bytes == size <= MAX_LIST_BYTES


def read_heads(data: bytes) -> None:
    reader, again = HeadReader(LIMITS), HeadReader(LIMITS)
    try:
        for number, block in enumerate(blocks_of(data)):
            if number % 5 == 3:
                reader.skip(block)
                again.skip(block)
            elif number % 5 == 4:
                assert reader.trailers(block) == again.trailers(block)
            else:
                head = reader.request(block)
                assert head == again.request(block)
                assert head.facts.malformed or head.facts.http_refusal or head.facts.path.startswith(("/", "*"))
    except ConnectionFailure:
        return


def target() -> Callable[[bytes], None]:
    """The function that takes inputs."""
    return one_input


def one_input(data: bytes) -> None:
    compare(data)
    read_heads(data)
