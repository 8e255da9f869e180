from __future__ import annotations

import pytest

from epp.api import ConfigError
from epp_plugins.filters.by_label import ByLabel
from tests.support.plugins import label_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(("without_label", "kept"), [(False, [True, False, False]), (True, [True, False, True])])
def test_one_of_the_values_stays_and_a_missing_label_if_allowed(without_label: bool, kept: list[bool]) -> None:
    fleet = label_fleet({"gpu": "h100"}, {"gpu": "a100"}, {})
    plugin = make_plugin(ByLabel, fleet, label="gpu", validValues=["h100", "h200"], allowsNoLabel=without_label)

    assert plugin.keep(make_request(), fleet.candidates()) == kept


@pytest.mark.parametrize("parameters", [{"label": "", "validValues": ["x"]}, {"label": "gpu"}])
def test_parameters_with_which_nothing_can_match_are_refused(parameters: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        make_plugin(ByLabel, **parameters)
