"""The Go EPP and ours, side by side: the same configuration, the same endpoints.

Ours runs in the test's process, as `epp run` composes it; the Go EPP is a child process.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import grpc
import msgspec
import yaml

from epp.app import Service, load_config
from epp.cli.options import parse
from epp.demo.processes import Child, Children, wait_for_tcp
from tests.differential.fleet import FakeFleet
from tests.differential.talk import Ask, Outcome, ask_one
from tests.support.ports import free_port

START_S: Final = 60.0
"""For the Go EPP to listen, and for both to have read every page: far more than it takes."""

_CHANNEL: Final = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
_SETTLE_S: Final = 30.0
_BESIDE_REQUESTS: Final = ").PreRequest.func"
# Values of a page are as good after a pause of the machine as before it.
_NEVER_STALE: Final = "--metrics-staleness-threshold=1h"


class Both(msgspec.Struct):
    """What each made of the same request."""

    go: Outcome
    ours: Outcome


class Pair:
    """Two EPPs over one fake fleet."""

    def __init__(
        self, fleet: FakeFleet, go: grpc.aio.Channel, ours: grpc.aio.Channel, http: aiohttp.ClientSession
    ) -> None:
        self.fleet = fleet
        self.go = go
        self.ours = ours
        self._http = http
        """For the Go EPP's pages."""
        self._ids = itertools.count(1)

    async def ask(self, ask: Ask) -> Both:
        """Both, once the Go EPP has noted what it picked before."""
        ask = self.named(ask)
        await self._settle()
        go, ours = await asyncio.gather(ask_one(self.go, ask), ask_one(self.ours, ask))
        return Both(go, ours)

    def named(self, ask: Ask) -> Ask:
        """The same with a request id of its own."""
        return msgspec.structs.replace(ask, id=f"r-{next(self._ids)}")

    async def _settle(self) -> None:
        """The Go EPP notes what it picked, for prefixes and for media, in goroutines beside the request."""
        async with asyncio.timeout(_SETTLE_S):
            while _BESIDE_REQUESTS in await self._goroutines():
                pass

    async def _goroutines(self) -> str:
        async with self._http.get("/debug/pprof/goroutine?debug=1") as page:
            assert page.status == 200
            return await page.text()


def with_discovery(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The configuration, its endpoints taken from the file `path`."""
    layer = dict(config.get("dataLayer", {})) | {"discovery": {"pluginRef": "file-discovery"}}
    plugins = [*config.get("plugins", []), {"type": "file-discovery", "parameters": {"path": str(path)}}]
    head = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig"}
    return head | dict(config) | {"plugins": plugins, "dataLayer": layer}


async def start_go(
    children: Children, binary: Path, config: Path, *, name: str, experimental: bool = True, pages_port: int = 0
) -> tuple[Child, int]:
    """Start the Go EPP without waiting for it, its pages on `pages_port` or anywhere. Returns it and its ext_proc port."""
    grpc_port, health, pages = free_port(), free_port(), pages_port or free_port()
    child = await children.start(
        [
            str(binary),
            *("--config-file", str(config), "--pool-name", "p", "--secure-serving=false"),
            *("--metrics-endpoint-auth=false", "--tracing=false", _NEVER_STALE, "--v", "1"),
            *("--grpc-port", str(grpc_port), "--grpc-health-port", str(health), "--metrics-port", str(pages)),
            f"--allow-experimental-plugins={str(experimental).lower()}",
            "--emit-endpoint-scores",
        ],
        name=name,
    )
    return child, grpc_port


@asynccontextmanager
async def our_epp(config: Path) -> AsyncIterator[int]:
    """Our EPP, serving. Gives its ext_proc port."""
    port = free_port()
    ports = (f"--grpc-port={port}", "--grpc-health-port=0", "--metrics-port=0", "--listen=127.0.0.1")
    others = ("--secure-serving=false", "--allow-experimental-plugins", "--emit-endpoint-scores", "--pool-name=p")
    options = parse([*ports, *others, _NEVER_STALE, "--transport=lean", f"--config-file={config}"], os.environ)
    service = Service(options, load_config(options))
    try:
        await service.start()
        yield port
    finally:
        await service.stop()


@asynccontextmanager
async def pair(
    folder: Path, binary: Path, config: Mapping[str, Any], labels: Sequence[Mapping[str, str]]
) -> AsyncIterator[Pair]:
    """Both EPPs, serving, over as many endpoints as there are sets of labels; every page has been read."""
    fleet = FakeFleet(labels)
    await fleet.start()
    endpoints, path = folder / "endpoints.json", folder / "epp.yaml"
    endpoints.write_text(json.dumps(fleet.file()))
    path.write_text(yaml.safe_dump(with_discovery(config, endpoints), sort_keys=False))
    try:
        async with Children(folder / "logs") as children:
            pages = free_port()
            child, go_port = await start_go(children, binary, path, name="go-epp", pages_port=pages)
            async with our_epp(path) as our_port:
                for port in (go_port, pages):
                    await wait_for_tcp(child, "127.0.0.1", port, deadline_s=START_S)
                async with (
                    grpc.aio.insecure_channel(f"127.0.0.1:{go_port}", options=_CHANNEL) as go,
                    grpc.aio.insecure_channel(f"127.0.0.1:{our_port}", options=_CHANNEL) as ours,
                    aiohttp.ClientSession(f"http://127.0.0.1:{pages}") as http,
                ):
                    await fleet.read(deadline_s=START_S)
                    yield Pair(fleet, go, ours, http)
            await child.stop(grace_s=0.3)
    finally:
        fleet.stop()
