from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp.state.file import Header, StateFileError, Writer, read

HEADER = Header("it", "some-type", 3, "2026-01-01T00:00:00+00:00", "0.1.0")


def written(*pieces: bytes) -> bytes:
    writer = Writer()
    return b"".join([writer.begin(HEADER), *map(writer.add, pieces), writer.end()])


@given(st.lists(st.binary(max_size=50), max_size=5))
def test_what_was_written_is_read(pieces: list[bytes]) -> None:
    header, state = read(written(*pieces))

    assert (header, bytes(state)) == (HEADER, b"".join(pieces))


@given(st.binary(max_size=30), st.data())
def test_no_changed_or_missing_byte_goes_unseen(state: bytes, data: st.DataObject) -> None:
    whole = written(state)
    at = data.draw(st.integers(0, len(whole) - 1))
    changed = bytes([whole[at] ^ data.draw(st.integers(1, 255))])

    for wrong in (whole[:at], whole[:at] + changed + whole[at + 1 :], whole + changed):
        with pytest.raises(StateFileError):
            read(wrong)


@given(st.binary(max_size=200))
def test_anything_else_is_refused_in_words(data: bytes) -> None:
    with pytest.raises(StateFileError, match="is "):
        read(data)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is no state file"),
        (b"PK\x03\x04 something else\n", "is no state file"),
        (b"llm-epp state 2\n{}\n", "is of format 2; this version reads formats up to 1"),
        (b"llm-epp state x\n", "its format has no number"),
        (written(b"abc")[:-1], "it has not the"),
        (written(b"abc").replace(b"abc", b"abd"), "its checksum does not match"),
    ],
)
def test_the_reason_is_named(data: bytes, why: str) -> None:
    with pytest.raises(StateFileError, match=why):
        read(data)
