"""The path of a request, through a session with the default plugins: headers of both families, refusals, accounting."""

from __future__ import annotations

import json
import uuid

import pytest

from epp.api import Candidates, Code, PreRequest, Request, RequestError, ResponseComplete, SchedulingResult, Scorer, Slo
from epp.api.request import Response
from epp.director.director import Director
from epp.extproc.gen import ext_proc_pb2 as pb
from epp.server.session import ExtProc, Session
from tests.support.extproc import POST, Replies, request_body, request_headers, response_body, response_headers
from tests.support.service import in_flight, make_director

BODY = json.dumps({"model": "m", "prompt": "hello"}).encode()


class Conversation:
    """One session; `request` is what the director made of the request."""

    def __init__(self, director: Director) -> None:
        self.session = Session(ExtProc(director, max_body_bytes=1 << 20), lambda: None)

    def say(self, *messages: pb.ProcessingRequest) -> Replies:
        for message in messages:
            self.session.receive(message.SerializeToString())
        return Replies(pb.ProcessingResponse.FromString(r) for r in self.session.take())

    @property
    def request(self) -> Request:
        request = self.session._exchange.request
        assert request is not None
        return request


def ask(director: Director, body: bytes = BODY, **fields: str) -> tuple[Conversation, Replies]:
    conversation = Conversation(director)
    sent = POST | {name.replace("_", "-"): value for name, value in fields.items()}
    return conversation, conversation.say(request_headers(sent), request_body(body, end=True))


def test_a_request_without_an_id_gets_one_and_one_with_an_id_keeps_it() -> None:
    director = make_director("10.0.0.1:8000")

    _, made = ask(director)
    kept, replies = ask(director, x_request_id="mine")

    assert uuid.UUID(made.headers_set("request_headers")["x-request-id"]).version == 4
    assert "x-request-id" not in replies.headers_set("request_headers")
    assert kept.request.id == "mine"


@pytest.mark.parametrize("header", ["x-llm-d-inference-objective", "x-gateway-inference-objective"])
def test_the_objective_of_either_family_gives_the_priority(header: str) -> None:
    director = make_director("10.0.0.1:8000")
    director.datastore.objectives.set("urgent", 7, Slo(ttft_ms=200))

    conversation, _ = ask(director, **{header: "urgent"})

    assert conversation.request.priority == 7
    assert conversation.request.objective_slo == Slo(ttft_ms=200)


@pytest.mark.parametrize("header", ["x-llm-d-inference-fairness-id", "x-gateway-inference-fairness-id"])
def test_the_fairness_id_of_either_family_is_read(header: str) -> None:
    conversation, _ = ask(make_director("10.0.0.1:8000"), **{header: "tenant"})

    assert conversation.request.fairness_id == "tenant"


def test_without_a_fairness_id_it_is_the_default_flow() -> None:
    assert ask(make_director("10.0.0.1:8000"))[0].request.fairness_id == "default-flow"


def test_of_two_families_the_llm_d_name_wins() -> None:
    conversation, _ = ask(
        make_director("10.0.0.1:8000"), x_llm_d_model_name_rewrite="new", x_gateway_model_name_rewrite="old"
    )

    assert conversation.request.model == "new"


def test_an_unchanged_body_is_forwarded_byte_by_byte() -> None:
    odd = b'{ "prompt":"caf\\u00e9 <>&", "model" : "m",  "n":1.0, "n":2 }'

    _, replies = ask(make_director("10.0.0.1:8000"), odd)

    assert replies.streamed("request_body") == odd


def test_a_rewrite_changes_nothing_but_the_value() -> None:
    odd = b'{ "prompt":"say \\"model\\": \\"m\\"", "model" : "m",  "n":1.0 }'

    _, replies = ask(make_director("10.0.0.1:8000"), odd, x_gateway_model_name_rewrite="longer")

    assert replies.streamed("request_body") == odd.replace(b'"model" : "m"', b'"model" : "longer"')


def test_an_ipv6_endpoint_is_written_with_brackets() -> None:
    _, replies = ask(make_director("fd00::1:8000"))

    assert replies.headers_set("request_headers")["x-gateway-destination-endpoint"] == "[fd00::1]:8000"


def test_sheddable_requests_are_dropped_while_all_is_saturated() -> None:
    director = make_director("10.0.0.1:8000")
    director.datastore.objectives.set("batch", -1)

    _, replies = ask(director, x_gateway_inference_objective="batch")

    # The endpoint's metrics were never read, which counts as full.
    assert replies.immediate == (
        429,
        "inference error: ResourceExhausted - system saturated, sheddable request dropped",
    )
    assert replies.headers_set("immediate_response")["x-llm-d-request-dropped-reason"] == "rejected-saturated"


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "OPTIONS"])
def test_methods_without_a_body_may_end_with_an_empty_one(method: str) -> None:
    conversation = Conversation(make_director("10.0.0.1:8000"))

    replies = conversation.say(request_headers({":method": method, ":path": "/v1/models"}), request_body(b"", end=True))

    assert replies.kinds == ["request_headers", "request_body"]


def test_a_post_with_an_empty_body_is_400() -> None:
    _, replies = ask(make_director("10.0.0.1:8000"), b"")

    assert replies.immediate[0] == 400


class Refuses(PreRequest):
    type = "refuses"

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        raise RequestError(Code.FORBIDDEN, "not today")


class Breaks(Scorer, PreRequest, ResponseComplete):
    type = "breaks"

    def score(self, request: Request, candidates: Candidates) -> list[float]:
        raise ZeroDivisionError

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        raise KeyError

    def response_complete(self, request: Request, response: Response) -> None:
        raise OSError


def config(plugin: str) -> str:
    return (
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
        f"plugins: [{{type: inflight-load-producer}}, {{type: queue-scorer}}, {{type: {plugin}}}]\n"
        "schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]\n"
    )


def test_a_hook_that_refuses_after_the_pick_leaves_no_count() -> None:
    director = make_director("10.0.0.1:8000", config=config("refuses"), plugins=[Refuses])

    _, replies = ask(director)

    assert replies.immediate == (403, "inference error: Forbidden - not today")
    assert in_flight(director) == 0


def test_a_plugin_that_breaks_everywhere_costs_itself_and_no_request() -> None:
    text = config("breaks").replace("{pluginRef: queue-scorer}", "{pluginRef: breaks}, {pluginRef: queue-scorer}")
    director = make_director("10.0.0.1:8000", config=text, plugins=[Breaks])

    conversation, replies = ask(director)
    rest = conversation.say(response_headers(), response_body(b"{}", end=True))

    assert replies.kinds == ["request_headers", "request_body"]
    assert rest.kinds == ["response_headers", "response_body"]
    assert in_flight(director) == 0
    page = director.recorder.render()[0].decode()
    for point in ("Scorer", "PreRequest", "ResponseComplete"):
        assert (
            f'llm_epp_plugin_errors_total{{extension_point="{point}",plugin_name="breaks",plugin_type="breaks"}} 1.0'
            in page
        )


def test_a_grpc_method_finds_its_parser_behind_its_package() -> None:
    text = (
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\n"
        "plugins: [{type: vllmgrpc-parser}, {type: queue-scorer}]\n"
        "requestHandler: {parsers: [{pluginRef: vllmgrpc-parser}]}\n"
    )
    director = make_director("10.0.0.1:8000", config=text)
    message = b"\x0a\x01g\x1a\x02hi"  # GenerateRequest: request_id "g", text "hi"

    conversation, replies = ask(
        director,
        b"\x00" + len(message).to_bytes(4, "big") + message,
        **{":path": "/vllm.grpc.engine.VllmEngine/Generate", "content-type": "application/grpc"},
    )

    assert replies.kinds == ["request_headers", "request_body"]
    assert conversation.request.size_bytes == len(message) + 5
