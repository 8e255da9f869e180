"""Endpoints files: what is read, what is refused, and what a reload keeps."""

from __future__ import annotations

import json

import pytest

from epp.discovery.endpoint_file import EndpointFileError, keep_what_was, parse_endpoint_file


def entries(*given: object) -> bytes:
    return json.dumps({"endpoints": given}).encode()


def entry(name: str, /, **fields: object) -> dict[str, object]:
    return {"name": name, "address": "10.0.0.1", "port": "8000"} | fields


def names(data: bytes) -> list[str]:
    return [spec.name for spec in parse_endpoint_file(data).specs.values()]


def test_yaml_is_read() -> None:
    data = b"""
    endpoints:
    - name: a
      namespace: ns
      address: 10.0.0.1
      port: "8000"
      labels: {role: decode}
    - {name: b, address: "2001:DB8::1", port: 8001}
    """

    a, b = parse_endpoint_file(data).specs.values()

    assert (a.key, a.address, a.port, a.labels) == (("ns", "a"), "10.0.0.1", 8000, {"role": "decode"})
    assert (b.key, b.address, b.port, b.labels) == (("default", "b"), "2001:db8::1", 8001, {})


@pytest.mark.parametrize("indent", [None, 2, "\t"])
def test_json_is_read(indent: int | str | None) -> None:
    assert names(json.dumps({"endpoints": [entry("a")]}, indent=indent).encode()) == ["a"]


def test_an_empty_pool_is_a_valid_one() -> None:
    assert names(b"endpoints: []") == []


def test_of_two_entries_with_one_name_the_last_counts_and_it_is_reported() -> None:
    file = parse_endpoint_file(entries(entry("a", port=1), entry("a", port=2)))

    assert [spec.port for spec in file.specs.values()] == [2]
    assert "more than once" in str(file.problems[0])
    assert not file.bad_entries


def test_an_unknown_field_is_reported_and_ignored() -> None:
    file = parse_endpoint_file(entries(entry("a", lables={})))

    assert "endpoints[0]: unknown field 'lables' is ignored" in map(str, file.problems)
    assert len(file.specs) == 1


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("text", "expected a mapping"),
        ({"address": "10.0.0.1", "port": 1}, "name:"),
        (entry("a", name=5), "name:"),
        (entry("a", namespace=""), "namespace:"),
        (entry("a", address="somewhere"), "address: expected an IP address, found 'somewhere'"),
        (entry("a", address=167772161), "address:"),
        (entry("a", address=None), "address:"),
        (entry("a", port="http"), "port:"),
        (entry("a", port=0), "port:"),
        (entry("a", port="65536"), "port:"),
        (entry("a", port=True), "port:"),
        (entry("a", port=80.0), "port:"),
        (entry("a", labels=["x"]), "labels:"),
        (entry("a", labels={"gpus": 8}), "labels: expected text (quote numbers), found 'gpus': 8"),
    ],
)
def test_a_bad_entry_is_reported_by_index_and_reason_and_spoils_no_other(bad: object, reason: str) -> None:
    file = parse_endpoint_file(entries(entry("good"), bad))

    [problem] = file.bad_entries
    assert str(problem).startswith("endpoints[1]: ")
    assert reason in str(problem)
    assert [spec.name for spec in file.specs.values()] == ["good"]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"endpoints:",
        b"endpoints: {a: b}",
        b"- a",
        b"text",
        b"endpoints: [",
        b"{",
        b"\x00\xff",
        b"endpoints: 2001-99-99",
        b"[" * 5000,
        b'{"endpoints": [], "x": ' + b"[" * 100_000,
        b"endpoints: []\n#" + b" " * (1024 * 1024),
    ],
)
def test_a_file_that_is_no_endpoints_file_is_refused(data: bytes) -> None:
    with pytest.raises(EndpointFileError):
        parse_endpoint_file(data)


def test_huge_values_make_short_reasons() -> None:
    bomb = b"a: &a [x,x,x,x,x,x,x,x]\n"
    for i in range(8):
        bomb += b"%c: &%c [%b]\n" % (98 + i, 98 + i, b",".join([b"*%c" % (97 + i)] * 8))

    file = parse_endpoint_file(bomb + b"endpoints: [{name: a, address: 10.0.0.1, port: *i, labels: {x: *i}}]\n")

    assert str(file.problems[0]) == "endpoints[0]: port: expected a number in 1..65535, found a list"


def test_a_bad_entry_keeps_its_last_good_state() -> None:
    old = parse_endpoint_file(entries(entry("a", port=1), entry("b", port=1), entry("c", port=1))).specs
    new = parse_endpoint_file(entries(entry("a", port=2), entry("b", port="x")))

    kept = keep_what_was(new, old)

    assert {spec.name: spec.port for spec in kept.values()} == {"a": 2, "b": 1}


def test_a_bad_entry_that_never_was_good_adds_nothing() -> None:
    new = parse_endpoint_file(entries(entry("a"), entry("b", port="x")))

    assert [spec.name for spec in keep_what_was(new, {}).values()] == ["a"]


@pytest.mark.parametrize("bad", [entry("a", name=None), "text", entry("b", namespace=7)])
def test_while_an_entry_has_no_identity_nothing_is_removed(bad: object) -> None:
    old = parse_endpoint_file(entries(entry("a", port=1), entry("b", port=1))).specs
    new = parse_endpoint_file(entries(entry("a", port=2), bad))

    kept = keep_what_was(new, old)

    assert {spec.name: spec.port for spec in kept.values()} == {"a": 2, "b": 1}
