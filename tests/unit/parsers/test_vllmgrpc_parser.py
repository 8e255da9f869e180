"""vLLM's gRPC bodies: prompts in, usage out."""

from __future__ import annotations

import struct

import pytest

from epp.api import Prompt, RequestError, Usage
from epp_plugins.gen import vllm_engine_pb2 as vllm
from epp_plugins.parsers.grpc_frames import MAX_MESSAGE_BYTES, frame
from epp_plugins.parsers.vllmgrpc_parser import VLLMGrpcParser
from tests.support.parsing import parse, read_usage

GENERATE = "/vllm.grpc.engine.VllmEngine/Generate"
EMBED = "/vllm.grpc.engine.VllmEngine/Embed"
GRPC = "application/grpc"


def generate(**fields: object) -> bytes:
    return frame(vllm.GenerateRequest(**fields).SerializeToString())  # type: ignore[arg-type]


def complete(**counts: int) -> bytes:
    return frame(vllm.GenerateResponse(complete=vllm.GenerateComplete(**counts)).SerializeToString())  # type: ignore[arg-type]


def chunk(**counts: int) -> bytes:
    return frame(vllm.GenerateResponse(chunk=vllm.GenerateStreamChunk(**counts)).SerializeToString())  # type: ignore[arg-type]


def test_a_text_is_the_prompt() -> None:
    payload = parse(VLLMGrpcParser, GENERATE, generate(text="héllo", stream=True, sampling_params={"max_tokens": 5}))

    assert payload.prompts == (Prompt("héllo".encode()),)
    assert (payload.model, payload.streaming, payload.max_output_tokens) == (None, True, 5)


def test_token_ids_are_the_prompt() -> None:
    payload = parse(VLLMGrpcParser, GENERATE, generate(tokenized={"original_text": "x", "input_ids": [1, 2]}))

    assert payload.prompts == (Prompt(struct.pack("<2I", 1, 2), tokenized=True),)
    assert (payload.streaming, payload.max_output_tokens) == (False, None)


def test_media_are_told_apart() -> None:
    def data(content_hash: str) -> bytes:
        media = {"mm_hashes": [content_hash], "mm_placeholders": [{"offset": 1, "length": 1}]}
        return (
            parse(VLLMGrpcParser, GENERATE, generate(tokenized={"input_ids": [1, 2]}, mm_inputs=media)).prompts[0].data
        )

    assert data("a") != data("b")
    assert data("a")[:4] == data("b")[:4]


def test_an_embed_request_is_read() -> None:
    body = frame(vllm.EmbedRequest(tokenized={"input_ids": [3]}).SerializeToString())

    assert parse(VLLMGrpcParser, EMBED, body).prompts == (Prompt(struct.pack("<I", 3), tokenized=True),)


def test_other_methods_pass_unread() -> None:
    payload = parse(VLLMGrpcParser, "/vllm.grpc.engine.VllmEngine/Whatever", b"anything")

    assert payload.skip_response


@pytest.mark.parametrize(
    ("path", "body", "message"),
    [
        (GENERATE, b"", "parsing gRPC payload for Generate: not able to parse payload"),
        (GENERATE, b"\x00\x00\x00\x00\x09abc", "parsing gRPC payload for Generate: not able to parse payload"),
        (GENERATE, b"\x01" + generate(text="a")[1:], "parsing gRPC payload for Generate: not able to parse payload"),
        (GENERATE, generate(text="a") + b"x", "parsing gRPC payload for Generate: not able to parse payload"),
        (GENERATE, frame(b"\xff\xff"), "parsing gRPC payload for Generate: not able to parse payload"),
        (GENERATE, frame(b"\x1a\x01\xff"), "parsing gRPC payload for Generate: not able to parse payload"),
        (EMBED, b"x", "parsing gRPC payload for Embed: not able to parse payload"),
        (GENERATE, frame(b""), "not supported request inputType"),
        (EMBED, frame(b""), "missing tokenized input in EmbedRequest"),
        ("/other.Service/Do", b"", "unsupported gRPC path: /other.Service/Do"),
    ],
)
def test_invalid_requests_are_refused(path: str, body: bytes, message: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse(VLLMGrpcParser, path, body)

    assert caught.value.message == message


@pytest.mark.parametrize("size", [1, 4, 1000])
def test_the_last_counts_of_a_stream_are_the_usage(size: int) -> None:
    body = b"".join(
        (
            chunk(prompt_tokens=8, completion_tokens=1, cached_tokens=4),
            chunk(prompt_tokens=8, completion_tokens=2, cached_tokens=4),
            complete(prompt_tokens=8, completion_tokens=3, cached_tokens=4),
        )
    )
    chunks = [body[i : i + size] for i in range(0, len(body), size)]

    expected = Usage(prompt_tokens=8, completion_tokens=3, total_tokens=11, cached_tokens=4)
    assert read_usage(VLLMGrpcParser, chunks, path=GENERATE, content_type=GRPC) == expected


def test_an_embed_response_counts_its_prompt() -> None:
    body = frame(vllm.EmbedResponse(prompt_tokens=5, embedding=[0.5]).SerializeToString())

    assert read_usage(VLLMGrpcParser, [body], path=EMBED, content_type=GRPC) == Usage(prompt_tokens=5)


@pytest.mark.parametrize(
    "first",
    [
        b"\x01\x00\x00\x00\x03abc",
        b"\x00" + (MAX_MESSAGE_BYTES + 1).to_bytes(4) + b"x" * (MAX_MESSAGE_BYTES + 1),
        frame(b"\xff\xff"),
        frame(b""),
    ],
    ids=["compressed", "too long", "malformed", "empty"],
)
@pytest.mark.parametrize("size", [65_536, 3])
def test_messages_that_cannot_be_read_are_passed_over(first: bytes, size: int) -> None:
    body = first + complete(prompt_tokens=1)
    head = body[: len(first) - 2]  # one piece, so that few calls are made; the split that matters comes after it
    rest = body[len(head) :]
    chunks = [head, *(rest[i : i + size] for i in range(0, len(rest), size))]

    usage = read_usage(VLLMGrpcParser, chunks, path=GENERATE, content_type=GRPC)

    assert usage is not None
    assert usage.prompt_tokens == 1
