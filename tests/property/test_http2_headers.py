"""The header decoder beside `hpack.Decoder`: same fields, same table, same refusals."""

import hpack
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.http2 import ConnectionFailure
from epp.http2.headers import Field, HeaderDecoder

LIST_BYTES = 4096
names = st.one_of(st.sampled_from([b":path", b"te", b"x-a", b"x-b"]), st.binary(max_size=20))
fields = st.tuples(names, st.one_of(st.sampled_from([b"1", b"trailers"]), st.binary(max_size=80)), st.booleans())
encoded = st.tuples(st.lists(fields, max_size=12), st.booleans(), st.sampled_from([None, None, 0, 60, 4096]))


def reference(decoder: hpack.Decoder, block: bytes) -> list[Field] | None:
    try:
        return [(bytes(name), bytes(value)) for name, value in decoder.decode(block, raw=True)]
    except hpack.HPACKError:
        return None


def ours(decoder: HeaderDecoder, block: bytes) -> list[Field] | None:
    try:
        return decoder.decode(block)
    except ConnectionFailure:
        return None


def table(decoder: HeaderDecoder) -> list[Field]:
    return list(decoder.table.dynamic_entries)


@given(blocks=st.lists(encoded, max_size=12))
@settings(max_examples=100)
def test_encoded_lists_decode_to_what_hpack_decodes(
    blocks: list[tuple[list[tuple[bytes, bytes, bool]], bool, int]],
) -> None:
    encoder, theirs, mine = hpack.Encoder(), hpack.Decoder(LIST_BYTES), HeaderDecoder(LIST_BYTES)
    for header_list, huffman, table_size in blocks:
        if table_size is not None:
            encoder.header_table_size = table_size
        block = encoder.encode(header_list, huffman=huffman)
        before = table(mine)

        expected = reference(theirs, block)

        assert ours(mine, block) == expected
        assert table(mine) == list(theirs.header_table.dynamic_entries)
        assert mine.touched_table or table(mine) == before
        if expected is not None:
            assert mine.list_bytes == sum(len(name) + len(value) + 32 for name, value in expected)


@given(blocks=st.lists(st.binary(max_size=60), min_size=1, max_size=6))
@settings(max_examples=300)
def test_any_bytes_decode_or_fail_as_hpack_does(blocks: list[bytes]) -> None:
    theirs, mine = hpack.Decoder(LIST_BYTES), HeaderDecoder(LIST_BYTES)
    for block in blocks:
        expected = reference(theirs, block)

        assert ours(mine, block) == expected
        if expected is None:
            return
        assert table(mine) == list(theirs.header_table.dynamic_entries)
