"""Endpoints on the command line."""

from __future__ import annotations

import pytest

from epp.api import ConfigError
from epp.discovery.static import parse_endpoints


def found(*values: str) -> list[tuple[str, str, int]]:
    return [(spec.name, spec.address, spec.port) for spec in parse_endpoints(values)]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("10.0.0.1:8000", ("10.0.0.1:8000", "10.0.0.1", 8000)),
        ("a=10.0.0.1:8000", ("a", "10.0.0.1", 8000)),
        ("[::1]:8000", ("[::1]:8000", "::1", 8000)),
        ("v6=[2001:0DB8:0:0::1]:65535", ("v6", "2001:db8::1", 65535)),
        (" a = 10.0.0.1:8000 ", ("a", "10.0.0.1", 8000)),
    ],
)
def test_an_endpoint(value: str, expected: tuple[str, str, int]) -> None:
    assert found(value) == [expected]


def test_several_endpoints_in_one_value_and_in_several() -> None:
    assert [name for name, _, _ in found("a=10.0.0.1:1, b=10.0.0.2:2,", "c=10.0.0.3:3")] == ["a", "b", "c"]


def test_localhost_is_looked_up() -> None:
    [(_, address, port)] = found("localhost:80")

    assert address in ("127.0.0.1", "::1")
    assert port == 80


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("10.0.0.1", "no port"),
        (":8000", "no port"),
        ("=10.0.0.1:1", "the name is empty"),
        ("10.0.0.1:", "not in 1..65535"),
        ("10.0.0.1:0", "not in 1..65535"),
        ("10.0.0.1:65536", "not in 1..65535"),
        ("10.0.0.1:http", "not in 1..65535"),
        ("vllm-0:8000", "neither an IP address nor localhost"),
        ("::1:8000", "in brackets"),
        ("[10.0.0.1]:8000", "only IPv6"),
        ("http://10.0.0.1:8000", "neither an IP address"),
        ("a=10.0.0.1:1,a=10.0.0.2:1", "already"),
        ("a=10.0.0.1:1,b=10.0.0.1:1", "at this address already"),
        ("10.0.0.1:1,10.0.0.1:1", "already"),
    ],
)
def test_a_bad_value_is_refused_with_the_reason(value: str, problem: str) -> None:
    with pytest.raises(ConfigError, match="--endpoint") as caught:
        found(value)

    assert problem in str(caught.value)
