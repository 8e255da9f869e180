from __future__ import annotations

import pytest

from epp.api import ConfigError
from epp_plugins.scorers.header_label_affinity_scorer import HeaderLabelAffinityScorer
from tests.support.plugins import label_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(
    ("headers", "scores"),
    [({"x-slice": "a"}, [1, 0, 0]), ({"x-slice": "c"}, [0, 0, 0]), ({"x-slice": ""}, [0, 0, 0]), ({}, [0, 0, 0])],
)
def test_endpoints_with_the_headers_value_are_best(headers: dict[str, str], scores: list[float]) -> None:
    fleet = label_fleet({"slice": "a"}, {"slice": "b"}, {})
    plugin = make_plugin(HeaderLabelAffinityScorer, fleet, headerName="X-Slice", labelKey="slice")

    assert list(plugin.score(make_request(headers=headers), fleet.candidates())) == scores


@pytest.mark.parametrize(("header", "label"), [("", "a"), ("a", "")])
def test_both_must_be_named(header: str, label: str) -> None:
    with pytest.raises(ConfigError, match="must name a"):
        make_plugin(HeaderLabelAffinityScorer, headerName=header, labelKey=label)
