"""What goes wrong in the field: servers and pickers that die, limits, empty pools, shutdown under load."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import grpc
import pytest

from epp.demo.processes import Children
from epp.server.gen import health_pb2
from epp.sim import SimConfig, SimServer
from tests.e2e.conftest import LLAMA_MODEL, start_llama_at
from tests.support.files import replace
from tests.support.ports import free_port
from tests.support.stack import CUT_OFF, Epp, eventually, start_epp, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

FILE_CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {{type: file-discovery, parameters: {{path: {path}, watchFile: true}}}}
dataLayer: {{discovery: {{pluginRef: file-discovery}}}}
"""
SMALL = {"model": "sim-model", "prompt": "hello", "max_tokens": 2}
END_WITHIN_S = 60.0


def endpoints_file(folder: Path, *servers: SimServer) -> Path:
    path = folder / "endpoints.yaml"
    entries = [{"name": s.name, "address": "127.0.0.1", "port": str(s.port)} for s in servers]
    replace(path, json.dumps({"endpoints": entries}))
    return path


async def health(address: str, service: str = "") -> int:
    async with grpc.aio.insecure_channel(address) as channel:
        check = channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        answer = await check(health_pb2.HealthCheckRequest(service=service))
        return int(answer.status)


async def test_an_engine_that_is_killed_mid_stream_goes_stale_and_comes_back(tmp_path: Path, llama_model: Path) -> None:
    async with Children(tmp_path / "engines") as engines:
        port = free_port()
        server = await start_llama_at(engines, llama_model, port, name="victim")
        async with start_stack(
            tmp_path, endpoints=[f"victim={server.address}"], fresh_upstream_connections=True
        ) as stack:
            body = {"model": LLAMA_MODEL, "prompt": "count", "max_tokens": 12_000, "stream": True}
            response = await stack.session.post(f"{stack.url}/v1/completions", json=body)
            await response.content.readany()
            server.child.process.send_signal(signal.SIGKILL)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
            await stack.epp.idle()

            stale = await eventually(stack.epp.endpoints, lambda es: (es[0]["metrics_age_s"] or 0) > 0.5)
            status, _, _ = await stack.post("/v1/completions", {"model": LLAMA_MODEL, "prompt": "x"})
            await start_llama_at(engines, llama_model, port, name="victim-again")
            fresh = await eventually(
                stack.epp.endpoints, lambda es: (es[0]["metrics_age_s"] or 9) < stale[0]["metrics_age_s"]
            )

            assert stale[0]["scrapes"]["failed"] > 0
            assert status == 503
            assert fresh[0]["name"] == "victim"
            assert await stack.complete("back again", model=LLAMA_MODEL)
            await stack.epp.idle()


async def test_a_body_over_the_limit_is_413(tmp_path: Path, sims: list[SimServer]) -> None:
    async with start_stack(tmp_path, "--max-request-body=100Ki", endpoints=[s.address for s in sims]) as stack:
        status, _, text = await stack.post("/v1/completions", {"model": "sim-model", "prompt": "x" * 200_000})
        after, _, _ = await stack.post("/v1/completions", SMALL)

        assert status == 413
        assert text == b"inference error: PayloadTooLarge - request body is larger than 102400 bytes"
        assert after == 200
        await stack.epp.idle()


async def test_a_body_of_several_megabytes_reaches_the_server_byte_by_byte(
    tmp_path: Path, sims: list[SimServer]
) -> None:
    body = json.dumps({"model": "sim-model", "prompt": "\u00e9 and \u4e16 " * 300_000, "max_tokens": 1}).encode()
    async with start_stack(tmp_path, endpoints=[sims[0].address]) as stack:
        await stack.post("/v1/completions", body)

        (received,) = sims[0].requests
        assert received.size_bytes == len(body)


async def test_an_empty_pool_is_503_and_a_request_without_a_body_500(tmp_path: Path, sims: list[SimServer]) -> None:
    config = tmp_path / "epp.yaml"
    config.write_text(FILE_CONFIG.format(path=endpoints_file(tmp_path)))
    async with start_stack(tmp_path, f"--config-file={config}", endpoints=[]) as stack:
        status, headers, text = await stack.post("/v1/completions", SMALL)
        async with stack.session.get(f"{stack.url}/v1/models") as response:
            bodiless = response.status, await response.read()

        assert status == 503
        assert headers["x-llm-d-request-dropped-reason"] == "rejected-no-endpoints"
        assert text.startswith(b"inference error: ServiceUnavailable - failed to find endpoint candidates")
        assert bodiless == (500, b"inference error: Internal - no pods available in datastore")

        endpoints_file(tmp_path, sims[0])
        await eventually(stack.epp.endpoints, lambda es: len(es) == 1)
        assert (await stack.post("/v1/completions", SMALL))[0] == 200


async def test_endpoints_come_and_go_by_file_and_a_typo_removes_nothing(tmp_path: Path, sims: list[SimServer]) -> None:
    config = tmp_path / "epp.yaml"
    path = endpoints_file(tmp_path, *sims[:2])
    config.write_text(FILE_CONFIG.format(path=path))
    async with start_stack(tmp_path, f"--config-file={config}", endpoints=[]) as stack:
        endpoints_file(tmp_path, *sims)
        await eventually(stack.epp.endpoints, lambda es: len(es) == 3)
        path.write_text("endpoints: [{name: sim-0")
        await eventually(_log_of(stack.epp), lambda text: "it is not YAML" in text)
        after_typo = await stack.epp.endpoints()
        endpoints_file(tmp_path, sims[1])
        await eventually(stack.epp.endpoints, lambda es: [e["name"] for e in es] == ["sim-1"])

        assert len(after_typo) == 3
        assert (await stack.post("/v1/completions", SMALL))[0] == 200
        assert len(sims[1].requests) == 1


def _log_of(epp: Epp) -> Callable[[], Awaitable[str]]:
    async def read() -> str:
        return epp.child.stderr_path.read_text(errors="replace")  # it may be cut within a character

    return read


async def test_the_epp_restarted_under_load_serves_again(tmp_path: Path, sims: list[SimServer]) -> None:
    port = free_port()
    async with start_stack(
        tmp_path, f"--grpc-port={port}", "--drain-timeout=0s", endpoints=[s.address for s in sims]
    ) as stack:
        statuses: list[int] = []
        stop = asyncio.Event()

        async def load() -> None:
            while not stop.is_set():
                statuses.append(await stack.outcome("/v1/completions", SMALL))

        async with asyncio.TaskGroup() as clients:
            for _ in range(4):
                clients.create_task(load())
            await eventually(_length(statuses), lambda n: n > 20)
            stack.epp.terminate()
            await asyncio.wait_for(stack.epp.child.process.wait(), END_WITHIN_S)
            second = await start_epp(
                stack.children, endpoints=[s.address for s in sims], name="epp-2", ports={"grpc-port": port}
            )
            done = len(statuses)
            await eventually(_length(statuses), lambda n: n > done + 200)
            stop.set()

        assert stack.epp.child.returncode == 0
        assert set(statuses) <= {200, 500, 503, 504, CUT_OFF}
        assert set(statuses[-50:]) == {200}
        await second.idle()


def _length(items: list[int]) -> Callable[[], Awaitable[int]]:
    async def count() -> int:
        return len(items)

    return count


async def test_sigterm_says_not_serving_and_finishes_what_has_begun(tmp_path: Path) -> None:
    async with (
        SimServer(SimConfig(name="slow")) as sim,
        start_stack(tmp_path, "--drain-timeout=600s", endpoints=[sim.address]) as stack,
    ):
        assert await health(stack.epp.health) == health_pb2.HealthCheckResponse.SERVING
        body = SMALL | {"max_tokens": 60, "stream": True}
        response = await stack.session.post(f"{stack.url}/v1/completions", json=body)
        await response.content.readany()

        stack.epp.terminate()
        await eventually(lambda: health(stack.epp.health), lambda s: s == health_pb2.HealthCheckResponse.NOT_SERVING)
        ready, reason = await stack.epp.page("/readyz")
        late, _, _ = await stack.post("/v1/completions", SMALL)
        rest = await response.read()
        stack.epp.terminate()  # told again, it waits no longer
        await asyncio.wait_for(stack.epp.child.process.wait(), END_WITHIN_S)

        assert (ready, reason) == (503, "shutdown: draining\n")
        assert late == 200
        assert rest.endswith(b"data: [DONE]\n\n")
        assert stack.epp.child.returncode == 0


async def test_envoy_gets_through_by_tls_with_a_self_signed_certificate(tmp_path: Path, sims: list[SimServer]) -> None:
    async with start_stack(tmp_path, endpoints=[sims[0].address], tls=True) as stack:
        status, _, _ = await stack.post("/v1/completions", SMALL)

        assert status == 200


async def test_a_busy_port_is_an_error_that_names_it(tmp_path: Path) -> None:
    async with Children(tmp_path) as children:
        first = await start_epp(children, endpoints=["127.0.0.1:9"])
        port = first.grpc.rpartition(":")[2]
        others = ("--grpc-health-port=0", "--metrics-port=0")
        second = await children.start(
            _epp("run", "--endpoint=127.0.0.1:9", "--listen=127.0.0.1", f"--grpc-port={port}", *others),
            name="second",
        )
        await asyncio.wait_for(second.process.wait(), END_WITHIN_S)

        assert second.returncode == 1
        assert f"cannot listen on 127.0.0.1:{port} (--grpc-port)" in second.log_tail()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "either pool-name or endpoint-selector must be set, or --endpoint"),
        (["run", "--pool-name=p", "--kubeconfig=/nonexistent"], "kubeconfig /nonexistent: there is no such file"),
        (["run", "--endpont=1.2.3.4:1"], "did you mean --endpoint?"),
        (["run", "--endpoint=1.2.3.4"], "no port; expected [NAME=]HOST:PORT"),
        (["run", "--endpoint=1.2.3.4:1", "--config-file=/nonexistent.yaml"], "/nonexistent.yaml"),
        (["run", "--endpoint=1.2.3.4:1", "--config-text={kind: Nonsense}"], "Nonsense"),
        (["check", "/nonexistent.yaml"], "/nonexistent.yaml"),
        (["fly"], "there is no command 'fly'"),
    ],
)
async def test_mistakes_on_the_command_line_are_told_with_status_2(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    async with Children(tmp_path) as children:
        child = await children.start(_epp(*arguments), name="epp")
        await asyncio.wait_for(child.process.wait(), END_WITHIN_S)

        assert child.returncode == 2
        assert said in child.log_tail()
        assert "Traceback" not in child.log_tail()


def _epp(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "epp", *arguments]
