"""Replies written as bytes are what the stubs would have written."""

import pytest

from epp.extproc import wire
from epp.extproc.gen import ext_proc_pb2 as pb

SIZES = [0, 1, 100, 117, 118, 119, 127, 128, 4095, 4096, 16_360, 16_383, 16_384, 61_999, 62_000]


@pytest.mark.parametrize("kind", ["request_body", "response_body"])
@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("size", SIZES)
def test_streamed_pieces(kind: str, size: int, end: bool) -> None:
    expected = pb.ProcessingResponse()
    streamed = getattr(expected, kind).response.body_mutation.streamed_response
    streamed.SetInParent()
    streamed.body = b"x" * size
    streamed.end_of_stream = end

    assert wire.streamed_reply(kind, b"x" * size, end=end) == expected.SerializeToString()


@pytest.mark.parametrize("value", ["", "v", "x" * 200, "caf\u00e9", "\udcff"])
def test_headers_and_metadata(value: str) -> None:
    expected = pb.ProcessingResponse()
    common = expected.request_headers.response
    option = common.header_mutation.set_headers.add()
    option.header.key = "name"
    option.header.raw_value = value.encode("utf-8", "surrogateescape")
    option.append_action = pb.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    common.clear_route_cache = True

    reply = wire.headers_reply("request_headers", wire.set_header("name", value), wire.CLEAR_ROUTE_CACHE)

    assert pb.ProcessingResponse.FromString(reply) == expected


def test_string_metadata() -> None:
    expected = pb.ProcessingResponse()
    expected.dynamic_metadata.update({"envoy.lb": {"key": "10.0.0.1:8000"}})

    assert wire.string_metadata("envoy.lb", "key", "10.0.0.1:8000") == expected.SerializeToString()


@pytest.mark.parametrize("kind", list(wire.KINDS))
def test_empty_replies(kind: str) -> None:
    reply = pb.ProcessingResponse.FromString(wire.empty_reply(kind))

    assert reply.WhichOneof("response") == kind


@pytest.mark.parametrize("value", [0, 1, 127, 128, 300, 16_383, 16_384, 2**31])
def test_varints(value: int) -> None:
    message = pb.GrpcStatus(status=value)

    assert message.SerializeToString() == (b"\x08" + wire.varint(value) if value else b"")
