from __future__ import annotations

import pytest

from epp.api import IN_FLIGHT_REQUESTS
from epp_plugins.scorers.active_request_scorer import ActiveRequestScorer
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


@pytest.mark.parametrize(
    ("parameters", "counts", "scores"),
    [
        pytest.param({}, [], [], id="no candidates"),
        pytest.param({}, [0, 0], [1, 1], id="all idle"),
        pytest.param({}, [3], [0], id="the busiest scores 0, even alone"),
        pytest.param({}, [0, 2, 5, 8], [1, 0.75, 0.375, 0], id="linear to the busiest"),
        pytest.param({"idleThreshold": 2}, [0, 2, 4, 8], [1, 1, 0.5, 0], id="idle up to the threshold"),
        pytest.param({"maxBusyScore": 0.5}, [0, 2, 8], [1, 0.375, 0], id="busy endpoints stay below idle ones"),
        pytest.param({"requestTimeout": "2m"}, [1, 2], [0.5, 0], id="an old parameter changes nothing"),
        pytest.param({}, [5e-324, 5e-324], [1, 1], id="less than one request is none, though a float can hold it"),
    ],
)
def test_fewer_requests_in_flight_score_higher(
    parameters: dict[str, object], counts: list[float], scores: list[float]
) -> None:
    fleet = make_fleet(len(counts), **{IN_FLIGHT_REQUESTS: counts})
    scorer = make_plugin(ActiveRequestScorer, fleet, **parameters)

    assert scorer.score(make_request(), fleet.candidates()).tolist() == scores
