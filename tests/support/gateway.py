"""A real Envoy as a gateway has it: several inference pools, each with its picker, endpoints that come and go, and rules.

What a gateway's controller does, a test does: it says which addresses a pool and its picker have, and Envoy follows within
milliseconds (EDS from files).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from epp.demo.envoy import Envoy, start_envoy
from epp.demo.processes import Children
from epp.envoy.bootstrap import bootstrap
from epp.envoy.clusters import EPP_CLUSTER, UPSTREAM_CLUSTER
from epp.envoy.ext_proc import EXT_PROC, ext_proc
from epp.envoy.forms import TYPE, socket_address
from epp.envoy.options import BodyMode, BootstrapOptions, Upstream
from tests.support.files import replace
from tests.support.stack import eventually

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pool:
    """An InferencePool as the gateway sees it. `fail_open` is its failureMode, `http2` its appProtocol. Without the last four,
    bodies go to the picker as gateways send them, and it is asked once, however long that takes."""

    name: str
    http2: bool = False
    fail_open: bool = False
    tls: bool = False
    """To the picker."""
    request_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED
    response_body: BodyMode = BodyMode.FULL_DUPLEX_STREAMED
    picker_retries: int = 0
    picker_keepalive_s: float = 0.0

    @property
    def picker(self) -> str:
        return f"{self.name}-epp"


@dataclass(frozen=True, slots=True)
class Rule:
    """Which requests go where: a host name, or a path, to pools by weight."""

    pools: Mapping[str, int]
    host: str = "*"
    prefix: str = "/"


class Gateway:
    """Running, in front of `pools`."""

    def __init__(self, envoy: Envoy, folder: Path, session: aiohttp.ClientSession) -> None:
        self.envoy = envoy
        self.session = session
        self._folder = folder

    @property
    def url(self) -> str:
        return self.envoy.url

    async def set_pool(self, pool: Pool, addresses: Sequence[str]) -> None:
        """The endpoints `ip:port` of a pool. Returns when Envoy uses exactly these."""
        await self._set(pool.name, addresses)

    async def set_picker(self, pool: Pool, addresses: Sequence[str]) -> None:
        """The addresses behind the Service of its picker."""
        await self._set(pool.picker, addresses)

    async def post(self, path: str, body: object, **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and whole body. `_` in header names becomes `-`."""
        sent = {"content-type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
        data = json.dumps(body).encode()
        async with self.session.post(f"{self.url}{path}", data=data, headers=sent) as response:
            return response.status, response.headers, await response.read()

    async def _set(self, cluster: str, addresses: Sequence[str]) -> None:
        _write_endpoints(self._folder, cluster, addresses)
        await eventually(lambda: self.addresses(cluster), lambda used: used == set(addresses))

    async def addresses(self, cluster: str) -> set[str]:
        """Those that Envoy uses for a pool or a picker."""
        async with self.session.get(f"http://{self.envoy.admin_address}/clusters?format=json") as response:
            page = await response.json(content_type=None)
        found = next(c for c in page["cluster_statuses"] if c["name"] == cluster)
        sockets = [host["address"]["socket_address"] for host in found.get("host_statuses", ())]
        return {f"{socket['address']}:{socket['port_value']}" for socket in sockets}


@asynccontextmanager
async def start_gateway(
    children: Children, folder: Path, pools: Sequence[Pool], rules: Sequence[Rule]
) -> AsyncIterator[Gateway]:
    """No pool has an endpoint yet, and no picker an address."""
    envoy = await start_envoy(children, _configuration(folder, pools, rules), folder, name="gateway")
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=60)) as session:
        yield Gateway(envoy, folder, session)


async def gather_limited(calls: Sequence[Any], limit: int) -> list[Any]:
    """The results of coroutines, of which so many run at a time."""
    free = asyncio.Semaphore(limit)

    async def one(call: Any) -> Any:
        async with free:
            return await call

    return await asyncio.gather(*(one(call) for call in calls))


def _configuration(folder: Path, pools: Sequence[Pool], rules: Sequence[Rule]) -> Json:
    folder.mkdir(parents=True, exist_ok=True)
    for pool in pools:
        _write_endpoints(folder, pool.name, ())
        _write_endpoints(folder, pool.picker, ())
    by_name = {pool.name: pool for pool in pools}
    written: dict[str, Json] = {pool.name: bootstrap(_options(pool)) for pool in pools}
    whole: Json = written[pools[0].name]
    clusters = []
    for pool in pools:
        for cluster in written[pool.name]["static_resources"]["clusters"]:
            name = {EPP_CLUSTER: pool.picker, UPSTREAM_CLUSTER: pool.name}[cluster["name"]]
            cluster.pop("load_assignment")
            files = {"path": str(folder / f"{name}.eds.json"), "watched_directory": {"path": str(folder)}}
            source = {"resource_api_version": "V3", "path_config_source": files}
            clusters.append(cluster | {"name": name, "type": "EDS", "eds_cluster_config": {"eds_config": source}})
    whole["static_resources"]["clusters"] = clusters
    whole["node"] = {"id": "gateway", "cluster": "gateway"}
    manager = whole["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    manager["http_filters"][0]["typed_config"]["grpc_service"]["envoy_grpc"]["cluster_name"] = pools[0].picker
    hosts: dict[str, list[Json]] = {}
    for rule in rules:
        hosts.setdefault(rule.host, []).append(_route(rule, by_name))
    manager["route_config"]["virtual_hosts"] = [
        {"name": f"host-{number}", "domains": [host], "routes": routes}
        for number, (host, routes) in enumerate(hosts.items())
    ]
    return whole


def _options(pool: Pool) -> BootstrapOptions:
    return BootstrapOptions(
        epp="127.0.0.1:1",  # stands for what the file of endpoints says
        epp_tls=pool.tls,
        epp_retries=pool.picker_retries,
        epp_keepalive_s=pool.picker_keepalive_s,
        upstream=Upstream.OVERRIDE_HOST,
        endpoints=("127.0.0.1:1",),
        upstream_http2=pool.http2,
        retries=2,
        request_body=pool.request_body,
        response_body=pool.response_body,
        failure_mode_allow=pool.fail_open,
    )


def _route(rule: Rule, pools: Mapping[str, Pool]) -> Json:
    clusters = [
        {"name": name, "weight": weight, "typed_per_filter_config": _asks(pools[name])}
        for name, weight in rule.pools.items()
    ]
    return {"match": {"prefix": rule.prefix}, "route": {"weighted_clusters": {"clusters": clusters}, "timeout": "60s"}}


def _asks(pool: Pool) -> Json:
    """Whom the filter asks for requests to this pool, with which bodies, and what happens where nobody answers."""
    filter: Json = ext_proc(_options(pool))["typed_config"]  # type: ignore[assignment]
    overrides = {key: filter[key] for key in ("grpc_service", "processing_mode", "failure_mode_allow")}
    overrides["grpc_service"]["envoy_grpc"]["cluster_name"] = pool.picker
    return {EXT_PROC: {"@type": f"{TYPE}.extensions.filters.http.ext_proc.v3.ExtProcPerRoute", "overrides": overrides}}


def _write_endpoints(folder: Path, cluster: str, addresses: Sequence[str]) -> None:
    endpoints = [{"endpoint": {"address": socket_address(address)}} for address in addresses]
    assignment = {
        "@type": f"{TYPE}.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": endpoints}],
    }
    # Envoy looks again when a file is moved into its folder.
    replace(folder / f"{cluster}.eds.json", json.dumps({"version_info": "1", "resources": [assignment]}))
