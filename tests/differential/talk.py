"""Plays Envoy: one conversation with one EPP, and what came of it in a form that two EPPs can be compared by."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc
import msgspec
from google.protobuf import json_format

from epp.extproc.exchange import BodyMode
from epp.extproc.gen import ext_proc_pb2 as pb
from tests.support import extproc
from tests.support.extproc import Replies
from tests.support.service import process_call

DESTINATION: Final = "x-gateway-destination-endpoint"
_SCORES: Final = "x-gateway-destination-endpoint-scores"
_PATIENCE_S: Final = 60.0
JSON_ANSWER: Final = json.dumps(
    {
        "object": "text_completion",
        "model": "m",
        "choices": [{"text": "yes"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    }
).encode()


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """A request as a client sends it. `body` None: none at all. `answer` are the pieces of the response's body."""

    path: str = "/v1/completions"
    method: str = "POST"
    body: bytes | None = b""
    headers: Mapping[str, str] = {}
    subset: Sequence[str] | None = None
    answer: Sequence[bytes] = (JSON_ANSWER,)
    answer_headers: Mapping[str, str] = {}
    status: int = 200
    body_pieces: int = 1
    id: str = "r-1"
    """The Go EPP counts requests in flight by it: no two of them may have the same."""

    @property
    def fields(self) -> dict[str, str]:
        pseudo = {":method": self.method, ":path": self.path, ":authority": "a", ":scheme": "http"}
        return pseudo | {"content-type": "application/json", "x-request-id": self.id} | dict(self.headers)


def completion(prompt: str, **fields: Any) -> bytes:
    return json.dumps({"model": "m", "prompt": prompt, "max_tokens": 4} | fields).encode()


class Outcome(msgspec.Struct):
    """What an EPP did. Headers are as the next hop sees them, whichever of them the EPP repeated."""

    destination: str = ""
    """The header's value, which must be the metadata's."""
    immediate: tuple[int, str, dict[str, str]] | None = None
    """Status, body and headers of an immediate response."""
    failure: str = ""
    """The gRPC status's name when the conversation ended with an error."""
    kinds: list[str] = []
    request_headers: dict[str, str] = {}
    response_headers: dict[str, str] = {}
    metadata: dict[str, Any] = {}
    """Without the scores."""
    scores: dict[str, float] = {}
    body: bytes = b""
    answer: bytes = b""
    answer_ends: list[bool] = []

    @property
    def verdict(self) -> tuple[object, ...]:
        """Status and error text, or that the request goes on."""
        return self.immediate[:2] if self.immediate else (self.failure or "routed",)


class Talk:
    """One open ext_proc stream, full duplex in both directions."""

    def __init__(self, channel: grpc.aio.Channel, ask: Ask) -> None:
        self._call = process_call(channel)
        self._ask = ask
        self.replies = Replies()
        self.ended = False

    async def request(self) -> None:
        """Send the request and read until it is answered."""
        ask = self._ask
        mode = BodyMode.FULL_DUPLEX_STREAMED
        bodiless = ask.body is None
        head = extproc.request_headers(
            ask.fields, end=bodiless, request_mode=mode, response_mode=mode, subset=ask.subset
        )
        await self._send(head)
        if ask.body is not None:
            size = max(1, -(-len(ask.body) // ask.body_pieces))
            pieces = [ask.body[i : i + size] for i in range(0, len(ask.body), size)] or [b""]
            for number, piece in enumerate(pieces, start=1):
                message = extproc.request_body(piece, end=number == len(pieces))
                if ask.subset is not None:
                    extproc.hint(message, ask.subset)
                await self._send(message)
        # The answer is whole with the last piece of the body or, without one, with the headers.
        await self._read(lambda: self._request_answered(bodiless=bodiless))

    def _request_answered(self, *, bodiless: bool) -> bool:
        if bodiless:
            return "request_headers" in self.replies.kinds
        return any(self.replies.ends("request_body"))

    async def respond(self) -> None:
        """Send the response and read until it is answered."""
        ask = self._ask
        await self._send(extproc.response_headers(ask.status, ask.answer_headers, end=not ask.answer))
        for number, piece in enumerate(ask.answer, start=1):
            await self._send(extproc.response_body(piece, end=number == len(ask.answer)))
        await self._read(
            lambda: any(self.replies.ends("response_body")) if ask.answer else "response_headers" in self.replies.kinds
        )

    async def close(self) -> None:
        if not self.ended:
            await self._call.done_writing()
            await self._read(lambda: False)

    async def _send(self, message: pb.ProcessingRequest) -> None:
        if not self.ended:
            try:
                await self._call.write(message.SerializeToString())
            except grpc.aio.AioRpcError:
                self.ended = True

    async def _read(self, enough: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not self.ended and not enough():
                    data = await self._call.read()
                    if data is grpc.aio.EOF:
                        self.ended = True
                    else:
                        self.replies.append(pb.ProcessingResponse.FromString(data))
        except grpc.aio.AioRpcError:
            self.ended = True

    async def outcome(self) -> Outcome:
        replies, ask = self.replies, self._ask
        found = Outcome(kinds=replies.kinds)
        if self.ended and (code := await self._call.code()) is not grpc.StatusCode.OK:
            found.failure = code.name
        if "immediate_response" in replies.kinds:
            status, text = replies.immediate
            found.immediate = (status, text, lower(replies.headers_set("immediate_response")))
        given = lower(replies.headers_set("request_headers"))
        found.destination = given.get(DESTINATION, "")
        found.request_headers = ask.fields | given
        found.response_headers = answer_fields(ask) | lower(replies.headers_set("response_headers"))
        for reply in replies:
            for namespace, value in json_format.MessageToDict(reply.dynamic_metadata).items():
                found.metadata.setdefault(namespace, {}).update(value)
        for reply in replies:
            _check_no_removal(reply)
        found.scores = found.metadata.get("envoy.lb", {}).pop(_SCORES, {})
        found.body, found.answer = replies.streamed("request_body"), replies.streamed("response_body")
        found.answer_ends = replies.ends("response_body")
        return found


def answer_fields(ask: Ask) -> dict[str, str]:
    """The response's headers as they come from the model server."""
    return {":status": str(ask.status), "content-type": "application/json"} | dict(ask.answer_headers)


def lower(fields: Mapping[str, str]) -> dict[str, str]:
    return {k.lower(): v for k, v in fields.items()}


def _check_no_removal(reply: pb.ProcessingResponse) -> None:
    for kind in ("request_headers", "response_headers"):
        if reply.WhichOneof("response") == kind:
            assert not getattr(reply, kind).response.header_mutation.remove_headers, reply


async def ask_one(channel: grpc.aio.Channel, ask: Ask) -> Outcome:
    """The whole conversation: request, response, end."""
    talk = Talk(channel, ask)
    await talk.request()
    if not talk.ended and "immediate_response" not in talk.replies.kinds:
        await talk.respond()
    await talk.close()
    return await talk.outcome()


@asynccontextmanager
async def held(channel: grpc.aio.Channel, ask: Ask) -> AsyncIterator[Outcome]:
    """A request that is in flight for as long as the block lasts."""
    talk = Talk(channel, ask)
    await talk.request()
    try:
        yield await talk.outcome()
    finally:
        await talk.respond()
        await talk.close()
