from __future__ import annotations

import pytest

from epp.api import ConfigError
from epp_plugins.handlers.single_profile_handler import SingleProfileHandler
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request, picked


@pytest.mark.parametrize("names", [[], ["a", "b"]])
def test_anything_but_one_profile_is_refused(names: list[str]) -> None:
    with pytest.raises(ConfigError, match="exactly one"):
        make_plugin(SingleProfileHandler).check_profiles(names)


def test_the_profile_runs_once() -> None:
    handler = make_plugin(SingleProfileHandler)
    handler.check_profiles(["mine"])

    assert list(handler.pick_profiles(make_request(), {})) == ["mine"]
    assert list(handler.pick_profiles(make_request(), {"mine": None})) == []


def test_its_result_is_the_destination() -> None:
    fleet = make_fleet(2)
    results = picked(fleet, 1).profiles

    assert make_plugin(SingleProfileHandler).process_results(make_request(), results).target.row == 1
