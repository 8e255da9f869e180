from __future__ import annotations

import pytest

from epp.api import ConfigError, RequestError
from epp_plugins.handlers.slo_aware_profile_handler import SloAwareProfileHandler
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request, picked

BY = "x-prediction-based-scheduling"
OFF = "x-prediction-based-scheduling-off"


def handler(*names: str) -> SloAwareProfileHandler:
    made = make_plugin(SloAwareProfileHandler)
    made.check_profiles(names)
    return made


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "default"),
        ({BY: "true"}, "slo"),
        ({BY: "1"}, "slo"),
        ({BY: "false"}, "default"),
        ({BY: "true", OFF: "true"}, "default"),
        ({BY: "true", OFF: "false"}, "slo"),
        ({"x-slo-ttft-ms": "100"}, "default"),
    ],
)
def test_the_header_chooses_the_profile(given: dict[str, str], expected: str) -> None:
    assert list(handler("default", "slo").pick_profiles(make_request(headers=given), {})) == [expected]


def test_it_runs_once_and_its_result_is_the_destination() -> None:
    both, result = handler("default", "slo"), picked(make_fleet(2), 1)

    assert list(both.pick_profiles(make_request(), result.profiles)) == []
    assert both.process_results(make_request(), result.profiles).target is result.target


@pytest.mark.parametrize("header", [BY, OFF])
def test_a_switch_that_is_none_is_a_bad_request(header: str) -> None:
    with pytest.raises(RequestError, match=f"header {header} must be true or false") as raised:
        handler("default", "slo").pick_profiles(make_request(headers={BY: "true", header: "yes please"}), {})

    assert raised.value.http_status == 400


def test_the_only_profile_runs_for_all() -> None:
    assert list(handler("slo").pick_profiles(make_request(), {})) == ["slo"]


@pytest.mark.parametrize("names", [("default", "other"), ("default", "slo", "third"), ()])
def test_other_profiles_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match='works with profiles "default" and "slo"; there are'):
        handler(*names)
