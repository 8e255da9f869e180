from __future__ import annotations

import pytest

from epp.api import ConfigError
from epp_plugins.scorers.context_length_aware import ContextLengthAware
from tests.support.plugins import label_fleet, make_plugin
from tests.support.scheduling import make_request

LABEL = "llm-d.ai/context-length-range"


@pytest.mark.parametrize(
    ("range_", "tokens", "score"),
    [
        # 0.3 + 0.7 * (0.7 / (1 + 10000 / 10000) + 0.3 * 5000 / 10000)
        ("0-10000", 5000, 0.3 + 0.7 * (0.35 + 0.15)),
        ("0-10000", 0, 0.3 + 0.7 * (0.35 + 0.3)),
        ("0-10000", 10000, 0.3 + 0.7 * 0.35),
        ("100-100", 100, 1.0),
        ("0-1000", 2000, 0.3 / 2),
        ("3000-4000", 2000, 0.3 / 2),
        (" 0 - 1000 ", 1001, 0.3 / 1.001),
        (None, 5, 0.5),
        ("", 5, 0),
        ("10", 5, 0),
        ("9-3", 5, 0),
        ("-1-10", 5, 0),
        ("0-many", 5, 0),
    ],
)
def test_the_range_is_scored_by_how_well_it_fits(range_: str | None, tokens: int, score: float) -> None:
    fleet = label_fleet({} if range_ is None else {LABEL: range_})
    plugin = make_plugin(ContextLengthAware, fleet)

    assert list(plugin.score(make_request(b"x" * 4 * tokens), fleet.candidates())) == pytest.approx([score])


@pytest.mark.parametrize(("filtering", "kept"), [(True, [True, False, True, False]), (False, [True, True, True, True])])
def test_filtering_keeps_what_fits_and_what_has_no_range(filtering: bool, kept: list[bool]) -> None:
    fleet = label_fleet({"len": "0-100"}, {"len": "101-200"}, {}, {"len": "bad"})
    plugin = make_plugin(ContextLengthAware, fleet, label="len", enableFiltering=filtering)

    assert plugin.keep(make_request(b"x" * 400), fleet.candidates()) == kept


def test_the_label_must_have_a_name() -> None:
    with pytest.raises(ConfigError, match="label: must name a label"):
        make_plugin(ContextLengthAware, label="")
