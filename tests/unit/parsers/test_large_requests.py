"""A large request is in memory once as it came, and once as its texts or as what replaces it: never three times."""

import json
from collections.abc import Callable

import pytest

from epp_plugins.parsers.json_model import replace_model
from epp_plugins.parsers.openai_parser import read_chat
from epp_plugins.parsers.prompts import KEPT_BYTES
from tests.support.memory import traced_peak_bytes

TEXT = "hello world, " * 5_000
BODY = json.dumps({"model": "m", "messages": [{"role": "user", "content": TEXT}] * 300}).encode()
assert len(BODY) > 4 * KEPT_BYTES


def rename(body: bytes) -> bytes:
    return replace_model(body, "other")


@pytest.mark.parametrize("act", [read_chat, rename], ids=["read", "rename"])
def test_what_a_body_takes_besides_itself_is_as_much_again(act: Callable[[bytes], object]) -> None:
    peak = traced_peak_bytes(lambda: act(BODY))

    # Of the texts that are compared, KEPT_BYTES are there twice: as pieces and joined.
    assert peak < len(BODY) + 2.5 * KEPT_BYTES


def test_texts_beyond_what_is_kept_count_by_their_length() -> None:
    message = {"role": "user", "content": "naïve " * 200_000}
    body = json.dumps({"model": "m", "messages": [message] * 5}, ensure_ascii=False).encode()
    one = "naïve ".encode() * 200_000

    [prompt] = read_chat(body).prompts

    assert prompt.size_bytes == 5 * len(b"\xffuser\xfe" + one)
    assert prompt.data == (5 * (b"\xffuser\xfe" + one))[:KEPT_BYTES]
