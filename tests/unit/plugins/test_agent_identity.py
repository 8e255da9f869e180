from __future__ import annotations

import pytest

from epp_plugins.hooks.agent_identity import AgentIdentity
from tests.support.plugins import make_plugin
from tests.support.scheduling import make_request

KEY = "agent-identity/agent-identity"


@pytest.mark.parametrize(
    ("headers", "identity"),
    [
        ({"x-claude-code-session-id": "a", "x-session-affinity": "b"}, "a"),
        ({"x-claude-code-session-id": "", "x-session-affinity": "b"}, "b"),
        ({"session-id": "c", "x-mine": "e"}, "c"),
        ({"session_id": "d"}, "d"),
        ({"x-mine": "e"}, "e"),
    ],
)
def test_the_first_session_header_is_the_identity_and_the_fairness_id(headers: dict[str, str], identity: str) -> None:
    request = make_request(headers=headers)

    make_plugin(AgentIdentity, additionalSessionHeaders=["X-Mine"]).process_request_header(request)

    assert request.data[KEY] == identity
    assert request.fairness_id == identity


@pytest.mark.parametrize("name", ["x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"])
def test_a_fairness_id_that_the_client_names_comes_first(name: str) -> None:
    request = make_request(headers={name: "tenant", "session-id": "c"})

    make_plugin(AgentIdentity).process_request_header(request)

    assert request.data[KEY] == "c"
    assert request.fairness_id == ""


def test_without_a_session_header_there_is_no_identity() -> None:
    request = make_request(headers={"x-session-id": "other"})

    make_plugin(AgentIdentity).process_request_header(request)

    assert KEY not in request.data
    assert request.fairness_id == ""
