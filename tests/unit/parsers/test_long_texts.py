"""Texts that no prompt has room for are cut before they are decoded, and nothing else changes."""

from __future__ import annotations

import json
from collections.abc import Sequence

import msgspec
import pytest

from epp.api import Code, RequestError
from epp_plugins.parsers.long_texts import LONG_BODY_BYTES, cut, is_long
from epp_plugins.parsers.openai_parser import read_chat
from epp_plugins.parsers.prompts import KEPT_BYTES
from epp_plugins.parsers.sglanghttp_parser import SglangHttpParser
from tests.support.memory import traced_peak_bytes
from tests.support.parsing import parse

LINES = 'a line of words and a quote " and a \\.\n'
WIDE = "ein Wörtchen, 漢字, and 😀 after that. "
PLAIN = "plain words and nothing else. "


def chat(*texts: str, ascii_only: bool = True) -> bytes:
    messages = [{"role": "user", "content": text} for text in texts]
    return json.dumps({"model": "m", "messages": messages, "stream": True}, ensure_ascii=ascii_only).encode()


def beginnings(short: bytes, texts: Sequence[str]) -> list[str]:
    """What `short` has kept of `texts`."""
    kept = [message["content"] for message in msgspec.json.decode(short)["messages"]]
    assert all(whole.startswith(beginning) for whole, beginning in zip(texts, kept, strict=True))
    return kept


def of_bytes(text: str, size: int) -> str:
    return text * (size // len(text.encode()) + 1)


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("text", [LINES, WIDE])
def test_what_remains_is_the_beginning_of_each_text(text: str, ascii_only: bool) -> None:
    texts = [of_bytes(text, size) for size in (100, 3 * KEPT_BYTES, KEPT_BYTES, 50, 20_000)]
    body = chat(*texts, ascii_only=ascii_only)

    short, left_out = cut(body)

    kept = beginnings(short, texts)
    assert kept[0] == texts[0]
    assert kept[3] == texts[3]
    assert min(map(len, kept[1:3])) > 100
    assert len(short) < LONG_BODY_BYTES + 20_000
    missing = sum(len(whole.encode()) - len(beginning.encode()) for whole, beginning in zip(texts, kept, strict=True))
    assert left_out == pytest.approx(missing, rel=0.1)


@pytest.mark.parametrize(
    "body", [chat(of_bytes(LINES, LONG_BODY_BYTES // 2)), chat(of_bytes(PLAIN, 3 * LONG_BODY_BYTES))]
)
def test_bodies_that_take_no_more_memory_than_their_bytes_stay_as_they_are(body: bytes) -> None:
    assert not is_long(body)
    assert cut(body) == (body, 0)


@pytest.mark.parametrize("backslashes", range(1, 12))
def test_quotes_behind_backslashes_end_a_text_or_do_not(backslashes: int) -> None:
    slashes = "\\" * backslashes
    text = of_bytes(f'some words{slashes}" and more ', LONG_BODY_BYTES)
    for texts in ((text, "no"), ("no", text), (text + slashes, text)):
        body = chat(*texts)

        short, left_out = cut(body)

        beginnings(short, texts)
        assert (left_out > 0) == (len(short) < len(body))
        assert left_out or backslashes > 3  # more than seven in JSON: it is left as it is


def test_long_texts_of_plain_characters_stay_whole_beside_others() -> None:
    image = "data:image/png;base64," + "QUJD" * KEPT_BYTES
    short, _ = cut(chat(of_bytes(LINES, 2 * LONG_BODY_BYTES), image))

    assert json.loads(short)["messages"][1]["content"] == image


@pytest.mark.parametrize("data", ["QUJD" * 3 * KEPT_BYTES, "QUJ/" * 3 * KEPT_BYTES], ids=["plain", "escaped"])
def test_an_image_takes_no_room_from_the_texts_behind_it(data: str) -> None:
    body = chat(f"data:image/png;base64,{data}", of_bytes(LINES, 100_000)).replace(b"/", rb"\/")
    assert is_long(body)

    assert cut(body) == (body, 0)


def test_a_text_without_a_place_to_cut_stays_whole() -> None:
    body = chat("\n" * LONG_BODY_BYTES)

    assert cut(body) == (body, 0)


@pytest.mark.parametrize("text", [LINES, WIDE])
def test_a_prompt_begins_alike_and_counts_by_all_of_its_bytes(text: str) -> None:
    long = of_bytes(text, 5 * KEPT_BYTES)

    [prompt] = read_chat(chat(long)).prompts
    [shorter] = read_chat(chat(long[: KEPT_BYTES // 2])).prompts

    assert prompt.data[: len(shorter.data)] == shorter.data
    assert prompt.size_bytes == pytest.approx(len(long.encode()), rel=0.1)


def test_other_apis_count_alike() -> None:
    long = of_bytes(LINES, 5 * KEPT_BYTES)

    payload = parse(SglangHttpParser, "/generate", json.dumps({"text": long}).encode())

    assert payload.prompt_tokens == pytest.approx(len(long) / 4, rel=0.1)


def test_a_long_body_that_is_broken_behind_what_is_kept_is_refused() -> None:
    body = chat(of_bytes(LINES, 5 * KEPT_BYTES))[:-1]

    with pytest.raises(RequestError) as caught:
        read_chat(body)

    assert caught.value.code is Code.BAD_REQUEST


@pytest.mark.parametrize("ascii_only", [True, False])
@pytest.mark.parametrize("text", [LINES, WIDE])
def test_texts_take_a_few_megabytes_however_long(text: str, ascii_only: bool) -> None:
    body = chat(of_bytes(text, 24 * KEPT_BYTES), ascii_only=ascii_only)

    assert traced_peak_bytes(lambda: read_chat(body)) < len(body)


def test_valid_json_remains_valid_wherever_it_is_cut() -> None:
    for shift in range(20):
        text = "x" * shift + of_bytes(WIDE + LINES, LONG_BODY_BYTES)
        for ascii_only in (True, False):
            short, left_out = cut(chat(text, ascii_only=ascii_only))
            assert left_out
            beginnings(short, [text])
