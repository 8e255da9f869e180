"""The inference endpoints: from a request body to sequences in the engine, and from their tokens to an answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from aiohttp import web

from epp.sim.core import Core
from epp.sim.errors import ApiError
from epp.sim.faults import Faults
from epp.sim.schema import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Message,
    ResponsesRequest,
    TokenizeRequest,
    chat_prompt,
    plain_prompts,
)
from epp.sim.sending import respond, send_events
from epp.sim.sequence import Sequence
from epp.sim.shapes import DONE, ChatShape, CompletionShape, ResponsesShape, Shape
from epp.sim.tokens import decode_ids, prompt_seed, token_count

MOST_CHOICES = 128
EMBEDDING_DIMENSIONS = 64
MOST_DIMENSIONS = 8192

Body = TypeVar("Body")
Endpoint = Callable[[Core, web.BaseRequest, bytes, Faults], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Ask:
    """What any of the endpoints asks of the engine. `max_tokens` None: until the answer ends by itself."""

    prompts: list[bytes]
    model: str | None
    max_tokens: int | None = None
    n: int = 1
    cache_salt: str | None = None
    stream: bool = False
    include_usage: bool = False


class Generation:
    """The sequences of one request, and the wait for them. Leaving the `with` block aborts what has not finished."""

    def __init__(self, core: Core, ask: Ask) -> None:
        self._runner = core.runner
        self._news = asyncio.Event()
        adapter = resolve_model(core, ask.model)
        self.choices = [
            self._sequence(core, ask, prompt, adapter=adapter, prompt_id=number)
            for number, prompt in enumerate(ask.prompts)
            for _ in range(ask.n)
        ]
        limit = core.config.max_queued_requests
        if limit is not None and self._runner.engine.waiting >= limit:
            self._runner.engine.stats.reject()
            raise ApiError(503, "The engine is currently busy, please try again later.")
        for sequence in self.choices:
            self._runner.submit(sequence)

    def __enter__(self) -> Generation:
        return self

    def __exit__(self, *_: object) -> None:
        for sequence in self.choices:
            if not sequence.is_done:
                self._runner.abort(sequence)

    @property
    def is_done(self) -> bool:
        return all(sequence.is_done for sequence in self.choices)

    @property
    def failed(self) -> bool:
        return any(sequence.failed for sequence in self.choices)

    async def progress(self) -> None:
        """Wait until a sequence has something to tell."""
        await self._news.wait()
        self._news.clear()

    async def finish(self) -> None:
        """Wait for all of it. ApiError 500 when the engine died meanwhile."""
        while not self.is_done:
            await self.progress()
        if self.failed:
            raise engine_dead()

    def _sequence(self, core: Core, ask: Ask, prompt: bytes, *, adapter: str | None, prompt_id: int) -> Sequence:
        config = core.config
        max_tokens, end_reason = answer_length(core, token_count(prompt), ask.max_tokens)
        return Sequence(
            prompt,
            block_size=config.block_size,
            max_tokens=max_tokens,
            arrival_s=self._runner.now_s(),
            end_reason=end_reason,
            adapter=adapter,
            cache_salt=ask.cache_salt,
            prompt_id=prompt_id,
            report_every=config.stream_interval if ask.stream else 0,
            on_progress=self._news.set,
        )


def engine_dead() -> ApiError:
    return ApiError(500, "EngineCore encountered an issue. See stack trace (above) for the root cause.")


def resolve_model(core: Core, model: str | None) -> str | None:
    """The adapter that a model name means, None for the base model. ApiError 404 for a name nobody serves."""
    config = core.config
    if model is None or model == config.model:
        return None
    if model in config.loras:
        return model
    aliases = ", ".join((config.model, *config.loras))
    raise ApiError(404, f"The model `{model}` does not exist. Valid aliases: {aliases}.", param="model")


def answer_length(core: Core, prompt_tokens: int, max_tokens: int | None) -> tuple[int, str]:
    """Tokens of the answer, and why it ends. ApiError 400 when prompt and answer do not fit the context."""
    context = core.config.context_tokens
    if not prompt_tokens:
        raise ApiError(400, "The decoder prompt cannot be empty", param="prompt")
    wanted = 1 if max_tokens is None else max_tokens
    if prompt_tokens + wanted > context:
        raise ApiError(
            400,
            f"This model's maximum context length is {context} tokens. However, you requested {wanted} output tokens "
            f"and your prompt contains {prompt_tokens} input tokens. Please reduce the length of the input prompt or "
            "the number of requested output tokens.",
            param="input_tokens",
        )
    if max_tokens is None:
        return min(core.config.output_tokens, context - prompt_tokens), "stop"
    return max_tokens, "length" if max_tokens else "stop"


def decode(body: bytes, kind: type[Body]) -> Body:
    """ApiError 400 for a body that is no JSON, or JSON of the wrong shape."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise ApiError(400, str(error)) from error


def checked_limit(max_tokens: int | None, n: int) -> int | None:
    if max_tokens is not None and max_tokens < 1:
        raise ApiError(400, f"max_tokens must be at least 1, got {max_tokens}.", param="max_tokens")
    if not 1 <= n <= MOST_CHOICES:
        raise ApiError(400, f"n must be in 1..{MOST_CHOICES}, got {n}.", param="n")
    return max_tokens


def checked_prompts(prompt: str | list[str | int | list[int]]) -> list[bytes]:
    try:
        return plain_prompts(prompt)
    except ValueError as error:
        raise ApiError(400, str(error), param="prompt") from error


def answer_id(request: web.BaseRequest, prefix: str) -> str:
    """The client's x-request-id behind the endpoint's prefix, or a random id."""
    return prefix + (request.headers.get("x-request-id") or os.urandom(8).hex())


async def answer(core: Core, request: web.BaseRequest, faults: Faults, *, ask: Ask, shape: Shape) -> web.StreamResponse:
    with Generation(core, ask) as generation:
        if not ask.stream:
            await generation.finish()
            return await respond(core, request, shape.whole(generation.choices), faults=faults)
        batches = event_batches(generation, shape, include_usage=ask.include_usage)
        return await send_events(core, request, batches, faults=faults)


async def event_batches(generation: Generation, shape: Shape, *, include_usage: bool) -> AsyncIterator[list[bytes]]:
    """The events of a stream, those of one wakeup together."""
    choices = generation.choices
    told = [0] * len(choices)
    while True:
        await generation.progress()
        if generation.failed:
            yield [b"data: " + engine_dead().body() + b"\n\n", DONE]
            return
        events: list[bytes] = []
        for index, choice in enumerate(choices):
            if choice.generated == told[index]:
                continue
            if not told[index]:
                events += shape.opening(index)
            events.append(shape.delta(index, choice.text(told[index], choice.generated), choice.finish_reason))
            told[index] = choice.generated
        if generation.is_done:
            yield events + shape.closing(choices, include_usage)
            return
        yield events


async def completions(core: Core, request: web.BaseRequest, body: bytes, faults: Faults) -> web.StreamResponse:
    asked = decode(body, CompletionRequest)
    ask = Ask(
        checked_prompts(asked.prompt),
        asked.model,
        max_tokens=checked_limit(asked.max_tokens, asked.n),
        n=asked.n,
        cache_salt=asked.cache_salt,
        stream=asked.stream,
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
    )
    shape = CompletionShape(answer_id(request, "cmpl-"), int(time.time()), asked.model or core.config.model)
    return await answer(core, request, faults, ask=ask, shape=shape)


async def chat(core: Core, request: web.BaseRequest, body: bytes, faults: Faults) -> web.StreamResponse:
    asked = decode(body, ChatRequest)
    limit = asked.max_tokens if asked.max_completion_tokens is None else asked.max_completion_tokens
    ask = Ask(
        [chat_prompt(asked.messages, tools=bytes(asked.tools))],
        asked.model,
        max_tokens=checked_limit(limit, asked.n),
        n=asked.n,
        cache_salt=asked.cache_salt,
        stream=asked.stream,
        include_usage=asked.stream_options is not None and asked.stream_options.include_usage,
    )
    shape = ChatShape(answer_id(request, "chatcmpl-"), int(time.time()), asked.model or core.config.model)
    return await answer(core, request, faults, ask=ask, shape=shape)


async def responses(core: Core, request: web.BaseRequest, body: bytes, faults: Faults) -> web.StreamResponse:
    asked = decode(body, ResponsesRequest)
    messages = [Message(content=asked.input)] if isinstance(asked.input, str) else asked.input
    ask = Ask(
        [chat_prompt(messages, instructions=asked.instructions)],
        asked.model,
        max_tokens=checked_limit(asked.max_output_tokens, 1),
        cache_salt=asked.cache_salt,
        stream=asked.stream,
    )
    shape = ResponsesShape(answer_id(request, "resp_"), int(time.time()), asked.model or core.config.model)
    return await answer(core, request, faults, ask=ask, shape=shape)


async def embeddings(core: Core, request: web.BaseRequest, body: bytes, faults: Faults) -> web.StreamResponse:
    asked = decode(body, EmbeddingRequest)
    dimensions = EMBEDDING_DIMENSIONS if asked.dimensions is None else asked.dimensions
    if not 1 <= dimensions <= MOST_DIMENSIONS:
        raise ApiError(400, f"dimensions must be in 1..{MOST_DIMENSIONS}, got {dimensions}.", param="dimensions")
    prompts = checked_prompts(asked.input)
    with Generation(core, Ask(prompts, asked.model, max_tokens=0, cache_salt=asked.cache_salt)) as generation:
        await generation.finish()
        count = sum(choice.prompt_tokens for choice in generation.choices)
    payload = {
        "id": answer_id(request, "embd-"),
        "object": "list",
        "created": int(time.time()),
        "model": asked.model or core.config.model,
        "data": [
            {"index": index, "object": "embedding", "embedding": embedding(prompt, dimensions)}
            for index, prompt in enumerate(prompts)
        ],
        "usage": {"prompt_tokens": count, "total_tokens": count, "completion_tokens": 0, "prompt_tokens_details": None},
    }
    return await respond(core, request, msgspec.json.encode(payload), faults=faults)


async def tokenize(core: Core, request: web.BaseRequest, body: bytes, faults: Faults) -> web.StreamResponse:
    asked = decode(body, TokenizeRequest)
    resolve_model(core, asked.model)
    if asked.messages is not None:
        prompt = chat_prompt(asked.messages)
    elif asked.prompt is not None:
        prompt = asked.prompt.encode()
    else:
        raise ApiError(400, "either prompt or messages is required", param="prompt")
    ids = decode_ids(prompt)
    payload = {"count": len(ids), "max_model_len": core.config.context_tokens, "tokens": ids, "token_strs": None}
    return await respond(core, request, msgspec.json.encode(payload), faults=faults)


def embedding(prompt: bytes, dimensions: int) -> list[float]:
    """A vector of numbers in [-1, 1) that depends on the prompt alone."""
    seed = prompt_seed(prompt)
    return [round(((seed * (2 * place + 3)) >> 40 & 0xFFFF) / 0x8000 - 1, 6) for place in range(dimensions)]


INFERENCE: dict[str, Endpoint] = {
    "/v1/completions": completions,
    "/v1/chat/completions": chat,
    "/v1/responses": responses,
    "/v1/embeddings": embeddings,
    "/tokenize": tokenize,
}
"""POST endpoints that take a model, by path."""
