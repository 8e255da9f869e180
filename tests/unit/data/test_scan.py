"""Finding samples in raw Prometheus text."""

from __future__ import annotations

import pytest

from epp.api.scan import Scanner, distinct, parse_labels


def values(page: bytes) -> list[float] | None:
    """Values of family `f` on the page; an empty list when there are none."""
    samples = Scanner(["f", "g:total"]).scan(page).get("f", [])
    return None if samples is None else [value for _, value, _ in samples]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (b"f 1\n", [1]),
        (b"f 1", [1]),
        (b"f 1\r\n", [1]),
        (b'# TYPE f gauge\r\nf{a="b"} 1\r\n# EOF\r\n', [1]),
        (b"\n\n  f\t 1.5e3 \n", [1500]),
        (b"f{} 1\n", [1]),
        (b'f {a="b"}2\n', [2]),
        (b'f{b="2", a="1",} +1.5 1395066363000\n', [1.5]),
        (b'f{a="x\\"} 9\\n{,=\\\\"} 1\n', [1]),
        (b'f{a="}"} .5\n', [0.5]),
        (b'f 1 # {id="x"} 0.5 1.2\n', [1]),
        (b"f 1e-2 1.5\n", [0.01]),
        (b"f NaN\nf +Inf\nf -inf\nf 2\n", [2]),
        (b"f 1\ng 2\nf 3\n", [1, 3]),
        (b"f_created 1\nf_total 2\nff 3\nf:x 4\nxf 5\n", []),
        (b"# HELP f of f 1\n# f 1\n", []),
        (b"", []),
        (b"\x00\xff\n\xfe", []),
    ],
)
def test_values_are_found(page: bytes, expected: list[float]) -> None:
    assert values(page) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"f",
        b"f ",
        b"f x",
        b"f 1 x",
        b'f{a="b} 1',
        b'f{a="b" 1',
        b"f-1",
        b"f 1_0",
        b"f 0x1",
        b"f 1 2 3",
        b"f 1,5",
        b"f}1",
    ],
)
def test_a_sample_that_cannot_be_read_spoils_its_family_only(line: bytes) -> None:
    found = Scanner(["f", "g"]).scan(b"g 1\nf 5\n" + line + b"\nf 6\ng 2\n")

    assert found["f"] is None
    assert found["g"] == [(b"", 1.0, 0.0), (b"", 2.0, 0.0)]


def test_nothing_is_wanted_of_an_engine_without_families() -> None:
    assert Scanner([]).scan(b"f 1\n 2\n") == {}


@pytest.mark.parametrize(
    ("text", "labels"),
    [
        (b"", {}),
        (b'a="1",b="2"', {"a": "1", "b": "2"}),
        (b' a = "1" , b="2", ', {"a": "1", "b": "2"}),
        (rb'a="x\"y\\z\nw\q"', {"a": 'x"y\\z\nw\\q'}),
        (b'a="\xff\xc3\xa9"', {"a": "\ufffdé"}),
        (b'a="1" b="2"', None),
        (b'a="1",a="2"', None),
        (b"a=1", None),
        (b'1a="1"', None),
        (b',a="1"', None),
    ],
)
def test_labels(text: bytes, labels: dict[str, str] | None) -> None:
    assert parse_labels(text) == labels


def test_series_are_told_apart_by_all_their_labels() -> None:
    assert distinct([(b'a="1"', 1.0, 0.0), (b'a="1",b=""', 2.0, 0.0)]) == [
        ({"a": "1"}, 1.0),
        ({"a": "1", "b": ""}, 2.0),
    ]


def test_series_with_bad_labels_cannot_be_told_apart() -> None:
    assert distinct([(b'a="1"', 1.0, 0.0), (b"a", 2.0, 0.0)]) is None
