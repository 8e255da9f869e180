"""token-producer: the prompts and the media of a request, for plugins that look into them."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Final

import msgspec

from epp.api import (
    TOKENIZED_PROMPT,
    Candidates,
    ConfigError,
    DataProducer,
    Handle,
    OutsideError,
    PreRequest,
    Request,
    RequestHeaderProcessor,
    SchedulingResult,
    StateDumper,
    TokenizedPrompt,
    data_key,
)
from epp_plugins.durations import seconds
from epp_plugins.faults import about
from epp_plugins.media_tokens import Estimate, count_anew
from epp_plugins.tokens.bodies import CHAT, COMPLETIONS, chat_fields, kind_of, texts, told_apart
from epp_plugins.tokens.known import Known, KnownTokens, key_of
from epp_plugins.tokens.local import LocalTokenizer, NotRendered, is_small
from epp_plugins.tokens.server import Refused, TokenServer

_REMEMBERED_BYTES: Final = 64 << 20
_FIRST_PAUSE_S: Final = 1.0
_LONGEST_PAUSE_S: Final = 30.0
_GRACE_S: Final = 0.1
_WAIT_BUCKETS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)


class VllmBackend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A vLLM server, or its render process, that tokenizes prompts."""

    url: str = "http://localhost:8000"
    timeout: str = "5s"
    mm_timeout: str = "30s"


class LocalBackend(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A folder with `tokenizer.json`, and `tokenizer_config.json` or `chat_template.jinja` for chats."""

    path: str


class TokenProducer(RequestHeaderProcessor, DataProducer, PreRequest, StateDumper):
    """Publishes TokenizedPrompt: the prompts of a request as token ids, or as text that counts as four bytes a token.

    With `vllm` a server is asked for the tokens (its render endpoints, else /tokenize) under the name `modelName`, for
    `timeout` at most (`mmTimeout` with media); while it does not answer it is left alone for 1 to 30 s. With `local` they come
    from a tokenizer's files. Tokens are remembered by prompt (64 MiB). Without either, and for requests that cannot be
    tokenized, the prompts are published as the parser read them. Once the destination is known the prompts are forgotten, as in
    the payload. `local` is not in the Go EPP's token-producer.

    Where tokens are estimated, an image is width * height / 1024 (of 640x360 pixels where its data did not come along), a
    video is so many for each of two frames a second (of ten seconds; the headers `x-llm-d-video-*` say more), an audio 12.5 a
    second and 14. `estimate` changes that for images and videos, and for all plugins.
    """

    type = "token-producer"

    class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
        model_name: str = ""
        vllm: VllmBackend | None = None
        local: LocalBackend | None = None
        estimate: Estimate | None = None

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self._key = data_key(TOKENIZED_PROMPT, handle.name)
        self._known = KnownTokens(capacity_bytes=_REMEMBERED_BYTES)
        self._server: TokenServer | None = None
        self._local: LocalTokenizer | None = None
        if params.vllm is not None:
            self._server = self._make_server(params.vllm)
        if params.local is not None:
            self._local = self._make_local(params.local)
        self._asks_again_s = 0.0
        self._pause_s = _FIRST_PAUSE_S
        self._problem = ""
        metrics = handle.metrics
        self._results = metrics.counter(
            "token_producer_requests_total",
            "Requests by where their tokens came from: known, server, local, beginning (of a conversation), given, none",
            ("source",),
        )
        self._waited = metrics.histogram(
            "token_producer_wait_seconds", "Time that requests waited for their tokens", buckets=_WAIT_BUCKETS
        )

    def produces(self) -> Sequence[str]:
        return (self._key,)

    def process_request_header(self, request: Request) -> None:
        # Before any producer counts tokens.
        if self.params.estimate is not None:
            count_anew(request.payload, request.headers, self.params.estimate)

    def produce(self, request: Request, candidates: Candidates) -> Awaitable[None] | None:
        prompts = request.payload.prompts
        media = tuple([medium for prompt in prompts for medium in prompt.media])
        request.data[self._key] = TokenizedPrompt(prompts, media)
        if self._server is None and self._local is None:
            return None
        kind = kind_of(request.path)
        if not prompts or not kind or all(p.tokenized for p in prompts):
            self._count("given" if prompts and prompts[0].tokenized else "none")
            return None
        key = key_of(kind, prompts, apart=told_apart(request.body))
        known = self._known.get(key) if key else None
        if known is not None:
            self._publish(request, known, "known")
            return None
        if self._local is not None:
            return self._tokenize(request, self._local, kind, key)
        beginning = self._known.beginning(kind, prompts)
        if beginning is not None:
            # To be replaced by all of it; this is what is left when the server does not answer.
            request.data[self._key] = TokenizedPrompt(beginning.prompts, beginning.media)
        if self.handle.clock() < self._asks_again_s:
            self._count("none" if beginning is None else "beginning")
            return None
        return self._ask(request, kind, key, with_media=bool(media), has_beginning=beginning is not None)

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        prompt: TokenizedPrompt | None = request.data.get(self._key)
        if prompt is not None:
            request.data[self._key] = TokenizedPrompt((), prompt.media)

    def dump_state(self) -> object:
        return {
            "source": "vllm" if self._server else "local" if self._local else "estimate",
            "remembered_prompts": len(self._known),
            "remembered_bytes": self._known.size_bytes,
            "problem": self._problem,
        }

    # --- a server ----------------------------------------------------------------------------------------------------

    def _make_server(self, backend: VllmBackend) -> TokenServer:
        params = self.params
        if params.local is not None:
            raise ConfigError("local: tokens come from a server (vllm) or from files (local), not from both")
        if not params.model_name:
            raise ConfigError("modelName: the server has to be told which model's tokens are wanted; set it")
        if not backend.url.startswith(("http://", "https://")):
            raise ConfigError(f"vllm.url: expected http://host:port, got {backend.url!r}")
        self._text_s = seconds(backend.timeout, parameter="vllm.timeout")
        self._media_s = seconds(backend.mm_timeout, parameter="vllm.mmTimeout")
        self.timeout_s = max(self._text_s, self._media_s) + _GRACE_S
        return TokenServer(self.handle.outside, backend.url, model=params.model_name)

    async def _ask(self, request: Request, kind: str, key: bytes, *, with_media: bool, has_beginning: bool) -> None:
        assert self._server is not None
        began_s = self.handle.clock()
        limit_s = self._media_s if with_media else self._text_s
        body = request.payload.with_model(request.body, self.params.model_name)
        source = "beginning" if has_beginning else "none"
        try:
            known = await self._server.tokens(kind, body, timeout_s=limit_s)
        except Refused as error:
            self._answers()
            self.handle.log.debug("no tokens for request %s: %s", request.id, error)
        except (OutsideError, TimeoutError) as error:
            self._fails(f"no answer within {limit_s:g} s" if isinstance(error, TimeoutError) else str(error))
        else:
            self._answers()
            if key:
                self._known.put(key, known)
            self._publish(request, known, "server")
            source = ""
        if source:
            self._count(source)
        self._waited.observe(self.handle.clock() - began_s)

    def _fails(self, problem: str) -> None:
        if not self._problem:
            self.handle.log.warning("plugin %s: %s; requests go without tokens until it answers", self.name, problem)
        self._problem = problem
        now = self.handle.clock()
        if now >= self._asks_again_s:  # requests that fail together count as one failure
            self._asks_again_s = now + self._pause_s
            self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)

    def _answers(self) -> None:
        if self._problem:
            self.handle.log.info("plugin %s: the server answers again", self.name)
        self._problem, self._pause_s, self._asks_again_s = "", _FIRST_PAUSE_S, 0.0

    # --- files -------------------------------------------------------------------------------------------------------

    def _make_local(self, backend: LocalBackend) -> LocalTokenizer:
        with about("local"):
            local = LocalTokenizer(backend.path)
        if not local.has_template:
            self.handle.log.warning(
                "plugin %s: %s has no chat template: chats go without tokens", self.name, backend.path
            )
        return local

    def _tokenize(self, request: Request, local: LocalTokenizer, kind: str, key: bytes) -> Awaitable[None] | None:
        try:
            found, special = _texts(local, kind, request.body)
        except NotRendered as error:
            self.handle.log.debug("no tokens for request %s: %s", request.id, error)
            self._count("none")
            return None
        looked_up = [local.known(text, special=special) for text in found]
        missing = [
            piece for known, pieces in looked_up for ids, piece in zip(known, pieces, strict=True) if ids is None
        ]
        work = _Work(local, looked_up, special=special)
        if is_small(missing):
            work.run()
            self._take(request, key, work)
            return None
        return self._tokenize_aside(request, key, work)

    async def _tokenize_aside(self, request: Request, key: bytes, work: _Work) -> None:
        began_s = self.handle.clock()
        await self.handle.outside.in_thread(work.run)
        self._take(request, key, work)
        self._waited.observe(self.handle.clock() - began_s)

    def _take(self, request: Request, key: bytes, work: _Work) -> None:
        known = work.learn()
        if key:
            self._known.put(key, known)
        self._publish(request, known, "local")

    # --- both --------------------------------------------------------------------------------------------------------

    def _publish(self, request: Request, known: Known, source: str) -> None:
        request.data[self._key] = TokenizedPrompt(known.prompts, known.media)
        self._count(source)

    def _count(self, source: str) -> None:
        self._results.labels(source).inc()


class _Work:
    """The tokenizing of one request's texts, which may happen on another thread."""

    def __init__(
        self, local: LocalTokenizer, texts: list[tuple[list[bytes | None], list[str]]], *, special: bool
    ) -> None:
        self._local = local
        self._texts = texts
        self._special = special
        self._new: list[tuple[str, bytes, bool]] = []

    def run(self) -> None:
        for known, pieces in self._texts:
            for i, piece in enumerate(pieces):
                if known[i] is None:
                    special = self._special and not i
                    ids = known[i] = self._local.encode(piece, special=special)
                    self._new.append((piece, ids, special))

    def learn(self) -> Known:
        for piece, ids, special in self._new:
            self._local.learn(piece, ids, special=special)
        return Known(tuple(self._local.prompt([ids or b"" for ids in known]) for known, _ in self._texts))


def _texts(local: LocalTokenizer, kind: str, body: bytes) -> tuple[list[str], bool]:
    """The texts that the model reads, and whether they get special tokens. Raises NotRendered."""
    if kind == CHAT:
        fields = chat_fields(body)
        if fields is None:
            raise NotRendered("the messages cannot be read")
        return [local.chat(msgspec.structs.asdict(fields))], fields.add_special_tokens
    found = texts(body) if kind == COMPLETIONS else None
    if found is None:
        raise NotRendered("only chats and texts can be tokenized here")
    return found
