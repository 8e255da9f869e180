"""What the demo's clients make of an answer, and in which order they send. Against a small server on loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from epp.demo.client import Answer, Target, play
from epp.demo.workload import Conversation, Turn
from tests.support.ports import free_port

USAGE = '"usage": {"prompt_tokens": 90, "prompt_tokens_details": {"cached_tokens": 60}}'
WHOLE = '{"choices": [{"message": {"role": "assistant", "content": "blue"}}], ' + USAGE + "}"
CHUNKS = (
    '{"choices": [{"delta": {"role": "assistant", "content": null}}]}',
    '{"choices": [{"delta": {"content": "bl"}}]}',
    '{"choices": [{"delta": {"content": "ue"}}]}',
    '{"choices": [], ' + USAGE + "}",
)


class Server:
    """Answers every chat, streamed or not as asked; `broken` says how it fails instead."""

    def __init__(self) -> None:
        self.broken = ""
        self.seen: list[tuple[str, list[str]]] = []
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        self.http = TestServer(app, host="127.0.0.1")

    @property
    def target(self) -> Target:
        return Target(str(self.http.make_url("")).rstrip("/"), "m", "run")

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append((request.headers["x-request-id"], [message["content"] for message in body["messages"]]))
        if self.broken == "status":
            return web.Response(status=503, text="no endpoint")
        if not body.get("stream"):
            return web.Response(text="oops" if self.broken else WHOLE)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for chunk in CHUNKS:
            await response.write(f"data: {chunk}\n\n".encode())
        if not self.broken:
            await response.write(b"data: [DONE]\n\n")
        return response


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    await server.http.start_server()
    yield server
    await server.http.close()


def one_off(*, streamed: bool) -> Conversation:
    return Conversation("", (Turn("one-off 1", 0.0, "which colour?", streamed),))


async def play_one(server: Server, *, streamed: bool) -> Answer:
    (answer,) = await play([one_off(streamed=streamed)], server.target, on_answer=lambda _: None)
    return answer


async def test_a_streamed_answer_has_a_first_token_and_the_engines_usage(server: Server) -> None:
    answer = await play_one(server, streamed=True)

    assert (answer.text, answer.prompt_tokens, answer.cached_tokens, answer.error) == ("blue", 90, 60, "")
    assert answer.ttft_ms is not None
    assert answer.total_ms is not None
    assert answer.ttft_ms <= answer.total_ms


async def test_an_answer_in_one_piece_has_no_first_token(server: Server) -> None:
    answer = await play_one(server, streamed=False)

    assert (answer.text, answer.prompt_tokens, answer.cached_tokens, answer.ttft_ms) == ("blue", 90, 60, None)


async def test_a_refused_request_is_an_answer_with_an_error(server: Server) -> None:
    server.broken = "status"

    assert (await play_one(server, streamed=True)).error == "503 no endpoint"


async def test_a_stream_that_breaks_off_is_an_error(server: Server) -> None:
    server.broken = "cut"

    assert (await play_one(server, streamed=True)).error == "the stream ended before it was done"


async def test_an_answer_that_is_no_json_is_an_error(server: Server) -> None:
    server.broken = "garbage"

    assert (await play_one(server, streamed=False)).error.startswith("DecodeError")


async def test_a_server_that_is_not_there_is_an_error() -> None:
    target = Target(f"http://127.0.0.1:{free_port()}", "m", "run")
    (answer,) = await play([one_off(streamed=True)], target, on_answer=lambda _: None)

    assert (answer.status, answer.error.partition(":")[0]) == (0, "ClientConnectorError")


async def test_a_turn_carries_everything_said_before_it(server: Server) -> None:
    turns = tuple(Turn(f"chat 1, turn {n}", 0.0, f"question {n}", streamed=n == 1) for n in (1, 2))
    await play([Conversation("the document", turns)], server.target, on_answer=lambda _: None)

    assert server.seen == [
        ("run-0-0", ["the document", "question 1"]),
        ("run-0-1", ["the document", "question 1", "blue", "question 2"]),
    ]


async def test_each_answer_is_handed_on_as_it_ends(server: Server) -> None:
    seen: list[Answer] = []
    answers = await play([one_off(streamed=True), one_off(streamed=False)], server.target, on_answer=seen.append)

    assert seen == answers
    assert {answer.id for answer in seen} == {"run-0-0", "run-1-0"}
