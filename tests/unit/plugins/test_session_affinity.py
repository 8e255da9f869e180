from __future__ import annotations

import base64

import numpy as np
import pytest

from epp.api import Candidates, ConfigError, Endpoint, Fleet, ProfileResult, Request, SchedulingResult
from epp_plugins.filters.multicluster_session_affinity_filter import MulticlusterSessionAffinityFilter
from epp_plugins.filters.session_affinity_filter import SessionAffinityFilter
from epp_plugins.scorers.session_affinity_scorer import SessionAffinityScorer
from epp_plugins.session_affinity import SessionAffinity
from tests.support.plugins import Clock, make_fleet, make_handle, make_plugin
from tests.support.scheduling import ended, make_request, picked

TOKEN = "x-session-token"
BY_ID = {"strategy": "session_id"}


def token_of(plugin: SessionAffinity, fleet: Fleet, row: int, *, status: int = 200) -> str:
    """The token that a response from `row` carries; empty when it has none."""
    request, response = make_request(), ended(status)
    request.result = picked(fleet, row)
    plugin.response_received(request, response)
    return response.set_headers.get(TOKEN, "")


def scores(scorer: SessionAffinityScorer, request: Request, candidates: Candidates) -> list[float]:
    return list(scorer.score(request, candidates))


def test_the_token_of_a_response_leads_back_to_its_endpoint() -> None:
    fleet = make_fleet(3)
    scorer = make_plugin(SessionAffinityScorer, fleet)
    request = make_request(headers={TOKEN: token_of(scorer, fleet, 1)})

    assert scores(scorer, request, fleet.candidates()) == [0, 1, 0]


def test_the_token_is_readable_and_the_same_as_the_go_epps() -> None:
    fleet = make_fleet(1)

    token = token_of(make_plugin(SessionAffinityScorer, fleet), fleet, 0)

    assert base64.b64decode(token) == b"default/s0"


@pytest.mark.parametrize("token", ["", "nonsense", "\udcff", base64.b64encode(b"default/gone").decode()])
def test_without_a_token_that_fits_nobody_is_preferred_and_everybody_kept(token: str) -> None:
    fleet = make_fleet(2)
    request = make_request(headers={TOKEN: token})

    assert scores(make_plugin(SessionAffinityScorer, fleet), request, fleet.candidates()) == [0, 0]
    assert make_plugin(SessionAffinityFilter, fleet).keep(request, fleet.candidates()) == [True, True]


def test_a_signed_token_cannot_be_read_or_made_up_and_works_on_every_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SESSION_KEY", "secret")
    config = {"encodedEndpointHeaderConfig": {"signingKeyEnv": "SESSION_KEY"}}
    fleet, other_fleet = make_fleet(2), make_fleet(2)
    one, other = (make_plugin(SessionAffinityScorer, f, **config) for f in (fleet, other_fleet))
    token = token_of(one, fleet, 1)

    made_up = make_request(headers={TOKEN: base64.b64encode(b"default/s1").decode()})
    assert b"s1" not in base64.b64decode(token)
    assert scores(other, make_request(headers={TOKEN: token}), other_fleet.candidates()) == [0, 1]
    assert scores(other, made_up, other_fleet.candidates()) == [0, 0]


def test_a_signing_key_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SESSION_KEY", raising=False)

    with pytest.raises(ConfigError, match=r"signingKeyEnv: the environment variable SESSION_KEY is not set"):
        make_plugin(SessionAffinityScorer, encodedEndpointHeaderConfig={"signingKeyEnv": "SESSION_KEY"})


def test_a_server_that_fails_does_not_bind_the_session() -> None:
    fleet = make_fleet(1)
    plugin = make_plugin(SessionAffinityScorer, fleet)

    assert token_of(plugin, fleet, 0, status=404)
    assert token_of(plugin, fleet, 0, status=503) == ""


def test_the_token_names_the_endpoint_of_its_profile() -> None:
    fleet = make_fleet(2)
    plugin = make_plugin(
        SessionAffinityFilter, fleet, profileName="prefill", encodedEndpointHeaderConfig={"header": "X-Prefill"}
    )
    request, response = make_request(), ended()
    request.result = picked(fleet, 0, prefill=1)
    plugin.response_received(request, response)
    without = ended()
    request.result = picked(fleet, 0, prefill=None)
    plugin.response_received(request, without)

    assert base64.b64decode(response.set_headers["x-prefill"]) == b"default/s1"
    assert without.set_headers == {}


def test_the_token_names_the_destination_that_the_proxy_used_in_the_end() -> None:
    fleet = make_fleet(3)
    plugin = make_plugin(SessionAffinityScorer, fleet)
    request, everyone = make_request(), fleet.candidates()
    destinations = ProfileResult(everyone.endpoints[:2], everyone, np.zeros(3))
    request.result = SchedulingResult({"default": destinations}, "default")
    tokens = []
    for served in (None, "10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"):
        response = ended()
        response.served_endpoint = served
        plugin.response_received(request, response)
        tokens.append(base64.b64decode(response.set_headers[TOKEN]).decode())

    assert tokens == ["default/s0", "default/s0", "default/s1", "default/s0"]


def test_the_multicluster_filter_is_the_same_under_its_own_name() -> None:
    fleet = make_fleet(2)
    plugin = make_plugin(MulticlusterSessionAffinityFilter, fleet)
    request = make_request(headers={TOKEN: token_of(plugin, fleet, 1)})

    assert plugin.keep(request, fleet.candidates()) == [False, True]
    assert plugin.experimental


# --- by session id ---------------------------------------------------------------------------------------------------


def send(plugin: SessionAffinityScorer, fleet: Fleet, row: int, session: str = "a") -> list[float]:
    """One request of `session` that is sent to `row`; what was scored before."""
    request = make_request(headers={"x-session-id": session})
    scored = scores(plugin, request, fleet.candidates())
    plugin.pre_request(request, picked(fleet, row))
    return scored


def test_a_session_is_bound_to_the_endpoint_of_its_first_request_and_stays_there() -> None:
    fleet = make_fleet(3)
    plugin = make_plugin(SessionAffinityScorer, fleet, **BY_ID)

    assert send(plugin, fleet, 1) == [0, 0, 0]
    assert send(plugin, fleet, 2) == [0, 1, 0]
    assert send(plugin, fleet, 1) == [0, 1, 0]
    assert send(plugin, fleet, 0, session="b") == [0, 0, 0]
    assert send(plugin, fleet, 0, session="") == [0, 0, 0]


def test_a_session_moves_when_its_endpoint_is_gone_even_if_the_row_is_taken() -> None:
    fleet = make_fleet(2)
    plugin = make_plugin(SessionAffinityScorer, fleet, **BY_ID)
    send(plugin, fleet, 0)
    gone = fleet.candidates().endpoints[0]
    fleet.remove(gone)
    plugin.endpoint_removed(gone)
    fleet.add(Endpoint("new", "10.0.0.9", 8000))

    assert send(plugin, fleet, 1) == [0, 0]
    assert send(plugin, fleet, 0) == [0, 1]


def test_a_session_moves_when_its_endpoint_is_no_candidate() -> None:
    fleet = make_fleet(2)
    plugin = make_plugin(SessionAffinityFilter, fleet, **BY_ID)
    request = make_request(headers={"x-session-id": "a"})
    plugin.keep(request, fleet.candidates())
    plugin.pre_request(request, picked(fleet, 0))

    only_the_other = fleet.candidates().keep([False, True])
    assert plugin.keep(request, only_the_other) == [True]
    plugin.pre_request(request, picked(fleet, 1))
    assert plugin.keep(make_request(headers={"x-session-id": "a"}), fleet.candidates()) == [False, True]


def test_a_session_is_forgotten_after_a_rest() -> None:
    fleet, clock = make_fleet(2), Clock(0.0)
    plugin = make_plugin(
        SessionAffinityScorer,
        handle=make_handle(fleet, clock=clock),
        **BY_ID,
        sessionIdConfig={"evictionTtlSeconds": 10},
    )
    send(plugin, fleet, 1)
    clock.now = 9.0
    assert send(plugin, fleet, 1) == [0, 1]
    clock.now = 18.9
    assert send(plugin, fleet, 1) == [0, 1]
    clock.now = 28.9
    assert send(plugin, fleet, 1) == [0, 0]


def test_the_longest_unused_session_makes_room() -> None:
    fleet = make_fleet(1)
    plugin = make_plugin(SessionAffinityScorer, fleet, **BY_ID, sessionIdConfig={"maxSessions": 2})
    for session in ("a", "b", "a", "c"):
        send(plugin, fleet, 0, session)

    assert send(plugin, fleet, 0, "a") == [1]
    assert send(plugin, fleet, 0, "b") == [0]


def test_sources_are_looked_at_in_order() -> None:
    fleet = make_fleet(2)
    sources = [{"header": "X-First"}, {"attribute": "agent-identity"}, {"attribute": "SessionID", "producer": "mine"}]
    plugin = make_plugin(SessionAffinityScorer, fleet, **BY_ID, sessionIdConfig={"sources": sources})
    request = make_request()
    request.data["SessionID/mine"] = "a"
    plugin.pre_request(request, picked(fleet, 1))
    again = make_request(headers={"x-first": "a"})
    other = make_request(headers={"x-first": ""})
    other.data |= {"agent-identity/agent-identity": "z", "SessionID/mine": "a"}

    assert plugin.consumes() == ("agent-identity/agent-identity", "SessionID/mine")
    assert scores(plugin, again, fleet.candidates()) == [0, 1]
    assert scores(plugin, other, fleet.candidates()) == [0, 0]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ({}, "either a header or an attribute"),
        ({"header": "a", "attribute": "b"}, "either a header or an attribute"),
        ({"attribute": "mine"}, r'sources\[0\]\.producer: name the plugin that publishes "mine"'),
        ({"header": "a", "producer": "b"}, r"sources\[0\]\.producer: only an attribute"),
    ],
)
def test_a_source_that_makes_no_sense_is_refused(source: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make_plugin(SessionAffinityScorer, **BY_ID, sessionIdConfig={"sources": [source]})
