"""What the Gateway API Inference Extension's conformance suite sends, through a real Envoy and our EPP, without a cluster.

Pods are addresses of the loopback network, each with three ports; whoever answers says its address and the protocol that it
was spoken to in. The suite's tests of what a gateway's controller writes into status are not here: they ask nothing of an EPP.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from epp.demo.envoy import start_envoy
from epp.demo.processes import Children
from epp.envoy.forms import address_of, extension
from tests.support.gateway import Gateway, Pool, Rule, gather_limited, start_gateway
from tests.support.stack import Epp, start_epp

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

BODY = {"model": "conformance-fake-model", "prompt": "Write as if you were a critic: San Francisco"}
CONFIG = """\
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: header-based-testing-filter}
- {type: destination-endpoint-served-verifier}
schedulingProfiles: [{name: default, plugins: [{pluginRef: header-based-testing-filter}]}]
"""
PRIMARY, SECONDARY, PARALLEL = Pool("primary"), Pool("secondary", http2=True, fail_open=True), Pool("parallel")
ABSENT = Pool("absent")
POOLS = (PRIMARY, SECONDARY, PARALLEL, ABSENT)
RULES = (
    Rule({"primary": 1}, host="primary.example.com"),
    Rule({"secondary": 1}, host="secondary.example.com"),
    Rule({"parallel": 1}, host="parallel.example.com"),
    Rule({"absent": 1}, host="absent.example.com"),
    Rule({"primary": 70, "secondary": 30}, host="weighted.example.com"),
    Rule({"primary": 1}, prefix="/primary"),
    Rule({"secondary": 1}, prefix="/secondary"),
)


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    served_by: str
    """`ip:port` of who answered; empty where nobody did."""
    protocol: str
    headers: Mapping[str, str]

    @property
    def ip(self) -> str:
        return self.served_by.rpartition(":")[0]


@dataclass(frozen=True, slots=True)
class World:
    gateway: Gateway
    pods: dict[str, list[list[str]]]
    """Of each pool: Pods, each a list of its addresses `ip:port`."""
    pickers: dict[str, Epp]
    children: Children

    async def ask(self, pool: str, *, selection: str = "", path: str = "/v1/completions", host: str = "") -> Answer:
        headers = {"host": host or f"{pool}.example.com"}
        if selection:
            headers["test-epp-endpoint-selection"] = selection
        status, answered, _ = await self.gateway.post(path, BODY, **headers)
        return Answer(status, answered.get("x-served-by", ""), answered.get("x-protocol", ""), answered)

    async def ask_often(self, count: int, pool: str, **how: str) -> list[Answer]:
        return await gather_limited([self.ask(pool, **how) for _ in range(count)], 10)

    def ips(self, pool: str) -> list[str]:
        return [pod[0].rpartition(":")[0] for pod in self.pods[pool]]


@asynccontextmanager
async def running(folder: Path) -> AsyncIterator[World]:
    async with Children(folder / "logs") as children:
        counts = {"primary": (3, 1), "secondary": (3, 1), "parallel": (3, 3)}
        pods = await _start_pods(children, folder, counts)
        config = folder / "conformance.yaml"
        config.write_text(CONFIG)
        names = [pool.name for pool in POOLS if pool is not ABSENT]
        pickers = await asyncio.gather(
            *(
                start_epp(children, f"--config-file={config}", endpoints=all_of(pods[name]), name=f"epp-{name}")
                for name in names
            )
        )
        async with start_gateway(children, folder / "gateway", POOLS, RULES) as gateway:
            for name, picker in zip(names, pickers, strict=True):
                pool = next(p for p in POOLS if p.name == name)
                await gateway.set_pool(pool, all_of(pods[name]))
                await gateway.set_picker(pool, [picker.grpc])
            await gateway.set_pool(ABSENT, pods["primary"][0])
            yield World(gateway, pods, dict(zip(names, pickers, strict=True)), children)


async def _start_pods(
    children: Children, folder: Path, counts: Mapping[str, tuple[int, int]]
) -> dict[str, list[list[str]]]:
    """Pods that answer at once: one Envoy with a listener for each port of each."""
    network = f"127.{64 + secrets.randbelow(64)}.{secrets.randbelow(256)}"
    hosts = (f"{network}.{number}" for number in range(1, 255))
    names = {
        f"{pool}/{pod}/{port}": host
        for pool, (pods, ports) in counts.items()
        for pod, host in zip(range(pods), hosts, strict=False)
        for port in range(ports)
    }
    envoy = await start_envoy(children, _echo(names), folder / "pods", name="pods")
    found: dict[str, list[list[str]]] = {}
    for pool, (pods, ports) in counts.items():
        found[pool] = [[envoy.listeners[f"{pool}/{pod}/{port}"] for port in range(ports)] for pod in range(pods)]
    return found


def _echo(listeners: Mapping[str, str]) -> dict[str, Any]:
    said = {"x-served-by": "%DOWNSTREAM_LOCAL_ADDRESS%", "x-protocol": "%PROTOCOL%"}
    route = {
        "match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": json.dumps({"object": "text_completion"})}},
        "response_headers_to_add": [{"header": {"key": k, "value": v}} for k, v in said.items()],
    }
    manager = extension(
        "envoy.filters.network.http_connection_manager",
        "filters.network.http_connection_manager.v3.HttpConnectionManager",
        stat_prefix="echo",
        codec_type="AUTO",
        route_config={"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        http_filters=[extension("envoy.filters.http.router", "filters.http.router.v3.Router")],
    )
    return {
        "admin": {"address": address_of("127.0.0.1", 0)},
        "static_resources": {
            "listeners": [
                {"name": name, "address": address_of(host, 0), "filter_chains": [{"filters": [manager]}]}
                for name, host in listeners.items()
            ]
        },
    }


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with running(tmp_path_factory.mktemp("conformance")) as started:
        yield started


@pytest.mark.parametrize("selected", [1, 2, 3])
async def test_only_selected_pods_answer(world: World, selected: int) -> None:
    wanted = world.ips("primary")[:selected]

    answers = await world.ask_often(100, "primary", selection=",".join(wanted))

    assert {answer.status for answer in answers} == {200}
    assert {answer.ip for answer in answers} == set(wanted)


async def test_a_bare_address_means_any_port_of_the_pod(world: World) -> None:
    pod = world.pods["parallel"][1]

    answers = await world.ask_often(100, "parallel", selection=world.ips("parallel")[1])

    assert {answer.served_by for answer in answers} == set(pod)


async def test_an_address_with_a_port_means_that_rank(world: World) -> None:
    rank = world.pods["parallel"][2][1]

    answers = await world.ask_often(100, "parallel", selection=rank)

    assert {answer.served_by for answer in answers} == {rank}


async def test_two_ranks_of_a_pod_may_be_selected(world: World) -> None:
    first, _, third = world.pods["parallel"][0]

    answers = await world.ask_often(100, "parallel", selection=f"{first},{third}")

    assert {answer.served_by for answer in answers} == {first, third}


async def test_hosts_lead_to_their_pools(world: World) -> None:
    selection = ",".join((world.ips("primary")[0], world.ips("secondary")[0]))

    primary = await world.ask_often(20, "primary", selection=selection)
    secondary = await world.ask_often(20, "secondary", selection=selection)

    assert {answer.ip for answer in primary} == {world.ips("primary")[0]}
    assert {answer.ip for answer in secondary} == {world.ips("secondary")[0]}


async def test_paths_lead_to_their_pools(world: World) -> None:
    selection = ",".join((world.ips("primary")[0], world.ips("secondary")[0]))

    primary = await world.ask("", path="/primary/v1/completions", host="any.example.com", selection=selection)
    secondary = await world.ask("", path="/secondary/v1/completions", host="any.example.com", selection=selection)

    assert (primary.ip, secondary.ip) == (world.ips("primary")[0], world.ips("secondary")[0])


async def test_weights_divide_requests_between_two_pools_and_each_is_picked_for_by_its_own_epp(world: World) -> None:
    chosen = {"primary": world.ips("primary")[1], "secondary": world.ips("secondary")[1]}
    before = {name: await _requests(world.pickers[name]) for name in chosen}

    answers = await world.ask_often(200, "weighted", selection=",".join(chosen.values()))

    counted = Counter(answer.ip for answer in answers)
    assert set(counted) == set(chosen.values())
    assert 100 <= counted[chosen["primary"]] <= 180  # 140 is meant; six standard deviations are 39
    asked = {name: await _requests(world.pickers[name]) - before[name] for name in chosen}
    assert asked == {name: counted[ip] for name, ip in chosen.items()}


async def test_the_client_is_told_who_served(world: World) -> None:
    (address,) = world.pods["primary"][2]

    answer = await world.ask("primary", selection=world.ips("primary")[2])

    assert answer.served_by == answer.headers["x-conformance-test-served-endpoint"] == address


async def test_the_pools_protocol_is_spoken_to_its_pods(world: World) -> None:
    primary = await world.ask("primary", selection=world.ips("primary")[0])
    secondary = await world.ask("secondary", selection=world.ips("secondary")[0])

    assert (primary.protocol, secondary.protocol) == ("HTTP/1.1", "HTTP/2")


async def test_a_pool_without_a_picker_fails_requests(world: World) -> None:
    answer = await world.ask("absent", selection=world.ips("primary")[0])

    assert 500 <= answer.status < 600
    assert answer.served_by == ""


async def test_fail_open_serves_without_the_epp_and_fail_close_does_not(tmp_path: Path) -> None:
    async with running(tmp_path) as world:
        (wanted,) = world.pods["secondary"][0]
        with_epp = await world.ask_often(20, "secondary", selection=world.ips("secondary")[0])
        for pool in (PRIMARY, SECONDARY):
            picker = world.pickers[pool.name]
            picker.child.process.kill()
            await picker.child.process.wait()
            await world.gateway.set_picker(pool, [])  # as the controller does once the Service has no ready address

        opened = await world.ask_often(60, "secondary", selection=world.ips("secondary")[0])
        closed = await world.ask("primary", selection=world.ips("primary")[0])

    assert {answer.served_by for answer in with_epp} == {wanted}
    assert {answer.status for answer in opened} == {200}
    assert {answer.ip for answer in opened} == set(world.ips("secondary"))
    assert (closed.status, closed.served_by) == (500, "")


def all_of(pods: list[list[str]]) -> list[str]:
    return [address for pod in pods for address in pod]


async def _requests(epp: Epp) -> int:
    return int(await epp.metric("inference_objective_request_total"))
