"""What two targets share: one director with endpoints, plugins that wait, and the question whether all counters are zero."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine

from epp.api import IN_FLIGHT_REQUESTS, IN_FLIGHT_TOKENS, Admitter, Candidates, DataProducer, Plugin, Request
from epp.data.endpoint_spec import EndpointSpec
from epp.director.director import Director
from epp.server.session import ExtProc
from tests.support.service import make_director

ENDPOINTS = 3
MAX_BODY_BYTES = 20_000
# Series of metrics live as long as the recorder; a fresh one now and then keeps a long run's memory even.
INPUTS_PER_DIRECTOR = 3000
PAGE_EVERY = 100
CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: approx-prefix-cache-producer}
- {type: inflight-load-producer}
- {type: slow-producer}
- {type: doorman}
- {type: queue-scorer}
- {type: prefix-cache-scorer}
schedulingProfiles:
- {name: default, plugins: [{pluginRef: queue-scorer}, {pluginRef: prefix-cache-scorer}]}
"""


class UnexpectedError(logging.Handler):
    """An error that is logged is a finding: it stands for an exception that nobody has thought of."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        raise AssertionError(f"logged: {record.getMessage()}: {error!r}") from error

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        raise


class World:
    """An EPP without sockets. `loop` is the event loop that its waits need."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._inputs = 0
        self.waits: list[asyncio.Future[None]] = []
        self._make()
        logging.getLogger().addHandler(UnexpectedError(logging.ERROR))

    def _make(self) -> None:
        self.director: Director = make_director(config=CONFIG, plugins=_plugins(self))
        self.service = ExtProc(self.director, max_body_bytes=MAX_BODY_BYTES)

    def begin(self) -> None:
        """The same fleet for every input."""
        self._inputs += 1
        if self._inputs % INPUTS_PER_DIRECTOR == 0:
            self._make()
        self.waits.clear()
        self.director.datastore.replace_all([_spec(number) for number in range(ENDPOINTS)])

    def run(self, scenario: Coroutine[None, None, None]) -> None:
        self.loop.run_until_complete(scenario)

    def wait(self, request: Request, where: str) -> Awaitable[None] | None:
        if where not in request.headers.get("x-wait", ""):
            return None
        future = self.loop.create_future()
        self.waits.append(future)
        return future

    def end_waits(self) -> None:
        for future in self.waits:
            if not future.done():
                future.set_result(None)

    async def turn(self) -> None:
        """Let tasks run as far as they can."""
        for _ in range(4):
            await asyncio.sleep(0)

    def change(self, number: int) -> None:
        """The endpoint comes, or goes when it is there."""
        spec = _spec(number)
        datastore = self.director.datastore
        if datastore.get(spec.key) is None:
            datastore.upsert(spec)
        else:
            datastore.remove(spec.key)

    def check_idle(self) -> None:
        """Nothing is going on: every counter is zero, and the pages can be written."""
        everyone = self.director.datastore.fleet.candidates()
        assert not everyone.column(IN_FLIGHT_REQUESTS).any()
        assert not everyone.column(IN_FLIGHT_TOKENS).any()
        assert self.service.open_streams == 0
        assert all(future.done() for future in self.waits)
        if self._inputs % PAGE_EVERY == 0:
            self.check_pages()

    def check_pages(self) -> None:
        page, _ = self.director.recorder.render()
        running = [line for line in page.decode().splitlines() if "running" in line and line[0] != "#"]
        assert all(line.endswith((" 0", " 0.0")) for line in running)


def _spec(number: int) -> EndpointSpec:
    return EndpointSpec(f"s{number}", f"10.0.0.{number}", 8000)


def _plugins(world: World) -> list[type[Plugin]]:
    class Slow(DataProducer):
        type = "slow-producer"
        timeout_s = 30.0

        def produces(self) -> tuple[str, ...]:
            return ()

        def produce(self, request: Request, candidates: Candidates) -> Awaitable[None] | None:
            return world.wait(request, "producer")

    class Doorman(Admitter):
        type = "doorman"

        def admit(self, request: Request, candidates: Candidates) -> Awaitable[None] | None:
            return world.wait(request, "admitter")

    return [Slow, Doorman]
