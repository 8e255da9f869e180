"""The clients of the demo: play a load against an OpenAI-compatible server, and note what each request got and when.

Requests leave at their time, however slow the answers are; only a conversation's next turn waits for the answer before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import aiohttp
import msgspec

from epp.demo.workload import Conversation, Turn

_REQUEST_TIMEOUT_S = 60.0
_SHOWN_OF_AN_ERROR = 200


class Answer(msgspec.Struct):
    """One request as its client saw it. Times in milliseconds from sending; None: not seen."""

    id: str
    label: str
    streamed: bool
    late_ms: float
    """How long after its planned time it was sent: its conversation was still waiting for the answer before."""
    status: int = 0
    ttft_ms: float | None = None
    """The first token, of a streamed answer."""
    total_ms: float | None = None
    prompt_tokens: int = 0
    cached_tokens: int = 0
    """Of prompt_tokens, as the engine reports it."""
    error: str = ""
    text: str = ""


class _TokenDetails(msgspec.Struct):
    cached_tokens: int = 0


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    prompt_tokens_details: _TokenDetails | None = None


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message = msgspec.field(default_factory=_Message)
    delta: _Message = msgspec.field(default_factory=_Message)


class _Completion(msgspec.Struct):
    """A whole chat completion or one chunk of a streamed one."""

    choices: list[_Choice] = []
    usage: _Usage | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """Where a load is sent. `run` opens the request ids, so that two runs can be told apart in one log."""

    url: str
    model: str
    run: str


async def play(load: Iterable[Conversation], target: Target, *, on_answer: Callable[[Answer], None]) -> list[Answer]:
    """Send everything; returns the answers in the order in which they ended. A request that fails is an answer, too."""
    answers: list[Answer] = []

    def note(answer: Answer) -> None:
        answers.append(answer)
        on_answer(answer)

    async with (
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=_REQUEST_TIMEOUT_S)
        ) as http,
        asyncio.TaskGroup() as group,
    ):
        start_s = time.monotonic()
        for number, conversation in enumerate(load):
            group.create_task(_converse(http, target, conversation, number, start_s, note))
    return answers


async def ask(
    http: aiohttp.ClientSession,
    target: Target,
    turn: Turn,
    *,
    request_id: str,
    late_ms: float,
    messages: list[dict[str, str]],
) -> Answer:
    """Send one request and read its answer to the end. Never raises for what the server or the network does."""
    answer = Answer(request_id, turn.label, turn.streamed, late_ms)
    body: dict[str, object] = {"model": target.model, "messages": messages, "max_tokens": turn.max_tokens}
    if turn.streamed:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    sent_s = time.monotonic()
    try:
        url, headers = f"{target.url}/v1/chat/completions", {"x-request-id": request_id}
        async with http.post(url, json=body, headers=headers) as response:
            answer.status = response.status
            if response.status != 200:
                answer.error = f"{response.status} {(await response.text())[:_SHOWN_OF_AN_ERROR]}"
            elif turn.streamed:
                await _read_stream(response, answer, sent_s)
            else:
                _take(answer, msgspec.json.decode(await response.read(), type=_Completion))
        answer.total_ms = _ms_since(sent_s)
    except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError) as error:
        answer.error = f"{type(error).__name__}: {error}"
    return answer


async def _converse(
    http: aiohttp.ClientSession,
    target: Target,
    conversation: Conversation,
    number: int,
    start_s: float,
    note: Callable[[Answer], None],
) -> None:
    messages = [{"role": "system", "content": conversation.document}] if conversation.document else []
    for position, turn in enumerate(conversation.turns):
        early_s = start_s + turn.at_s - time.monotonic()
        if early_s > 0:
            await asyncio.sleep(early_s)
        messages.append({"role": "user", "content": turn.text})
        answer = await ask(
            http,
            target,
            turn,
            request_id=f"{target.run}-{number}-{position}",
            late_ms=max(0.0, -early_s * 1e3),
            messages=messages,
        )
        messages.append({"role": "assistant", "content": answer.text})
        note(answer)


async def _read_stream(response: aiohttp.ClientResponse, answer: Answer, sent_s: float) -> None:
    done = False
    async for line in response.content:
        event = line.removeprefix(b"data: ").strip()
        if event == b"[DONE]":
            done = True
        elif line.startswith(b"data: "):
            _take(answer, msgspec.json.decode(event, type=_Completion))
            # A first chunk may name the role only.
            if answer.text and answer.ttft_ms is None:
                answer.ttft_ms = _ms_since(sent_s)
    if not done:
        answer.error = "the stream ended before it was done"


def _take(answer: Answer, completion: _Completion) -> None:
    for choice in completion.choices:
        answer.text += (choice.message.content or "") + (choice.delta.content or "")
    if completion.usage is not None:
        details = completion.usage.prompt_tokens_details
        answer.prompt_tokens = completion.usage.prompt_tokens
        answer.cached_tokens = details.cached_tokens if details is not None else 0


def _ms_since(start_s: float) -> float:
    return (time.monotonic() - start_s) * 1e3
