"""What must hold for filters, scorers and sessions whatever clients send and endpoints carry, in whatever order."""

from __future__ import annotations

from math import inf, nan
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from epp.api import (
    ENCODER_MATCH,
    PEER_ENDPOINT,
    PREFIX_MATCH,
    EncoderMatch,
    Endpoint,
    Filter,
    Fleet,
    PrefixMatch,
    Request,
    RequestError,
    Scorer,
    data_key,
)
from epp_plugins.admitters.probabilistic_admitter import ProbabilisticAdmitter
from epp_plugins.builtin_more import MORE
from epp_plugins.deciders.prefix_based_pd_decider import PrefixBasedPdDecider
from epp_plugins.scorers.session_affinity_scorer import SessionAffinityScorer
from epp_plugins.screeners.disaggregatedset_rollout_screener import DisaggregatedsetRolloutScreener
from tests.support.plugins import Clock, make_handle, make_plugin
from tests.support.scheduling import make_request, picked

SCORERS = [p for p in MORE if issubclass(p, Scorer)]
FILTERS = [p for p in MORE if issubclass(p, Filter)]
NEEDED: dict[str, dict[str, Any]] = {
    "endpoint-attribute-filter": {
        "attribute": "load",
        "algorithm": {"type": "threshold", "threshold": {"operator": "LessThan", "value": 0.5}},
    },
    "endpoint-attribute-scorer": {"attributeKey": "load", "algorithm": {"type": "linear_lower_is_better"}},
    "header-label-affinity-scorer": {"headerName": "x-label", "labelKey": "role"},
    "context-length-aware": {"enableFiltering": True, "label": "range"},
}
LABELS = {
    "role": st.sampled_from(["a", "b", ""]),
    "range": st.one_of(st.sampled_from(["0-10", "5-5", "9-3", "-1-4", "x", ""]), st.text(max_size=8)),
    "kubernetes.io/hostname": st.sampled_from(["h1", "h2", ""]),
    "topology.kubernetes.io/zone": st.sampled_from(["z1", "z2"]),
    "set": st.sampled_from(["mine", "other"]),
    "disaggregatedset.x-k8s.io/revision": st.sampled_from(["r1", "r2"]),
    "disaggregatedset.x-k8s.io/role": st.sampled_from(["prefill", "decode"]),
}
KEYS = ("load", "llm-d.ai/multicluster-queue-size", "llm-d.ai/multicluster-kv-cache-utilization")

numbers = st.one_of(
    st.sampled_from([0.0, -1.0, nan, inf, -inf, 1e308, -1e308]), st.floats(-1e12, 1e12), st.floats(0, 1)
)
header_texts = st.one_of(st.sampled_from(["", "a", "b", "\udcff"]), st.text(max_size=12))


@st.composite
def situations(draw: st.DrawFn) -> tuple[Fleet, Request]:
    """A fleet with any labels and attributes, and a request with any headers, with or without data about it."""
    fleet = Fleet()
    for i in range(draw(st.integers(0, 6))):
        labels = {name: draw(values) for name, values in LABELS.items() if draw(st.booleans())}
        endpoint = Endpoint(f"s{i}", f"10.0.0.{i + 1}", 8000, labels=labels)
        endpoint.attributes |= {
            key: draw(st.one_of(numbers, st.text(max_size=3))) for key in KEYS if draw(st.booleans())
        }
        fleet.add(endpoint)
    for column in fleet.columns.values():
        column[:6] = draw(st.lists(numbers, min_size=6, max_size=6))
    names = ("x-session-token", "x-label", "x-revision", "x-kv-cache-source-host-port")
    request = make_request(
        draw(st.binary(max_size=64)), headers={name: draw(header_texts) for name in names if draw(st.booleans())}
    )
    request.candidates = fleet.candidates()
    if draw(st.booleans()):
        blocks = draw(st.integers(0, 4))
        matched = np.array(draw(st.lists(st.integers(0, blocks), min_size=16, max_size=16)), dtype=float)
        request.data[data_key(PREFIX_MATCH)] = PrefixMatch(matched, blocks, 4)
        request.data[data_key(ENCODER_MATCH)] = EncoderMatch(matched, float(blocks))
    if len(fleet) and draw(st.booleans()):
        request.data[PEER_ENDPOINT] = draw(st.sampled_from(fleet.candidates().endpoints))
    return fleet, request


@pytest.mark.parametrize("kind", SCORERS, ids=lambda p: p.type)
@given(situation=situations())
@settings(max_examples=30)
def test_scores_are_one_number_in_range_per_candidate(kind: type[Scorer], situation: tuple[Fleet, Request]) -> None:
    fleet, request = situation
    scores = np.asarray(make_plugin(kind, fleet, **NEEDED.get(kind.type, {})).score(request, fleet.candidates()))

    assert scores.shape == (len(fleet),)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize("kind", FILTERS, ids=lambda p: p.type)
@given(situation=situations())
@settings(max_examples=30)
def test_filters_answer_for_each_candidate(kind: type[Filter], situation: tuple[Fleet, Request]) -> None:
    fleet, request = situation
    mask = make_plugin(kind, fleet, **NEEDED.get(kind.type, {})).keep(request, fleet.candidates())

    assert len(mask) == len(fleet)
    assert all(isinstance(answer, (bool, np.bool_)) for answer in mask)


@given(situation=situations(), power=st.floats(1e-3, 1e4), k=st.floats(0, 1e9))
@settings(max_examples=60)
def test_the_admitter_admits_or_refuses_and_nothing_else(
    situation: tuple[Fleet, Request], power: float, k: float
) -> None:
    fleet, request = situation
    request.priority = -1
    refusals = []
    try:
        make_plugin(ProbabilisticAdmitter, fleet, power=power, k=k).admit(request, fleet.candidates())
    except RequestError as refusal:
        refusals.append(refusal.http_status)

    assert refusals in ([], [429])


@given(situation=situations(), mode=st.sampled_from(["sum", "max-role", "disabled"]))
@settings(max_examples=80)
def test_the_rollout_screener_keeps_one_whole_revision_and_all_outsiders(
    situation: tuple[Fleet, Request], mode: str
) -> None:
    fleet, request = situation
    revision, role = "disaggregatedset.x-k8s.io/revision", "disaggregatedset.x-k8s.io/role"
    strict = {"name": "r", "headerName": "x-revision", "labelKey": revision, "mode": "strict"}
    gating = {"mode": mode, "requireRoles": {"values": ["prefill", "decode"]}}
    screener = make_plugin(
        DisaggregatedsetRolloutScreener,
        fleet,
        scope={"labelSelector": "set=mine"},
        revisionGating=gating,
        headerSelectors=[strict],
    )
    mask = screener.screen(request, fleet.candidates())

    members = [e for e in fleet.candidates() if e.labels.get("set") == "mine"]
    kept = set(fleet.candidates().keep(mask))
    assert kept >= set(fleet.candidates()) - set(members)
    inside = [e for e in members if e in kept]
    if request.headers.get("x-revision"):
        assert {e.labels.get(revision) for e in inside} <= {request.headers["x-revision"]}
    if mode != "disabled" and inside:
        (chosen,) = {e.labels[revision] for e in inside}
        assert {e.labels.get(role) for e in members if e.labels.get(revision) == chosen} >= {"prefill", "decode"}


@given(tokens=st.integers(0, 500), blocks=st.integers(0, 40), threshold=st.integers(0, 500))
def test_more_cached_never_turns_a_no_into_a_yes(tokens: int, blocks: int, threshold: int) -> None:
    fleet = Fleet()
    fleet.add(Endpoint("s0", "10.0.0.1", 8000))
    decider = make_plugin(PrefixBasedPdDecider, fleet, nonCachedTokens=threshold)
    answers = []
    for held in (blocks, blocks + 1):
        request = make_request(b"x" * 4 * tokens)
        request.data[data_key(PREFIX_MATCH)] = PrefixMatch(np.full(fleet.capacity, float(held)), 41, 16)
        answers.append(decider.disaggregate(request, fleet.endpoints[0]))

    assert answers != [False, True]


class Sessions(RuleBasedStateMachine):
    """Sessions that come and rest while endpoints come and go, against one plain dictionary of bindings."""

    def __init__(self) -> None:
        super().__init__()
        self.fleet, self.clock = Fleet(), Clock(0.0)
        self.plugin = make_plugin(
            SessionAffinityScorer,
            handle=make_handle(self.fleet, clock=self.clock),
            strategy="session_id",
            sessionIdConfig={"evictionTtlSeconds": 10, "maxSessions": 1000},
        )
        self.model: dict[str, tuple[Endpoint, float]] = {}
        self.made = 0

    def bound(self, session: str) -> Endpoint | None:
        endpoint, expires_s = self.model.get(session, (None, 0.0))
        return endpoint if endpoint is not None and endpoint.alive and expires_s > self.clock.now else None

    @precondition(lambda self: len(self.fleet))
    @rule(session=st.sampled_from("abc"), data=st.data())
    def request(self, session: str, data: st.DataObject) -> None:
        endpoints = self.fleet.candidates().endpoints
        chosen = data.draw(st.sampled_from(endpoints))
        request = make_request(headers={"x-session-id": session})
        bound = self.bound(session)
        scores = self.plugin.score(request, self.fleet.candidates())
        assert list(scores) == [float(endpoint is bound) for endpoint in endpoints]
        self.plugin.pre_request(request, picked(self.fleet, chosen.row))
        self.model[session] = (bound or chosen, self.clock.now + 10)

    @rule(seconds=st.sampled_from([1.0, 4.0, 9.0, 10.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @precondition(lambda self: len(self.fleet) < 4)
    @rule()
    def endpoint_comes(self) -> None:
        self.made += 1
        self.fleet.add(Endpoint(f"s{self.made}", "10.0.0.1", 8000 + self.made))

    @precondition(lambda self: len(self.fleet))
    @rule(data=st.data())
    def endpoint_leaves(self, data: st.DataObject) -> None:
        endpoint = data.draw(st.sampled_from(self.fleet.candidates().endpoints))
        self.plugin.endpoint_removed(endpoint)
        self.fleet.remove(endpoint)


class TestSessions(Sessions.TestCase):
    settings = settings(max_examples=40, stateful_step_count=30)
