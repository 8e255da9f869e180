from __future__ import annotations

import msgspec
import pytest

from epp.api import ConfigError
from epp_plugins.filters.by_label_selector import ByLabelSelector
from epp_plugins.filters.label_selector_filter import LabelSelectorFilter
from tests.support.plugins import label_fleet, make_plugin
from tests.support.scheduling import make_request

LABELS = ({"gpu": "h100", "zone": "a"}, {"gpu": "a100", "zone": "a"}, {"zone": "b"})


@pytest.mark.parametrize(
    ("selector", "kept"),
    [
        pytest.param({}, [True, True, True], id="empty matches all"),
        pytest.param({"matchLabels": {"gpu": "h100"}}, [True, False, False], id="label"),
        pytest.param({"matchLabels": {"gpu": "a100", "zone": "a"}}, [False, True, False], id="all labels"),
        pytest.param(
            {"matchExpressions": [{"key": "gpu", "operator": "In", "values": ["h100", "a100"]}]},
            [True, True, False],
            id="In",
        ),
        pytest.param(
            {"matchExpressions": [{"key": "gpu", "operator": "NotIn", "values": ["h100"]}]},
            [False, True, True],
            id="NotIn matches without the label",
        ),
        pytest.param({"matchExpressions": [{"key": "gpu", "operator": "Exists"}]}, [True, True, False], id="Exists"),
        pytest.param(
            {"matchExpressions": [{"key": "gpu", "operator": "DoesNotExist"}]}, [False, False, True], id="DoesNotExist"
        ),
        pytest.param(
            {
                "matchLabels": {"zone": "a"},
                "matchExpressions": [{"key": "gpu", "operator": "NotIn", "values": ["a100"]}],
            },
            [True, False, False],
            id="both parts must match",
        ),
    ],
)
def test_selector_matches_as_in_kubernetes(selector: dict[str, object], kept: list[bool]) -> None:
    fleet = label_fleet(*LABELS)

    assert make_plugin(LabelSelectorFilter, fleet, **selector).keep(make_request(), fleet.candidates()) == kept


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ({"key": "gpu", "operator": "In"}, "operator In needs values"),
        ({"key": "gpu", "operator": "Exists", "values": ["x"]}, "operator Exists takes no values"),
    ],
)
def test_values_must_suit_the_operator(expression: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        make_plugin(LabelSelectorFilter, matchExpressions=[expression])


def test_an_unknown_operator_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="operator"):
        make_plugin(LabelSelectorFilter, matchExpressions=[{"key": "gpu", "operator": "Near"}])


def test_the_old_type_name_still_works_and_warns(caplog: pytest.LogCaptureFixture) -> None:
    fleet = label_fleet(*LABELS)
    plugin = make_plugin(ByLabelSelector, fleet, matchLabels={"zone": "b"})

    assert plugin.keep(make_request(), fleet.candidates()) == [False, False, True]
    assert "use label-selector-filter" in caplog.text
