"""Vertex AI's gRPC bodies: OpenAI's JSON within, read and rewritten in place."""

from __future__ import annotations

import json

import pytest

from epp.api import RequestError, Usage
from epp_plugins.gen import vertexai_prediction_pb2 as vertexai
from epp_plugins.parsers.grpc_frames import frame, only_message
from epp_plugins.parsers.openai_parser import OpenAIParser
from epp_plugins.parsers.vertexai_parser import VertexAIParser
from tests.support.parsing import parse, read_usage
from tests.support.plugins import make_plugin

SERVICE = "/google.cloud.aiplatform.v1beta1.PredictionService/"
GRPC = "application/grpc"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 4, "n": 2}


def wrapped(body: object) -> bytes:
    """The three request messages are alike."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    http_body = vertexai.HttpBody(content_type="application/json", data=data)
    return frame(vertexai.RawPredictRequest(endpoint="projects/p", http_body=http_body).SerializeToString())


def answer(data: bytes, content_type: str = "") -> bytes:
    return frame(vertexai.HttpBody(content_type=content_type, data=data).SerializeToString())


def answer_data(body: bytes) -> bytes:
    message = only_message(body)
    assert message is not None
    return vertexai.HttpBody.FromString(message).data


def test_a_chat_request_reads_as_over_http() -> None:
    payload = parse(VertexAIParser, SERVICE + "ChatCompletions", wrapped(CHAT))
    plain = parse(OpenAIParser, "/v1/chat/completions", CHAT)

    assert payload.prompts == plain.prompts
    assert (payload.model, payload.streaming, payload.max_output_tokens, payload.choices) == ("m", True, 4, 2)


@pytest.mark.parametrize("method", ["RawPredict", "StreamRawPredict"])
def test_raw_predictions_read_as_responses_requests(method: str) -> None:
    body = {"model": "m", "input": "hi"}

    payload = parse(VertexAIParser, SERVICE + method, wrapped(body))

    assert payload.prompts == parse(OpenAIParser, "/v1/responses", body).prompts


def test_the_model_is_replaced_within_and_the_rest_stays() -> None:
    body = wrapped(CHAT)
    payload = parse(VertexAIParser, SERVICE + "ChatCompletions", body)

    assert payload.with_model(body, "n") == wrapped({**CHAT, "model": "n"})


def test_other_methods_pass_unread() -> None:
    assert parse(VertexAIParser, SERVICE + "Predict", b"anything").skip_response


@pytest.mark.parametrize(
    ("method", "body", "message"),
    [
        ("ChatCompletions", b"x", "parsing gRPC payload for ChatCompletions: not able to parse payload"),
        ("RawPredict", frame(b"\xff\xff"), "parsing gRPC payload for RawPredict: not able to parse payload"),
        ("ChatCompletions", frame(b""), "ChatCompletionsRequest has no HttpBody"),
        ("StreamRawPredict", frame(b""), "StreamRawPredictRequest has no HttpBody"),
        ("ChatCompletions", wrapped({}), "invalid chat completions request: must have valid messages field"),
        ("RawPredict", wrapped({}), "invalid responses request: must have input field"),
        ("RawPredict", wrapped(b""), "error unmarshaling request bodyMap: unexpected end of JSON input"),
    ],
)
def test_invalid_requests_are_refused(method: str, body: bytes, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(VertexAIParser, SERVICE + method, body)

    assert caught.value.message == message


@pytest.mark.parametrize("content_type", ["application/json", ""])
def test_the_usage_of_a_json_answer_is_read_over_several_messages(content_type: str) -> None:
    data = b'{"object":"chat.completion","usage":{"prompt_tokens":2}}'
    body = answer(data[:20], content_type) + answer(data[20:])

    usage = read_usage(VertexAIParser, [body[:30], body[30:]], path=SERVICE + "ChatCompletions", content_type=GRPC)

    assert usage == Usage(prompt_tokens=2)


@pytest.mark.parametrize("content_type", ["text/event-stream", ""])
def test_the_usage_of_streamed_events_is_read_over_several_messages(content_type: str) -> None:
    data = b'data: {"choices":[]}\n\ndata: {"usage":{"prompt_tokens":2}}\n\n'
    body = answer(data[:40], content_type) + answer(data[40:])

    usage = read_usage(VertexAIParser, [body[:9], body[9:]], path=SERVICE + "StreamRawPredict", content_type=GRPC)

    assert usage == Usage(prompt_tokens=2)


@pytest.mark.parametrize("data", [b'{"model":"sent"}', b'data: {"model":"sent"}\n\n'])
def test_the_model_is_restored_within(data: bytes) -> None:
    restored = make_plugin(VertexAIParser).restore_model(answer(data), sent="sent", asked="asked")

    assert answer_data(restored) == data.replace(b"sent", b"asked")


@pytest.mark.parametrize("body", [b"", b"x", frame(b"\xff\xff"), answer(b'{"model":"other"}')])
def test_everything_else_comes_back_unchanged(body: bytes) -> None:
    assert make_plugin(VertexAIParser).restore_model(body, sent="sent", asked="asked") == body
