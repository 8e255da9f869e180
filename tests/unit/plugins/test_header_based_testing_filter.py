from __future__ import annotations

import pytest

from epp.api import Endpoint, Fleet
from epp_plugins.filters.header_based_testing_filter import HeaderBasedTestingFilter
from tests.support.plugins import make_plugin
from tests.support.scheduling import make_request

ADDRESSES = [("10.0.0.1", 8000), ("10.0.0.1", 8001), ("10.0.0.2", 8000), ("2001:db8::1", 8000), ("2001:db8::1", 8001)]


@pytest.mark.parametrize(
    ("header", "kept"),
    [
        pytest.param("10.0.0.2", {2}, id="ip"),
        pytest.param("10.0.0.1", {0, 1}, id="a bare ip keeps every port"),
        pytest.param("10.0.0.1:8001", {1}, id="ip and port"),
        pytest.param(" 10.0.0.2 , 10.0.0.1:8000,10.0.0.2", {0, 2}, id="list with spaces and repetition"),
        pytest.param("2001:db8::1", {3, 4}, id="ipv6"),
        pytest.param("[2001:db8::1]", {3, 4}, id="ipv6 in brackets"),
        pytest.param("[2001:db8::1]:8001", {4}, id="ipv6 in brackets and port"),
        pytest.param("2001:db8::1:8001", {4}, id="ipv6 and port without brackets"),
        pytest.param("2001:0DB8:0:0::1", {3, 4}, id="another spelling of the same address"),
        pytest.param("10.0.0.1:9", set(), id="unknown port"),
        pytest.param("10.0.0.9,,nonsense,:8000,10.0.0.1:http", set(), id="nothing that is there"),
        pytest.param("", set(), id="blank"),
        pytest.param(None, set(), id="missing"),
    ],
)
def test_listed_endpoints_stay(header: str | None, kept: set[int]) -> None:
    fleet = Fleet()
    for i, (address, port) in enumerate(ADDRESSES):
        fleet.add(Endpoint(f"s{i}", address, port))
    request = make_request(headers={} if header is None else {"test-epp-endpoint-selection": header})

    answers = make_plugin(HeaderBasedTestingFilter, fleet).keep(request, fleet.candidates())

    assert {i for i, answer in enumerate(answers) if answer} == kept
