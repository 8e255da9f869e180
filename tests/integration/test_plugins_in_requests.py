"""Plugins beyond the default configuration in whole requests: from the headers to the end of the response."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from epp.api import (
    PreRequest,
    Request,
    RequestError,
    Response,
    ResponseComplete,
    ResponseEnding,
    SchedulingResult,
    Termination,
)
from epp.director.director import Director
from epp.director.exchange import RequestExchange
from epp.extproc.exchange import BodyMode, Destination, RequestHead, ResponseHead
from tests.support.configs import HEAD
from tests.support.service import in_flight, make_director

SERVERS = ("10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000")
USAGE = {"usage": {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}}


class Conversation:
    """One request and its response, spoken without Envoy."""

    def __init__(self, director: Director) -> None:
        self.exchange = RequestExchange(director, lambda path, waiting: pytest.fail("nothing has to wait"))

    def ask(self, prompt: str = "hi", **headers: str) -> Destination:
        named = {":method": "POST", ":path": "/v1/completions"} | {k.replace("_", "-"): v for k, v in headers.items()}
        duplex = BodyMode.FULL_DUPLEX_STREAMED
        head = RequestHead(named, end_of_stream=False, request_body_mode=duplex, response_body_mode=duplex)
        body = json.dumps({"model": "m", "prompt": prompt}).encode()
        destination = self.exchange.route(head, body)
        assert destination is not None
        return destination

    def respond(self, *chunks: bytes, status: int = 200) -> Mapping[str, str]:
        """The headers set on the response."""
        head = ResponseHead({"content-type": "application/json"}, status=status, end_of_stream=False)
        changed = dict(self.exchange.response_headers(head, hold_allowed=True))
        for chunk in chunks[:-1]:
            self.exchange.response_body(chunk, last=False)
        self.exchange.response_body(chunks[-1], last=True)
        return changed

    def close(self) -> None:
        self.exchange.close(Termination.COMPLETE)


def director(plugins: str, profile: str = "", *, more: str = "", extra: tuple[type[Any], ...] = ()) -> Director:
    profile = profile or "- {name: default, plugins: [{pluginRef: queue-scorer}]}\n"
    config = f"{HEAD}plugins:\n- {{type: queue-scorer}}\n{plugins}schedulingProfiles:\n{profile}{more}"
    return make_director(*SERVERS, config=config, plugins=extra)


REPORTER = (
    "- {type: request-attribute-reporter, parameters: {attributes: [{key: {name: cost}, "
    "expression: usage.prompt_tokens + 2 * usage.completion_tokens}]}}\n"
)


def test_the_reported_number_goes_with_the_end_of_the_response() -> None:
    conversation = Conversation(director(REPORTER))
    conversation.ask()
    answer = json.dumps(USAGE).encode()

    conversation.respond(answer[:20], answer[20:])

    assert conversation.exchange.response_metadata() == {"envoy.lb": {"cost": 17}}


def test_a_response_without_token_counts_reports_nothing() -> None:
    conversation = Conversation(director(REPORTER))
    conversation.ask()

    conversation.respond(b"{}")

    assert conversation.exchange.response_metadata() == {}


class CountsEnds(ResponseEnding):
    """Notes each end in the metadata, and then fails."""

    type = "counts-ends"

    def response_ending(self, request: object, response: Response) -> None:
        assert response.usage is not None
        ends = response.dynamic_metadata.setdefault("ends", {})
        ends[f"{len(ends)}"] = response.usage.completion_tokens
        raise ValueError("after all")


def test_the_end_is_told_once_with_the_usage_and_a_failing_hook_costs_nothing() -> None:
    plugins = "- {type: counts-ends}\n" + REPORTER
    conversation = Conversation(director(plugins, extra=(CountsEnds,)))
    conversation.ask()

    conversation.respond(json.dumps(USAGE).encode())
    conversation.exchange.response_body(b"", last=True)
    conversation.close()

    metadata = conversation.exchange.response_metadata()
    assert metadata["ends"] == {"0": 5}
    assert metadata["envoy.lb"] == {"cost": 17}


SESSIONS = (
    "- {type: session-affinity-filter}\n",
    "- {name: default, plugins: [{pluginRef: session-affinity-filter}, {pluginRef: queue-scorer}]}\n",
)


def test_a_session_stays_with_its_server() -> None:
    everybody = director(*SESSIONS)
    first = Conversation(everybody)
    chosen = first.ask().value
    token = first.respond(b"{}")["x-session-token"]

    again = {Conversation(everybody).ask(x_session_token=token).value for _ in range(20)}
    others = {Conversation(everybody).ask().value for _ in range(20)}

    assert again == {chosen}
    assert others == set(SERVERS) - {chosen}  # which is the busiest by now


def test_a_session_by_cookie_stays_with_its_server() -> None:
    config = "{strategy: session_id, sessionIdConfig: {sources: [{attribute: SessionID}]}}"
    everybody = director(
        "- {type: session-id-producer, parameters: {cookieName: sid}}\n"
        f"- {{type: session-affinity-scorer, parameters: {config}}}\n",
        "- {name: default, plugins: [{pluginRef: session-affinity-scorer, weight: 5}, {pluginRef: queue-scorer}]}\n",
    )

    picks = [{Conversation(everybody).ask(cookie=f"sid={i}").value for _ in range(5)} for i in range(8)]

    assert all(len(servers) == 1 for servers in picks)
    assert len({server for servers in picks for server in servers}) == 3


def test_an_agents_session_is_its_fairness_id() -> None:
    conversation = Conversation(director("- {type: agent-identity}\n"))
    conversation.ask(session_id="agent-7")
    request = conversation.exchange.request

    assert request is not None
    assert request.fairness_id == "agent-7"


def test_a_data_parallel_rank_is_reached_through_the_primary_port_and_counted_itself() -> None:
    everybody = director("- {type: data-parallel-profile-handler, parameters: {primaryPort: 9000}}\n")
    conversation = Conversation(everybody)
    destination = conversation.ask()
    rank = destination.set_headers["x-data-parallel-host-port"]

    assert rank in SERVERS
    assert destination.value == rank.replace(":8000", ":9000")
    assert in_flight(everybody) >= 1
    conversation.respond(b"{}")
    conversation.close()
    assert in_flight(everybody) == 0


def test_a_shed_request_is_a_429_and_costs_nothing() -> None:
    # The other detector would refuse the request before: no metrics page was ever read.
    everybody = director(
        "- {type: probabilistic-admitter, parameters: {queueDepthThreshold: 1}}\n- {type: concurrency-detector}\n",
        more="saturationDetector: {pluginRef: concurrency-detector}\n",
    )
    everybody.datastore.objectives.replace_all({"batch": -1})
    everybody.datastore.fleet.columns["waiting_requests"][:3] = 3.0

    with pytest.raises(RequestError) as raised:
        Conversation(everybody).ask(x_llm_d_inference_objective="batch")

    assert raised.value.http_status == 429
    assert raised.value.headers["retry-after"] == "1"
    assert Conversation(everybody).ask().value in SERVERS


DECODE_ON = "test-epp-endpoint-selection"
EPD = """
plugins:
- {type: queue-scorer}
- {type: mm-embeddings-cache-scorer}
- {type: always-disagg-multimodal-decider}
- {type: always-disagg-pd-decider}
- type: disagg-profile-handler
  parameters: {deciders: {encode: always-disagg-multimodal-decider, prefill: always-disagg-pd-decider}}
- {type: header-based-testing-filter}
schedulingProfiles:
- {name: encode, plugins: [{pluginRef: mm-embeddings-cache-scorer}]}
- {name: prefill, plugins: [{pluginRef: queue-scorer}]}
- {name: decode, plugins: [{pluginRef: header-based-testing-filter}, {pluginRef: queue-scorer}]}
"""


def test_media_go_back_to_the_server_that_encoded_them() -> None:
    everybody = make_director(*SERVERS, config=HEAD + EPD)
    image = [{"type": "image_url", "image_url": {"url": "http://images/1"}}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": image}]}).encode()
    duplex = BodyMode.FULL_DUPLEX_STREAMED
    encoders = set()
    for _ in range(20):
        exchange = Conversation(everybody).exchange
        named = {":method": "POST", ":path": "/v1/chat/completions", DECODE_ON: "10.0.0.1"}
        head = RequestHead(named, end_of_stream=False, request_body_mode=duplex, response_body_mode=duplex)
        destination = exchange.route(head, body)
        assert destination is not None
        assert destination.value == SERVERS[0]
        # Without the header the decode server encodes itself.
        encoders.add(destination.set_headers.get("x-encoder-hosts-ports", destination.value))
        exchange.close(Termination.COMPLETE)

    assert len(encoders) == 1
    text = Conversation(everybody).ask("text only", **{DECODE_ON: "10.0.0.1"})
    assert "x-encoder-hosts-ports" not in text.set_headers


@pytest.mark.parametrize("wish", ["if-available", "wait=10, If-Available; x=1"])
def test_a_request_that_prefers_so_is_refused_until_its_prompt_is_cached(wish: str) -> None:
    everybody = make_director(SERVERS[0])
    prompt = "x" * 2000
    with pytest.raises(RequestError) as raised:
        Conversation(everybody).ask(prompt, prefer=wish)
    assert in_flight(everybody) == 0
    served = Conversation(everybody)
    served.ask(prompt)
    served.respond(b"{}")
    served.close()

    assert raised.value.http_status == 412
    assert Conversation(everybody).ask(prompt, prefer=wish).value == SERVERS[0]


def test_other_preferences_change_nothing() -> None:
    assert (
        Conversation(make_director(SERVERS[0])).ask("new", prefer="respond-async, if-available-soon").value
        == SERVERS[0]
    )


def test_a_profile_that_does_not_exist_is_the_clients_mistake() -> None:
    everybody = director(
        "- {type: header-profile-handler}\n",
        "".join(f"- {{name: {name}, plugins: [{{pluginRef: queue-scorer}}]}}\n" for name in ("decode", "prefill")),
    )

    with pytest.raises(RequestError) as raised:
        Conversation(everybody).ask(epp_profile="dance")

    assert raised.value.http_status == 400
    assert Conversation(everybody).ask(epp_profile="prefill").value in SERVERS


class ReadsScores(PreRequest, ResponseComplete):
    """Keeps what every profile's scorers said, at both ends of a request."""

    type = "reads-scores"
    at_start: dict[str, dict[str, list[float]]]
    at_end: dict[str, dict[str, list[float]]]

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        self.at_start = self._read(result)

    def response_complete(self, request: Request, response: Response) -> None:
        assert request.result is not None
        self.at_end = self._read(request.result)

    def _read(self, result: SchedulingResult) -> dict[str, dict[str, list[float]]]:
        ran = {name: profile for name, profile in result.profiles.items() if profile is not None}
        return {n: {scorer: list(s) for scorer, s in p.raw_scores.items()} for n, p in ran.items()}


def test_hooks_read_the_raw_scores_of_every_profile() -> None:
    plugins = "- {type: prefix-cache-scorer}\n- {type: reads-scores}\n"
    profile = (
        "- {name: only, plugins: [{pluginRef: queue-scorer, weight: 5}, {pluginRef: prefix-cache-scorer, weight: 0}]}\n"
    )
    made = director(plugins, profile, extra=(ReadsScores,))
    prompt = "a prompt that is longer than one block of sixty-four tokens, " * 20
    for _ in range(2):
        conversation = Conversation(made)
        conversation.ask(prompt)
        conversation.respond(b"{}")
        conversation.close()

    reader = made.pipeline.plugins["reads-scores"]
    assert isinstance(reader, ReadsScores)
    assert reader.at_start == reader.at_end
    assert reader.at_start["only"]["queue-scorer"] == [1, 1, 1]
    assert sorted(reader.at_start["only"]["prefix-cache-scorer"]) == [0, 0, 1]


SLO_GUIDE = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: slo-request-tracker
- type: slo-scorer
- type: slo-aware-profile-handler
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: slo-request-tracker
  - pluginRef: prefix-cache-scorer
  - pluginRef: queue-scorer
  - pluginRef: kv-cache-utilization-scorer
  - pluginRef: max-score-picker
- name: slo
  plugins:
  - pluginRef: prefix-cache-scorer
    weight: 0
  - pluginRef: slo-request-tracker
  - pluginRef: slo-scorer
  - pluginRef: max-score-picker
"""


@pytest.mark.parametrize(
    ("headers", "profile"),
    [({}, "default"), ({"x_prediction_based_scheduling": "true", "x_slo_ttft_ms": "200"}, "slo")],
)
def test_the_configuration_of_the_slo_guide_decides_by_predictions_where_asked(
    headers: dict[str, str], profile: str
) -> None:
    made = make_director(*SERVERS, config=SLO_GUIDE)
    conversation = Conversation(made)
    conversation.ask(**headers)
    request = conversation.exchange.request

    assert request is not None
    assert request.result is not None
    assert list(request.result.profiles) == [profile]
    assert "predicted-latency-producer" in {p.type for p in made.pipeline.producers}
