"""vertexai-parser: Vertex AI's PredictionService, gRPC around OpenAI's JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeAlias

from google.protobuf.message import DecodeError

from epp.api import Code, Parser, Payload, Request, RequestError, Response, Usage, UsageReader
from epp_plugins.gen import vertexai_prediction_pb2 as vertexai
from epp_plugins.media_tokens import count_anew
from epp_plugins.parsers.grpc_frames import HEAD_BYTES, FrameReader, frame, only_message
from epp_plugins.parsers.json_body import JsonPayload
from epp_plugins.parsers.json_model import replace_model, restore_model
from epp_plugins.parsers.json_usage import JsonUsageReader
from epp_plugins.parsers.openai_parser import read_chat, read_responses
from epp_plugins.parsers.sse import SseUsageReader, restore_model_in_events

_Wrapper: TypeAlias = vertexai.ChatCompletionsRequest | vertexai.StreamRawPredictRequest | vertexai.RawPredictRequest

_CHAT: Final = "PredictionService/ChatCompletions"
_METHODS: Final[tuple[tuple[str, type[_Wrapper]], ...]] = (
    (_CHAT, vertexai.ChatCompletionsRequest),
    ("PredictionService/StreamRawPredict", vertexai.StreamRawPredictRequest),
    ("PredictionService/RawPredict", vertexai.RawPredictRequest),
)


class VertexPayload(Payload):
    """A message with a JSON object in it, whose `model` can be replaced."""

    __slots__ = ("_kind",)
    model_required = True

    def __init__(self, inner: JsonPayload, kind: type[_Wrapper]) -> None:
        super().__init__(
            model=inner.model,
            prompts=inner.prompts,
            streaming=inner.streaming,
            cache_salt=inner.cache_salt,
            max_output_tokens=inner.max_output_tokens,
            choices=inner.choices,
        )
        self._kind = kind

    def with_model(self, body: bytes, model: str) -> bytes:
        wrapper = self._kind()
        wrapper.ParseFromString(body[HEAD_BYTES:])
        wrapper.http_body.data = replace_model(wrapper.http_body.data, model)
        return frame(wrapper.SerializeToString())


class VertexAIParser(Parser):
    """Reads ChatCompletions as a chat request and the raw predictions as Responses requests; other methods pass unread."""

    type = "vertexai-parser"
    app_protocols = ("kubernetes.io/h2c",)

    def paths(self) -> Sequence[str]:
        return tuple(suffix for suffix, _ in _METHODS)

    def parse_request(self, path: str, headers: Mapping[str, str], body: bytes) -> Payload:
        for suffix, kind in _METHODS:
            if path.endswith(suffix):
                wrapper = _unwrapped(kind, body, suffix.rpartition("/")[2])
                read = read_chat if suffix == _CHAT else read_responses
                payload = read(wrapper.http_body.data)
                count_anew(payload, headers)
                return VertexPayload(payload, kind)
        return Payload(skip_response=True)

    def usage_reader(self, request: Request, response: Response) -> UsageReader | None:
        return HttpBodyUsageReader()

    def restore_model(self, body: bytes, *, sent: str, asked: str) -> bytes:
        message = only_message(body)
        answer = None if message is None else _http_body(message)
        if answer is None or sent == asked:
            return body
        if _is_events(answer):
            data = restore_model_in_events(answer.data, sent=sent, asked=asked, inner=b"response")
        else:
            data = restore_model(answer.data, sent=sent, asked=asked)
        if data == answer.data:
            return body
        answer.data = data
        return frame(answer.SerializeToString())


class HttpBodyUsageReader:
    """Reads the JSON, or the events, that HttpBody messages carry piece by piece."""

    __slots__ = ("_frames", "_inner")

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._inner: UsageReader | None = None

    def feed(self, chunk: bytes) -> None:
        for message in self._frames.feed(chunk):
            answer = _http_body(message)
            if answer is None:
                continue
            if self._inner is None:
                self._inner = SseUsageReader() if _is_events(answer) else JsonUsageReader()
            self._inner.feed(answer.data)

    def finish(self) -> Usage | None:
        return None if self._inner is None else self._inner.finish()


def _unwrapped(kind: type[_Wrapper], body: bytes, method: str) -> _Wrapper:
    wrapper = kind()
    message = only_message(body)
    try:
        if message is None:
            raise DecodeError
        wrapper.ParseFromString(message)
    except DecodeError:
        text = f"parsing gRPC payload for {method}: not able to parse payload"
        raise RequestError(Code.BAD_REQUEST, text) from None
    if not wrapper.HasField("http_body"):
        raise RequestError(Code.BAD_REQUEST, f"{kind.DESCRIPTOR.name} has no HttpBody")
    return wrapper


def _http_body(message: bytes) -> vertexai.HttpBody | None:
    answer = vertexai.HttpBody()
    try:
        answer.ParseFromString(message)
    except DecodeError:
        return None
    return answer


def _is_events(answer: vertexai.HttpBody) -> bool:
    return "text/event-stream" in answer.content_type.lower() or answer.data.startswith((b"data:", b"event:", b":"))
