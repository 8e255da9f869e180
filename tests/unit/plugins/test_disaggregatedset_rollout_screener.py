from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from epp.api import ConfigError, Fleet
from epp_plugins.screeners.disaggregatedset_rollout_screener import DisaggregatedsetRolloutScreener
from tests.support.plugins import label_fleet, make_plugin
from tests.support.scheduling import ended, make_request, picked

REVISION, ROLE = "disaggregatedset.x-k8s.io/revision", "disaggregatedset.x-k8s.io/role"
STRICT = {"name": "revision", "headerName": "X-Revision", "labelKey": REVISION, "mode": "strict"}
PREFER = {"name": "slice", "headerName": "x-slice", "labelKey": "slice", "mode": "prefer"}


def member(revision: str, role: str, **labels: str) -> dict[str, str]:
    return {"set": "mine", REVISION: revision, ROLE: role, **labels}


def make_screener(fleet: Fleet, mode: str = "sum", **parameters: Any) -> DisaggregatedsetRolloutScreener:
    gating: dict[str, Any] = {"mode": mode}
    if mode != "disabled":
        gating["requireRoles"] = {"values": ["prefill", "decode"]}
    given = {"scope": {"labelSelector": "set=mine"}, "revisionGating": gating, "headerSelectors": [STRICT, PREFER]}
    return make_plugin(DisaggregatedsetRolloutScreener, fleet, **given | parameters)


def shares(mode: str, fleet: Fleet, times: int = 2000) -> dict[str, float]:
    """How often each revision was drawn; checks that nothing of another one stayed."""
    screener, drawn = make_screener(fleet, mode), Counter[str]()
    for _ in range(times):
        kept = {
            e.labels[REVISION] for e in fleet.candidates().keep(screener.screen(make_request(), fleet.candidates()))
        }
        assert len(kept) == 1
        drawn[kept.pop()] += 1
    return {revision: count / times for revision, count in drawn.items()}


def rollout(a: tuple[int, int], b: tuple[int, int]) -> Fleet:
    """Revisions a and b with so many prefill and decode endpoints."""
    labels = []
    for revision, (prefill, decode) in {"a": a, "b": b}.items():
        labels += [member(revision, "prefill")] * prefill + [member(revision, "decode")] * decode
    return label_fleet(*labels)


@pytest.mark.parametrize(
    ("mode", "share"),
    # 2P:9D and 1P:1D. sum: 11 of 13. max-role: decode has the most, 9 of 10.
    [("sum", 11 / 13), ("max-role", 0.9)],
)
def test_revisions_get_requests_by_their_endpoints(mode: str, share: float) -> None:
    assert shares(mode, rollout((2, 9), (1, 1)))["a"] == pytest.approx(share, abs=0.035)


def test_of_equal_roles_the_first_decides() -> None:
    # Both roles have 4; prefill, named first, stands 3 to 1.
    assert shares("max-role", rollout((3, 1), (1, 3)))["a"] == pytest.approx(0.75, abs=0.04)


def test_a_revision_without_all_roles_gets_nothing() -> None:
    assert shares("sum", rollout((2, 2), (0, 9)), times=50) == {"a": 1.0}


def test_without_a_whole_revision_only_what_is_out_of_scope_stays() -> None:
    fleet = label_fleet(member("a", "prefill"), member("b", "decode"), {"set": "other"}, {})

    assert make_screener(fleet).screen(make_request(), fleet.candidates()) == [False, False, True, True]


def test_roles_outside_the_candidates_count() -> None:
    fleet = rollout((1, 1), (0, 0))
    decode_only = fleet.candidates().keep([False, True])

    assert make_screener(fleet).screen(make_request(), decode_only) == [True]


@pytest.mark.parametrize("mode", ["sum", "max-role", "disabled"])
def test_a_strict_header_chooses_the_revision(mode: str) -> None:
    fleet = rollout((1, 1), (1, 1))
    screener = make_screener(fleet, mode)

    # Several times, for nothing is left to chance.
    for revision, kept in [("b", [False, False, True, True]), ("gone", [False] * 4)] * 10:
        request = make_request(headers={"x-revision": revision})
        assert screener.screen(request, fleet.candidates()) == kept


def test_a_strict_header_for_an_incomplete_revision_leaves_nobody() -> None:
    fleet = rollout((1, 1), (0, 1))
    request = make_request(headers={"x-revision": "b"})

    assert not any(make_screener(fleet).screen(request, fleet.candidates()))
    assert make_screener(fleet, "disabled").screen(request, fleet.candidates()) == [False, False, True]


def test_disabled_without_a_header_keeps_all_and_prefer_never_removes() -> None:
    fleet = rollout((1, 1), (0, 1))
    screener = make_screener(fleet, "disabled")

    assert screener.screen(make_request(), fleet.candidates()) == [True] * 3
    assert screener.screen(make_request(headers={"x-slice": "7"}), fleet.candidates()) == [True] * 3


def test_the_response_carries_the_labels_of_the_endpoint_that_served() -> None:
    fleet = label_fleet(member("a", "decode", slice="1"), member("b", "decode"), {"set": "other", REVISION: "z"})
    marked = []
    for row in range(3):
        request, response = make_request(), ended()
        request.result = picked(fleet, row)
        make_screener(fleet).response_received(request, response)
        marked.append(response.set_headers)

    assert marked == [{"x-revision": "a", "x-slice": "1"}, {"x-revision": "b"}, {}]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"scope": {"labelSelector": " "}}, r"scope\.labelSelector: must name"),
        ({"scope": {"labelSelector": "a=b=c"}}, r"scope\.labelSelector: 'a=b=c' is no label requirement"),
        ({"revisionGating": {"mode": "sum"}}, "mode sum needs the roles"),
        ({"headerSelectors": [STRICT | {"labelKey": ""}]}, r"headerSelectors\[0\]: name both"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_screener(Fleet(), **parameters)
