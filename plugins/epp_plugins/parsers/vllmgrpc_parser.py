"""vllmgrpc-parser: vLLM's gRPC engine service. Its requests name no model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from google.protobuf.message import DecodeError, Message

from epp.api import Code, Parser, Payload, Prompt, Request, RequestError, Response, Usage, UsageReader
from epp_plugins.gen import vllm_engine_pb2
from epp_plugins.parsers.grpc_frames import FrameReader, only_message
from epp_plugins.parsers.token_ids import token_prompt, with_media
from epp_plugins.parsers.usage import merge

_SERVICE: Final = "VllmEngine/"
_GENERATE: Final = "VllmEngine/Generate"
_EMBED: Final = "VllmEngine/Embed"
_UNREAD: Final = ("VllmEngine/HealthCheck", "VllmEngine/Abort", "VllmEngine/GetModelInfo", "VllmEngine/GetServerInfo")


class VLLMGrpcParser(Parser):
    """Reads Generate and Embed; other methods of the service pass unread, and their responses are of no interest."""

    type = "vllmgrpc-parser"
    app_protocols = ("kubernetes.io/h2c",)

    def paths(self) -> Sequence[str]:
        return (_GENERATE, _EMBED, *_UNREAD)

    def parse_request(self, path: str, headers: Mapping[str, str], body: bytes) -> Payload:
        if path.endswith(_GENERATE):
            return _generate_payload(body)
        if path.endswith(_EMBED):
            return _embed_payload(body)
        if _SERVICE in path:
            return Payload(skip_response=True)
        raise RequestError(Code.BAD_REQUEST, f"unsupported gRPC path: {path}")

    def usage_reader(self, request: Request, response: Response) -> UsageReader | None:
        if request.path.endswith(_GENERATE):
            return GenerateUsageReader()
        return EmbedUsageReader() if request.path.endswith(_EMBED) else None


class GenerateUsageReader:
    """Reads the counts of stream chunks, which are sums so far, and of the completion: those of one choice."""

    __slots__ = ("_frames", "_usage")

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._usage: Usage | None = None

    def feed(self, chunk: bytes) -> None:
        for message in self._frames.feed(chunk):
            self._usage = merge(self._usage, _generate_usage(message))

    def finish(self) -> Usage | None:
        return self._usage


class EmbedUsageReader:
    """Reads the prompt tokens of an EmbedResponse."""

    __slots__ = ("_frames", "_usage")

    def __init__(self) -> None:
        self._frames = FrameReader()
        self._usage: Usage | None = None

    def feed(self, chunk: bytes) -> None:
        for message in self._frames.feed(chunk):
            response = vllm_engine_pb2.EmbedResponse()
            if _parsed(response, message):
                self._usage = Usage(prompt_tokens=response.prompt_tokens)

    def finish(self) -> Usage | None:
        return self._usage


def _generate_payload(body: bytes) -> Payload:
    request = vllm_engine_pb2.GenerateRequest()
    _parse_request(request, body, "Generate")
    sampling = request.sampling_params
    return Payload(
        prompts=(_generate_prompt(request),),
        streaming=request.stream,
        max_output_tokens=sampling.max_tokens if sampling.HasField("max_tokens") else None,
    )


def _generate_prompt(request: vllm_engine_pb2.GenerateRequest) -> Prompt:
    match request.WhichOneof("input"):
        case "text":
            return Prompt(request.text.encode())
        case "tokenized":
            prompt = token_prompt(request.tokenized.input_ids)
            return with_media(prompt, _media(request.mm_inputs)) if request.mm_inputs.mm_hashes else prompt
    raise RequestError(Code.BAD_REQUEST, "not supported request inputType")


def _media(inputs: vllm_engine_pb2.MultimodalInputs) -> Iterator[tuple[int, int, str]]:
    for place, content_hash in zip(inputs.mm_placeholders, inputs.mm_hashes, strict=False):
        yield place.offset, place.length, content_hash


def _embed_payload(body: bytes) -> Payload:
    request = vllm_engine_pb2.EmbedRequest()
    _parse_request(request, body, "Embed")
    if not request.HasField("tokenized"):
        raise RequestError(Code.BAD_REQUEST, "missing tokenized input in EmbedRequest")
    return Payload(prompts=(token_prompt(request.tokenized.input_ids),))


def _parse_request(request: Message, body: bytes, method: str) -> None:
    message = only_message(body)
    if message is None or not _parsed(request, message):
        raise RequestError(Code.BAD_REQUEST, f"parsing gRPC payload for {method}: not able to parse payload")


def _parsed(into: Message, message: bytes) -> bool:
    try:
        into.ParseFromString(message)
    except DecodeError:
        return False
    return True


def _generate_usage(message: bytes) -> Usage | None:
    response = vllm_engine_pb2.GenerateResponse()
    if not _parsed(response, message):
        return None
    match response.WhichOneof("response"):
        case "complete":
            counts: vllm_engine_pb2.GenerateComplete | vllm_engine_pb2.GenerateStreamChunk = response.complete
        case "chunk":
            counts = response.chunk
        case _:
            return None
    return Usage(
        prompt_tokens=counts.prompt_tokens,
        completion_tokens=counts.completion_tokens,
        total_tokens=counts.prompt_tokens + counts.completion_tokens,
        cached_tokens=counts.cached_tokens,
    )
