"""Traces of real requests through a real EPP process, in a real OTLP collector."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

pytest.importorskip("opentelemetry.sdk", reason="no OpenTelemetry: pip install -e '.[otel]'")

from epp.app_tracing import is_wanted, make_traces
from epp.demo.processes import Children
from tests.differential.fleet import FakeFleet
from tests.differential.talk import Ask, Outcome, ask_one, completion
from tests.support.otlp import Collector, Span, collecting
from tests.support.stack import Epp, eventually, start_epp

DEADLINE_S = 60.0
PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = "00-1af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
CONFIG = """
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: decode-filter}
- {type: queue-scorer}
- {type: running-requests-size-scorer}
- {type: max-score-picker}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: decode-filter}
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: running-requests-size-scorer}
  - {pluginRef: max-score-picker}
"""


class Traced:
    def __init__(self, epp: Epp, collector: Collector, channel: grpc.aio.Channel) -> None:
        self.epp = epp
        self.collector = collector
        self._channel = channel

    async def ask(self, **ask: Any) -> Outcome:
        return await ask_one(self._channel, Ask(**({"body": completion("hello " * 50)} | ask)))

    async def spans(self, request_id: str, count: int = 1) -> dict[str, Span]:
        """Of one request's trace, by name, once so many have come."""

        async def find() -> dict[str, Span]:
            roots = self.collector.named("gateway.request")
            ids = {s.trace_id for s in roots if s.attributes["gen_ai.request.id"] == request_id}
            return {s.name: s for s in self.collector.spans if s.trace_id in ids}

        found: dict[str, Span] = await eventually(find, lambda spans: len(spans) >= count, deadline_s=DEADLINE_S)
        return found


@asynccontextmanager
async def traced(tmp_path: Path, *flags: str, http: bool = False, **env: str) -> AsyncIterator[Traced]:
    config = tmp_path / "epp.yaml"
    config.write_text(CONFIG)
    fleet = FakeFleet(({}, {}))
    await fleet.start()
    async with collecting() as collector, Children(tmp_path) as children:
        where = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.http if http else collector.grpc,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf" if http else "grpc",
            "OTEL_TRACES_SAMPLER_ARG": "1.0",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }
        epp = await start_epp(
            children,
            f"--config-file={config}",
            "--stale-metrics=keep",  # nobody is left out because this process was too busy to answer
            *flags,
            endpoints=[f"{name}={at}" for name, at in zip("ab", fleet.host_ports, strict=True)],
            env=where | env,
        )
        async with grpc.aio.insecure_channel(epp.grpc) as channel:
            yield Traced(epp, collector, channel)
    fleet.stop()


def is_sampled(outcome: Outcome) -> bool:
    """What the model server is told (Trace Context level 1, section 3.2.2.5.1)."""
    return bool(int(outcome.request_headers["traceparent"][-2:], 16) & 1)


@pytest.mark.parametrize("http", [False, True], ids=["grpc", "http"])
async def test_spans_have_the_names_attributes_and_places_that_dashboards_know(tmp_path: Path, http: bool) -> None:
    async with traced(tmp_path, http=http, OTEL_RESOURCE_ATTRIBUTES="k8s.namespace.name=prod") as one:
        await one.ask(id="r-7")
        spans = await one.spans("r-7", 8)

    whose = {"gen_ai.request.model": "m", "gen_ai.request.id": "r-7"}
    assert {name: span.parent_id for name, span in spans.items()} == {
        "gateway.request": "",
        "gateway.request_orchestration": spans["gateway.request"].span_id,
        "run_scheduler_profile": spans["gateway.request_orchestration"].span_id,
        "filter_endpoints": spans["run_scheduler_profile"].span_id,
        "llm_d.epp.scoring": spans["run_scheduler_profile"].span_id,
        "llm_d.epp.scorer.queue-scorer": spans["llm_d.epp.scoring"].span_id,
        "llm_d.epp.scorer.running-requests-size-scorer": spans["llm_d.epp.scoring"].span_id,
        "pick_endpoints": spans["run_scheduler_profile"].span_id,
    }
    root = spans["gateway.request"]
    assert (root.kind, root.status) == ("SERVER", "UNSET")
    assert root.resource.items() >= {"service.name": "llm-d-epp", "k8s.namespace.name": "prod"}.items()
    assert (
        root.attributes.items() >= (whose | {"http.response.status_code": 200, "gen_ai.usage.input_tokens": 3}).items()
    )
    assert spans["gateway.request_orchestration"].attributes == {"target_model": "m", "request_prio": 0}
    assert spans["run_scheduler_profile"].attributes == {"llm_d.epp.scheduling.profile.name": "default"}
    assert spans["filter_endpoints"].attributes == whose | {
        "llm_d.epp.filter.candidate_endpoints": 2,
        "llm_d.epp.filter.filtered_endpoints": 2,
    }
    assert spans["llm_d.epp.scoring"].attributes == whose | {
        "llm_d.epp.scorer.count": 2,
        "llm_d.epp.scoring.candidate_endpoints": 2,
    }
    scorer = spans["llm_d.epp.scorer.queue-scorer"].attributes
    assert scorer.items() >= {"llm_d.epp.scorer.weight": 2.0, "llm_d.epp.scorer.endpoints_scored": 2}.items()
    assert set(scorer) == {
        *(f"llm_d.epp.scorer.{name}" for name in ("type", "name", "weight", "candidate_endpoints", "endpoints_scored")),
        *(f"llm_d.epp.scorer.score.{name}" for name in ("max", "avg")),
    }
    pick = spans["pick_endpoints"].attributes
    assert sorted(pick["llm_d.epp.picker.top_endpoints"]) == ["default/a", "default/b"]
    assert len(pick["llm_d.epp.picker.top_scores"]) == pick["llm_d.epp.picker.candidate_endpoints"] == 2
    for child in spans.values():
        parent = next((s for s in spans.values() if s.span_id == child.parent_id), child)
        assert parent.began_ns <= child.began_ns <= child.ended_ns <= parent.ended_ns


async def test_the_clients_trace_goes_on_through_the_epp_to_the_model_server(tmp_path: Path) -> None:
    async with traced(tmp_path) as one:
        outcome = await one.ask(id="r-1", headers={"traceparent": PARENT, "tracestate": "a=b"})
        root = (await one.spans("r-1"))["gateway.request"]

    assert (root.trace_id, root.parent_id, root.trace_state) == (PARENT[3:35], PARENT[36:52], "a=b")
    assert outcome.request_headers["traceparent"].startswith(f"00-{root.trace_id}-{root.span_id}-")
    assert is_sampled(outcome)
    assert outcome.request_headers["tracestate"] == "a=b"


async def test_what_the_client_does_not_sample_is_not_recorded_and_the_model_server_hears_so(tmp_path: Path) -> None:
    async with traced(tmp_path) as one:
        outcome = await one.ask(id="unsampled", headers={"traceparent": UNSAMPLED})
        await one.ask(id="sampled")
        await one.spans("sampled")

        assert outcome.request_headers["traceparent"][3:35] == UNSAMPLED[3:35]
        assert not is_sampled(outcome)
        assert not [s for s in one.collector.spans if s.trace_id == UNSAMPLED[3:35]]


async def test_without_a_parent_the_ratio_decides_and_the_model_server_hears_so(tmp_path: Path) -> None:
    async with traced(tmp_path, OTEL_TRACES_SAMPLER_ARG="0") as one:
        outcome = await one.ask()

    assert not is_sampled(outcome)


async def test_refusals_and_failures_are_errors(tmp_path: Path) -> None:
    async with traced(tmp_path) as one:
        await one.ask(id="bad", body=b"nonsense")
        await one.ask(id="nobody", subset=["127.0.0.9:1"])
        await one.ask(id="broken", status=503)
        bad, nobody = await one.spans("bad", 2), await one.spans("nobody", 2)
        broken = await one.spans("broken", 8)

    assert bad["gateway.request"].message.startswith("inference error: BadRequest - ")
    assert nobody["gateway.request_orchestration"].message.startswith("inference error: ServiceUnavailable - ")
    assert nobody["gateway.request"].status == "ERROR"
    assert (broken["gateway.request"].status, broken["gateway.request"].message) == ("ERROR", "")
    assert broken["gateway.request_orchestration"].status == "UNSET"


async def test_what_is_left_is_sent_at_the_end(tmp_path: Path) -> None:
    async with traced(tmp_path, OTEL_BSP_SCHEDULE_DELAY="3600000") as one:
        await one.ask(id="last")
        one.epp.terminate()
        assert await one.spans("last", 8)


async def test_a_collector_that_is_away_holds_nobody_up(tmp_path: Path) -> None:
    async with traced(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1") as one:
        outcome = await one.ask()
        one.epp.terminate()
        async with asyncio.timeout(DEADLINE_S):
            status = await one.epp.child.process.wait()

    assert outcome.destination
    assert status == 0


async def test_with_the_flag_off_nothing_is_recorded_or_added(tmp_path: Path) -> None:
    async with traced(tmp_path, "--tracing=false") as one:
        outcome = await one.ask(headers={"traceparent": PARENT})

    assert outcome.request_headers["traceparent"] == PARENT
    assert one.collector.spans == []


def test_without_tracing_opentelemetry_is_not_even_imported() -> None:
    program = "import sys, epp.app; print(json.dumps([m for m in sys.modules if m.startswith('opentelemetry')]))"

    done = subprocess.run([sys.executable, "-c", "import json\n" + program], capture_output=True, text=True, check=True)

    assert json.loads(done.stdout) == []


@pytest.mark.parametrize(
    ("flag", "environ", "expected"),
    [
        (None, {}, False),
        (None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317"}, True),
        (None, {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x:4317"}, True),
        (None, {"OTEL_TRACES_EXPORTER": "console"}, True),
        (True, {}, True),
        (True, {"OTEL_TRACES_EXPORTER": "none"}, False),
        (True, {"OTEL_SDK_DISABLED": "true"}, False),
        (False, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x:4317"}, False),
    ],
)
def test_unless_the_flag_is_given_the_environment_says_whether(
    flag: bool | None, environ: Mapping[str, str], expected: bool
) -> None:
    assert is_wanted(flag, environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        {"OTEL_TRACES_SAMPLER": "jaeger_remote"},
        {"OTEL_TRACES_SAMPLER_ARG": "often"},
        {"OTEL_TRACES_SAMPLER_ARG": "2"},
        {"OTEL_TRACES_EXPORTER": "zipkin"},
        {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
    ],
    ids=str,
)
def test_an_environment_that_cannot_be_used_is_told_and_requests_are_served(
    environ: Mapping[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "epp"):
        assert make_traces(True, environ) is None

    [name] = environ
    assert name in caplog.text


@pytest.mark.parametrize(("name", "value"), [("OTEL_PROPAGATORS", "b3"), ("OTEL_EXPORTER_OTLP_COMPRESSION", "zip")])
def test_what_opentelemetry_itself_cannot_use_is_told_and_requests_are_served(name: str, value: str) -> None:
    """It reads the environment while it is being imported, so it takes a process of its own."""
    program = "import os; from epp.app_tracing import make_traces; assert make_traces(True, os.environ) is None"

    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env={**os.environ, name: value}
    )

    assert done.returncode == 0, done.stderr
    assert "traces are not recorded: " in done.stderr
    assert value in done.stderr


@pytest.mark.parametrize(
    ("environ", "sampler"),
    [
        ({}, "ParentBased{root:TraceIdRatioBased{0.1}"),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.5"}, "TraceIdRatioBased{0.5}"),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, "ParentBased{root:AlwaysOnSampler"),
        ({"OTEL_TRACES_SAMPLER": "always_off"}, "AlwaysOffSampler"),
    ],
)
async def test_samplers_are_those_of_the_specification_and_the_default_is_a_tenth(
    environ: Mapping[str, str], sampler: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "epp"):
        traces = make_traces(True, {"OTEL_TRACES_EXPORTER": "console", **environ})
    assert traces is not None
    await traces.close()

    [record] = [r for r in caplog.records if r.message == "tracing"]
    assert record.__dict__["fields"]["sampler"].startswith(sampler)


def test_without_the_extra_a_line_says_how_to_get_it() -> None:
    program = """
import logging, sys
sys.modules["opentelemetry.sdk"] = None
sys.modules["opentelemetry.sdk.resources"] = None
logging.basicConfig()
from epp.app_tracing import make_traces
assert make_traces(True, {}) is None
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "pip install 'llm-epp[otel]'" in done.stderr
