"""A director whose configuration can be changed, and requests on it that are taken step by step."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Generator, Iterator, Sequence
from typing import Any

import msgspec

from epp.api import (
    Admitter,
    Candidates,
    DataProducer,
    Endpoint,
    EndpointListener,
    Plugin,
    PreRequest,
    Request,
    RequestHeaderProcessor,
    Response,
    ResponseComplete,
    ResponseEnding,
    ResponseReceived,
    ResponseStreaming,
    SchedulingResult,
    Scorer,
    Screener,
    Termination,
)
from epp.app_reload import Reloader
from epp.config import Registry, load_text
from epp.director.director import Director
from epp.director.exchange import RequestExchange
from epp.director.waiting import Path, Wait
from epp.extproc.exchange import BodyMode, RequestHead, ResponseHead
from epp_plugins.registry import BUILTIN, by_type
from tests.support.configs import HEAD
from tests.support.service import make_director, make_environment_of

SERVERS = ("10.0.0.1:8000", "10.0.0.2:8000")


class _Later:
    """Something to wait for that the test lets happen."""

    def __await__(self) -> Generator[None, None, None]:
        yield


class Stamp(
    RequestHeaderProcessor,
    Screener,
    DataProducer,
    Admitter,
    Scorer,
    PreRequest,
    ResponseReceived,
    ResponseStreaming,
    ResponseEnding,
    ResponseComplete,
    EndpointListener,
):
    """Notes its generation with the request at every point, and lets every request wait once."""

    type = "stamp"

    class Params(msgspec.Struct, frozen=True, rename="camel"):
        generation: int = 0

    def __init__(self, params: Params, handle: Any) -> None:
        super().__init__(params, handle)
        self.known: list[str] = []
        self.given_up = 0

    def retire(self) -> Iterator[None]:
        for _ in range(3):
            self.given_up += 1
            yield

    def _note(self, request: Request, point: str) -> None:
        request.state.setdefault(Stamp, []).append((point, self.params.generation))

    def process_request_header(self, request: Request) -> None:
        self._note(request, "header")

    def screen(self, request: Request, candidates: Candidates) -> Sequence[bool]:
        self._note(request, "screen")
        return [True] * len(candidates)

    def produce(self, request: Request, candidates: Candidates) -> None:
        self._note(request, "produce")

    def admit(self, request: Request, candidates: Candidates) -> Awaitable[None]:
        self._note(request, "admit")
        return _Later()

    def score(self, request: Request, candidates: Candidates) -> Sequence[float]:
        self._note(request, "score")
        return [0.5] * len(candidates)

    def pre_request(self, request: Request, result: SchedulingResult) -> None:
        self._note(request, "pre")

    def response_received(self, request: Request, response: Response) -> None:
        self._note(request, "received")

    def response_chunk(self, request: Request, response: Response, chunk: bytes) -> None:
        self._note(request, "chunk")

    def response_ending(self, request: Request, response: Response) -> None:
        self._note(request, "ending")

    def response_complete(self, request: Request, response: Response) -> None:
        self._note(request, "complete")

    def endpoint_added(self, endpoint: Endpoint) -> None:
        self.known.append(endpoint.name)

    def endpoint_removed(self, endpoint: Endpoint) -> None:
        self.known.remove(endpoint.name)


ALL_POINTS = ("header", "screen", "produce", "admit", "score", "pre", "received", "chunk", "ending", "complete")


def stamped(generation: int, more: str = "") -> str:
    """A configuration of the stamp and a producer of in-flight load, which both differ from generation to generation."""
    return (
        f"{HEAD}plugins:\n- {{type: stamp, parameters: {{generation: {generation}}}}}\n- {{type: queue-scorer}}\n"
        f"- {{type: inflight-load-producer, parameters: {{addEstimatedOutputTokens: true, outputRatio: {generation}}}}}\n"
        f"- {{type: prefix-cache-scorer}}\n{more}"
    )


class Reloading:
    """A director over two endpoints with its reloader."""

    def __init__(self, config: str, *plugins: type[Plugin]) -> None:
        plugins = (Stamp, *plugins)
        self.director: Director = make_director(*SERVERS, config=config, plugins=plugins, keep=10)
        registry = Registry(by_type((*BUILTIN.values(), *plugins)))
        self.reloader = Reloader(self.director, registry, make_environment_of(self.director))

    def reload(self, config: str) -> bool:
        return self.reloader.apply(load_text(config, "epp.yaml"))

    def plugin(self, name: str) -> Plugin:
        return self.director.pipeline.plugins[name]

    @property
    def config_hash(self) -> str:
        return self.director.pipeline.config_hash


class Steps:
    """One request, taken from step to step: asked, decided, answered, over."""

    def __init__(self, director: Director, prompt: str = "hello there") -> None:
        self.exchange = RequestExchange(director, self._suspend)
        self._path: Path | None = None
        self._prompt = prompt
        self._steps = iter((self.ask, self.decide, self.answer, self.piece, self.end))

    def step(self) -> bool:
        """Take the next one; False when there was none."""
        todo = next(self._steps, None)
        if todo is not None:
            todo()
        return todo is not None

    def run(self) -> None:
        while self.step():
            pass

    def ask(self) -> None:
        headers = {":method": "POST", ":path": "/v1/completions"}
        mode = BodyMode.FULL_DUPLEX_STREAMED
        head = RequestHead(headers, end_of_stream=False, request_body_mode=mode, response_body_mode=mode)
        body = json.dumps({"model": "m", "prompt": self._prompt}).encode()
        self.exchange.route(head, body)

    def _suspend(self, path: Path, wait: Wait) -> None:
        self._path = path

    def decide(self) -> None:
        if self._path is None:
            return
        try:
            self._path.send(None)
        except StopIteration as done:
            self._path = None
            self.exchange.decided(done.value)

    def answer(self) -> None:
        head = ResponseHead({"content-type": "application/json"}, status=200, end_of_stream=False)
        self.exchange.response_headers(head, hold_allowed=True)

    def piece(self) -> None:
        self.exchange.response_body(b"{}", last=True)

    def end(self) -> None:
        self.exchange.close(Termination.COMPLETE)

    @property
    def stamps(self) -> list[tuple[str, int]]:
        assert self.exchange.request is not None
        found: list[tuple[str, int]] = self.exchange.request.state.get(Stamp, [])
        return found
