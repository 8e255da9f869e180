"""One endpoint picker: a pipeline built from a configuration file, driven through its hooks as the service drives it."""

from __future__ import annotations

import logging
import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal, TypeAlias

import numpy as np

from epp.api import (
    CACHE_BLOCK_SIZE,
    CACHE_HIT_TOKENS,
    CACHE_NUM_BLOCKS,
    IN_FLIGHT_REQUESTS,
    KV_CACHE_USAGE,
    METRICS_UPDATED_S,
    RUNNING_REQUESTS,
    WAITING_REQUESTS,
    Candidates,
    Endpoint,
    Fleet,
    Outside,
    Payload,
    Picker,
    Prompt,
    Request,
    Response,
    Usage,
)
from epp.api import Floats as Scores
from epp.config import Environment, Registry, build, load_file, load_text
from epp_plugins.producers.predicted_latency_producer import PredictedLatencyProducer
from epp_plugins.registry import ALIASES, BUILTIN, REPLACED
from tests.bench.routing.fleet import BLOCK_TOKENS, SERVER, Server
from tests.support.plugins import NoMetrics

Bodies: TypeAlias = Literal["full", "sampled", "none"]
SAMPLED: Final = 0.1
_ROLE: Final = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}\n\n'
_TOKEN: Final = b'data: {"choices":[{"index":0,"delta":{"content":" and"}}]}\n\n'
_SSE: Final = {":status": "200", "content-type": "text/event-stream"}

_BACKLOG: Final = "- type: prefill-backlog-producer\n"


def with_predictor(path: Path, *, admits: bool = False) -> str:
    """A configuration of expected cost, with a latency predictor, and one that refuses what cannot be in time."""
    text = path.read_text()
    admitter = "- {type: latency-slo-admitter, parameters: {applyTo: all}}\n" if admits else ""
    assert _BACKLOG in text
    return text.replace(_BACKLOG, f"- type: predicted-latency-producer\n{admitter}{_BACKLOG}")


def with_rate(path: Path, tokens_per_s: int) -> str:
    """A configuration of expected cost that is told how fast servers read."""
    text, found = re.subn(r"(?<=initialPrefillThroughput: )\d+", str(tokens_per_s), path.read_text())
    assert found
    return text


ROUND_ROBIN: Final = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins: [{type: "tests.bench.routing.picker:RoundRobin"}]
schedulingProfiles:
- name: default
  plugins: [{pluginRef: round-robin}]
"""


class RoundRobin(Picker):
    """One endpoint after the other."""

    type = "round-robin"

    def pick(self, request: Request, candidates: Candidates, scores: Scores) -> Sequence[int]:
        self._last = (getattr(self, "_last", -1) + 1) % len(candidates)
        return (self._last,)


class Exchange:
    """One request and its response, as one picker sees them."""

    def __init__(self, picker: EndpointPicker, request: Request, *, body_seen: bool) -> None:
        self._picker = picker
        self._body_seen = body_seen
        self.request = request
        self.response = Response()

    def sent(self) -> None:
        """The server has sent the headers of its response: vLLM does so before the first token."""
        response = self.response
        response.status, response.headers, response.streaming = 200, _SSE, True
        response.started_s = self._picker.clock()
        assert self.request.result is not None
        response.served_endpoint = self.request.result.target.host_port
        response.body_seen = self._body_seen
        for hook in self._picker.pipeline.response_received:
            hook.response_received(self.request, response)

    def first_token(self) -> None:
        if self._body_seen:
            self._piece(_ROLE)
            self._piece(_TOKEN)

    def _piece(self, piece: bytes) -> None:
        response, pipeline = self.response, self._picker.pipeline
        hooks = pipeline.response_later_pieces
        response.last_chunk_s = self._picker.clock()
        if response.first_chunk_s is None:
            response.first_chunk_s = response.last_chunk_s
            hooks = pipeline.response_streaming
        response.chunks += 1
        for hook in hooks:
            hook.response_chunk(self.request, response, piece)

    def end(self, usage: Usage) -> None:
        response, pipeline = self.response, self._picker.pipeline
        response.ended_s = self._picker.clock()
        if self._body_seen:
            response.usage = usage
            if usage.completion_tokens != 1:
                self._piece(_TOKEN)
            for ending in pipeline.response_ending:
                ending.response_ending(self.request, response)
        for hook in pipeline.response_complete:
            hook.response_complete(self.request, response)


class EndpointPicker:
    """Decides with a configuration of its own fleet, whose columns `scrape` fills from the simulated servers."""

    def __init__(
        self,
        config: Path | str,
        servers: Sequence[Server],
        *,
        clock: Callable[[], float],
        seed: int,
        outside: Outside,
        bodies: Bodies = "full",
    ) -> None:
        self.clock = clock
        self.fleet = Fleet()
        self._servers = servers
        self._bodies = bodies
        self._chance = random.Random(seed)
        environment = Environment(
            fleet=self.fleet,
            clock=clock,
            random=random.Random(seed + 1),
            log=logging.getLogger("routing"),
            metrics=NoMetrics(),
            outside=outside,
        )
        loaded = load_file(config) if isinstance(config, Path) else load_text(config, "inline")
        registry = Registry(BUILTIN, aliases=ALIASES, replaced=REPLACED)
        self.pipeline = build(loaded, registry, environment)
        self.predictor = self.pipeline.plugins.get(PredictedLatencyProducer.type)
        for plugin in self.pipeline.background:
            plugin.start()
        for i in range(len(servers)):
            endpoint = Endpoint(f"s{i}", f"10.0.0.{i + 1}", 8000)
            self.fleet.add(endpoint)
            for listener in self.pipeline.endpoint_listeners:
                listener.endpoint_added(endpoint)

    def scrape(self) -> None:
        """Read every server's metrics page."""
        columns = self.fleet.columns
        for endpoint, server in zip(self.fleet.candidates(), self._servers, strict=True):
            row, stats = endpoint.row, server.engine.stats
            columns[WAITING_REQUESTS][row] = stats.gauges.waiting
            columns[RUNNING_REQUESTS][row] = stats.gauges.running
            columns[KV_CACHE_USAGE][row] = stats.gauges.kv_usage
            columns[CACHE_BLOCK_SIZE][row] = BLOCK_TOKENS
            columns[CACHE_NUM_BLOCKS][row] = SERVER.blocks - 1
            columns[METRICS_UPDATED_S][row] = self.clock()
            endpoint.attributes[CACHE_HIT_TOKENS] = float(stats.prefix_hits)

    def poll(self) -> None:
        """What a service does once a second: see whether something was learnt."""
        if isinstance(self.predictor, PredictedLatencyProducer):
            self.predictor.poll()

    def decide(
        self, number: int, prompt: bytes, output_tokens: int, *, slo_ttft_ms: float = 0.0
    ) -> tuple[int, Exchange]:
        """Which server a request goes to. Raises RequestError where it is refused."""
        asked = {"x-llm-d-slo-ttft-ms": str(slo_ttft_ms)} if slo_ttft_ms else {}
        request = Request(str(number), asked, received_s=self.clock())
        request.model = "m"
        request.payload = Payload(model="m", prompts=(Prompt(prompt),), streaming=True, max_output_tokens=output_tokens)
        candidates = self.fleet.candidates()
        request.candidates = candidates
        for producer in self.pipeline.producers:
            waiting = producer.produce(request, candidates)
            assert waiting is None
        for admitter in self.pipeline.admitters:
            assert admitter.admit(request, candidates) is None
        request.result = self.pipeline.scheduler.schedule(request, candidates)
        for hook in self.pipeline.pre_request:
            hook.pre_request(request, request.result)
        request.payload.forget_prompts()
        body_seen = self._bodies == "full" or (self._bodies == "sampled" and self._chance.random() < SAMPLED)
        return candidates.endpoints.index(request.result.target), Exchange(self, request, body_seen=body_seen)

    @property
    def in_flight(self) -> float:
        """Requests that are counted as being on their way; 0 at the end, or something was lost."""
        return float(np.sum(self.fleet.columns[IN_FLIGHT_REQUESTS]))
