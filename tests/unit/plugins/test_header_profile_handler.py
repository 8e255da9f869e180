from __future__ import annotations

import pytest

from epp.api import ConfigError, RequestError
from epp_plugins.handlers.header_profile_handler import HeaderProfileHandler
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request, picked


@pytest.mark.parametrize(
    ("headers", "profile"),
    [({}, "decode"), ({"epp-profile": ""}, "decode"), ({"epp-profile": "prefill"}, "prefill")],
)
def test_the_header_names_the_profile(headers: dict[str, str], profile: str) -> None:
    handler = make_plugin(HeaderProfileHandler)
    handler.check_profiles(("prefill", "decode"))

    assert list(handler.pick_profiles(make_request(headers=headers), {})) == [profile]
    assert list(handler.pick_profiles(make_request(headers=headers), {profile: None})) == []


def test_a_name_that_no_profile_has_is_the_clients_mistake() -> None:
    handler = make_plugin(HeaderProfileHandler, headerName="X-Phase")
    handler.check_profiles(("prefill", "decode"))

    with pytest.raises(RequestError) as raised:
        handler.pick_profiles(make_request(headers={"x-phase": "dance"}), {})

    assert raised.value.http_status == 400


def test_the_only_profile_runs_whatever_the_header_says() -> None:
    handler = make_plugin(HeaderProfileHandler)
    handler.check_profiles(("mine",))

    assert list(handler.pick_profiles(make_request(headers={"epp-profile": "other"}), {})) == ["mine"]


def test_a_default_that_is_no_profile_is_refused() -> None:
    with pytest.raises(ConfigError, match='defaultProfile: no scheduling profile is named "decode"; there are a, b'):
        make_plugin(HeaderProfileHandler).check_profiles(("a", "b"))


def test_its_result_is_the_destination() -> None:
    fleet = make_fleet(2)

    assert make_plugin(HeaderProfileHandler).process_results(make_request(), picked(fleet, 1).profiles).target.row == 1
