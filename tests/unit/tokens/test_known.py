from __future__ import annotations

from epp.api import Prompt
from epp_plugins.tokens.known import Known, KnownTokens, key_of


def known(size: int) -> Known:
    return Known((Prompt(b"\0" * size, tokenized=True),))


def text(data: str, *, cut: int = 0) -> Prompt:
    return Prompt(data.encode(), size_bytes=len(data) + cut if cut else 0)


def test_the_least_recently_used_goes_first_and_memory_is_bounded() -> None:
    table = KnownTokens(capacity_bytes=3 * 1256)
    for key in (b"a", b"b", b"c"):
        table.put(key, known(1000))
    table.get(b"a")
    table.put(b"d", known(1000))

    assert [table.get(k) is not None for k in (b"a", b"b", b"c", b"d")] == [True, False, True, True]
    assert table.size_bytes == 3 * 1256


def test_what_is_larger_than_all_there_is_room_for_is_not_kept() -> None:
    table = KnownTokens(capacity_bytes=1000)
    table.put(b"a", known(100))
    table.put(b"b", known(5000))

    assert (len(table), table.get(b"b")) == (1, None)


def test_keys_differ_by_kind_text_number_of_prompts_and_what_else_tells_them_apart() -> None:
    keys = [
        key_of("chat", [text("ab")]),
        key_of("completions", [text("ab")]),
        key_of("chat", [text("a"), text("b")]),
        key_of("chat", [text("ab")], apart=b"x"),
    ]

    assert len(set(keys)) == 4
    assert key_of("chat", [text("ab")]) == keys[0]


def test_a_text_of_which_only_the_beginning_is_kept_has_no_key() -> None:
    assert key_of("chat", [text("ab", cut=5)]) == b""
