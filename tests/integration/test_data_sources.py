"""Data sources in a whole service: what a configuration asks for is fetched, read, shown, and forgotten when it is too old."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from epp.api import Endpoint, Extractor
from epp.app import Service
from epp.cli.options import parse
from epp.config import load_text
from tests.support.configs import HEAD
from tests.support.http_fakes import FakeServer, eventually, hang, page, serving
from tests.support.loopback import loopback_options

PAGES = Path(__file__).parents[1] / "fixtures" / "metrics"
PROFILE = "schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]\n"
QUICK = {"metrics_staleness_threshold_s": 0.2}


class Watts(Extractor):
    """An extractor of a third party, with a defect."""

    type = "watts"

    def extract(self, endpoint: Endpoint, body: bytes) -> None:
        word = body.split()[-1]
        if word == b"defect":
            raise KeyError("watts")
        endpoint.attributes["watts"] = float(word)

    def forget(self, endpoint: Endpoint) -> None:
        endpoint.attributes.pop("watts", None)


@contextlib.asynccontextmanager
async def running(config: str, *servers: FakeServer, **options: Any) -> AsyncIterator[Service]:
    given = loopback_options(
        endpoints=tuple(f"s{i}=127.0.0.1:{server.port}" for i, server in enumerate(servers)),
        allow_experimental_plugins=True,
        **options,
    )
    service = Service(given, load_text(HEAD + config, "test.yaml"))
    try:
        await service.start()
        yield service
    finally:
        await service.stop()


def only(service: Service) -> Endpoint:
    (endpoint,) = service.datastore.endpoints
    return endpoint


async def test_models_gpus_and_metrics_come_from_sources_of_their_own() -> None:
    vllm = page((PAGES / "vllm-0.32-loaded.txt").read_bytes())
    models, gpus = page(b'{"data": [{"id": "small"}]}'), page(b"DCGM_FI_DEV_GPU_UTIL 25\n")
    async with serving(vllm) as server, serving(models) as model_list, serving(gpus) as exporter:
        config = f"""
plugins:
- type: queue-scorer
- {{type: models-data-source, parameters: {{port: {model_list.port}, interval: 50ms}}}}
- {{type: models-data-extractor}}
- {{type: dcgm-data-source, parameters: {{port: {exporter.port}, interval: 50ms}}}}
- {{type: dcgm-extractor}}
{PROFILE}
dataLayer:
  sources:
  - {{pluginRef: models-data-source, extractors: [{{pluginRef: models-data-extractor}}]}}
  - {{pluginRef: dcgm-data-source, extractors: [{{pluginRef: dcgm-extractor}}]}}
"""
        async with running(config, server) as service:
            endpoint = only(service)
            await eventually(lambda: endpoint.attributes.keys() >= {"/v1/models", "GPUUtilization/dcgm-extractor"})
            await eventually(lambda: service.datastore.fleet.columns["waiting_requests"][endpoint.row] == 1)

            assert endpoint.attributes["GPUUtilization/dcgm-extractor"] == 0.25
            assert model_list.requests[0].startswith(b"GET /v1/models ")
            url = f"http://127.0.0.1:{service.metrics_port}/debug/endpoints"
            async with aiohttp.ClientSession() as client, client.get(url) as response:
                (shown,) = (await response.json())["endpoints"]
            assert "small" in shown["attributes"]["/v1/models"]

        await eventually(lambda: server.connections == model_list.connections == exporter.connections == 0)


async def test_what_a_source_said_is_forgotten_when_it_is_too_old() -> None:
    config = f"""
plugins:
- type: queue-scorer
- {{type: dcgm-data-source, parameters: {{port: 0, interval: 50ms}}}}
- {{type: dcgm-extractor}}
{PROFILE}
dataLayer:
  injectDefaults: false
  sources: [{{pluginRef: dcgm-data-source, extractors: [{{pluginRef: dcgm-extractor}}]}}]
"""
    async with (
        serving(page(b"DCGM_FI_DEV_GPU_UTIL 25\n")) as server,
        running(config, server, **QUICK) as service,
    ):
        endpoint = only(service)
        await eventually(lambda: endpoint.attributes)

        server.behaviour = hang()

        await eventually(lambda: not endpoint.attributes)
        counted = rb'llm_d_epp_datalayer_poll_errors_total{source_type="dcgm-data-source"} [1-9]'
        await eventually(lambda: re.search(counted, service.recorder.render()[0]))


async def test_clusters_are_asked_where_their_labels_say(tmp_path: Path) -> None:
    averages = b"llm_d_epp_average_kv_cache_utilization 0.5\nllm_d_epp_average_queue_size 2\n"
    async with serving(page(averages)) as server:
        entry = f"labels: {{metricsAddress: 127.0.0.1, metricsPort: '{server.port}'}}"
        (tmp_path / "clusters.yaml").write_text(f"endpoints: [{{name: east, address: 10.9.9.9, port: 443, {entry}}}]\n")
        config = f"""
plugins:
- type: queue-scorer
- {{type: file-discovery, parameters: {{path: {tmp_path / "clusters.yaml"}}}}}
- {{type: multicluster-metrics-data-source, parameters: {{scheme: http, interval: 50ms}}}}
- {{type: multicluster-metrics-extractor}}
{PROFILE}
dataLayer:
  injectDefaults: false
  discovery: {{pluginRef: file-discovery}}
  sources: [{{pluginRef: multicluster-metrics-data-source, extractors: [{{pluginRef: multicluster-metrics-extractor}}]}}]
"""
        async with running(config) as service:
            endpoint = only(service)

            await eventually(lambda: endpoint.attributes.get("llm-d.ai/multicluster-queue-size") == 2)


async def test_an_extractor_of_a_third_party_reads_beside_ours_and_its_defects_stay_its_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    config = f"""
plugins:
- type: queue-scorer
- {{type: metrics-data-source}}
- {{type: core-metrics-extractor}}
- {{type: "{__name__}:Watts", name: watts}}
{PROFILE}
dataLayer:
  sources:
  - {{pluginRef: metrics-data-source, extractors: [{{pluginRef: core-metrics-extractor}}, {{pluginRef: watts}}]}}
"""
    load = b"vllm:num_requests_waiting %d\nwatts %s\n"
    async with serving(page(load % (3, b"300.5"))) as server, running(config, server, **QUICK) as service:
        columns, endpoint = service.datastore.fleet.columns, only(service)
        await eventually(lambda: endpoint.attributes.get("watts") == 300.5)

        server.behaviour = page(load % (4, b"defect"))
        await eventually(lambda: "KeyError" in caplog.text)
        await eventually(lambda: columns["waiting_requests"][endpoint.row] == 4)
        await eventually(lambda: "watts" not in endpoint.attributes)
        text, _ = service.recorder.render()
        failed = b'llm_d_epp_datalayer_extract_errors_total{extractor_type="watts",source_type="metrics-data-source"}'
        assert failed in text
        await eventually(lambda: columns["waiting_requests"][endpoint.row] == 4)

        server.behaviour = page(load % (5, b"1"))
        await eventually(lambda: endpoint.attributes.get("watts") == 1)


async def test_the_old_flags_name_metrics_where_and_how_they_are_read() -> None:
    async with serving(page(b"mine 7\nhers 8\n")) as server, serving(page(b"")) as other:
        flags = parse(
            [
                "--total-queued-requests-metric=mine",
                '--total-running-requests-metric="hers"',
                "--kv-cache-usage-percentage-metric=",
                "--lora-info-metric=",
                "--cache-info-metric=",
                f"--model-server-metrics-port={server.port}",
                "--model-server-metrics-path=/elsewhere",
                "--endpoint=127.0.0.1:1",
            ]
        )
        wanted = ("metric_specs", "model_server_metrics_port", "model_server_metrics_path")
        async with running(
            f"plugins: [{{type: queue-scorer}}]\n{PROFILE}", other, **{name: getattr(flags, name) for name in wanted}
        ) as service:
            columns, endpoint = service.datastore.fleet.columns, only(service)
            await eventually(lambda: columns["waiting_requests"][endpoint.row] == 7)

            assert columns["running_requests"][endpoint.row] == 8
            assert server.requests[0].startswith(b"GET /elsewhere ")


@pytest.mark.parametrize(
    ("options", "source"),
    [
        ({"refresh_metrics_interval_s": 1.0}, ""),
        ({"idle_metrics_interval_s": 1.0}, ""),
        ({}, "- {type: metrics-data-source, parameters: {interval: 1s}}\n"),
    ],
)
async def test_a_detector_that_would_take_every_reading_for_too_old_is_told_of(
    options: dict[str, float], source: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It would count idle servers as full, and refuse what they could serve."""
    async with serving(page(b"")) as server:
        async with running(f"plugins:\n- {{type: queue-scorer}}\n{PROFILE}", server):
            assert "metricsStalenessThreshold" not in caplog.text
        async with running(f"plugins:\n- {{type: queue-scorer}}\n{source}{PROFILE}", server, **options):
            assert "every 1 s" in caplog.text
            assert "utilization-detector takes metrics older than 0.2 s for a full endpoint" in caplog.text


async def test_servers_that_are_read_seldom_are_ready_all_the_time() -> None:
    async with (
        serving(page(b"vllm:num_requests_waiting 0\n")) as server,
        running(
            f"plugins: [{{type: queue-scorer}}]\n{PROFILE}",
            server,
            metrics_staleness_threshold_s=0.01,
            idle_metrics_interval_s=1.0,
        ) as service,
    ):
        columns, endpoint = service.datastore.fleet.columns, only(service)
        ready = b'inference_pool_ready_pods{name="epp"} 1.0'
        await eventually(lambda: ready in service.recorder.render()[0])

        # Older than the threshold, as it is between two readings of an idle server.
        await eventually(lambda: time.monotonic() - columns["metrics_updated_s"][endpoint.row] > 0.1)
        assert ready in service.recorder.render()[0]
