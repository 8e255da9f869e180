"""Real llama.cpp servers for the whole run; simulators and stacks for each test that asks for them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from itertools import count
from pathlib import Path

import pytest
import pytest_asyncio

from epp.demo.llamacpp import LlamaServer, start_llamacpp
from epp.demo.model import ensure_model
from epp.demo.processes import Children, wait_for_http
from epp.sim import SimConfig, SimServer, StepCost
from tests.support.cluster import Cluster, NoClusterError
from tests.support.ports import free_port
from tests.support.tools import ToolMissingError

LLAMA_MODEL = "llm-epp-demo"
_NUMBERS = count(1)


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A Kubernetes cluster of one node for the whole run; work in a `cluster_namespace` of it."""
    try:
        prepared = Cluster()
    except (NoClusterError, ToolMissingError) as missing:
        pytest.skip(str(missing))
    with prepared as running:
        yield running


@pytest.fixture
def cluster_namespace(cluster: Cluster) -> Iterator[str]:
    """A new one; what runs in it ends with the test."""
    name = cluster.create_namespace(f"test-{next(_NUMBERS)}")
    yield name
    cluster.clear(name)


@pytest.fixture(scope="session")
def llama_model() -> Path:
    return ensure_model()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def llama(tmp_path_factory: pytest.TempPathFactory, llama_model: Path) -> AsyncIterator[list[LlamaServer]]:
    """Four servers that nobody kills."""
    async with Children(tmp_path_factory.mktemp("llama")) as children:
        yield await start_llamacpp(children, llama_model, count=4, alias=LLAMA_MODEL)


async def start_llama_at(children: Children, model: Path, port: int, *, name: str) -> LlamaServer:
    """One server on a port of `free_port`, where another one may take its place later."""
    command = [sys.executable, "-m", "epp.demo.llamacpp", "--model", str(model), "--alias", LLAMA_MODEL]
    child = await children.start([*command, "--port", str(port)], name=name)
    server = LlamaServer(child, f"127.0.0.1:{port}")
    await wait_for_http(child, f"{server.url}/health", deadline_s=60)
    return server


@pytest_asyncio.fixture(loop_scope="session")
async def sims() -> AsyncIterator[list[SimServer]]:
    """Three simulated servers, fast and empty."""
    servers = [SimServer(SimConfig(name=f"sim-{i}", port=free_port(), cost=StepCost(speed=20))) for i in range(3)]
    for server in servers:
        await server.start()
    yield servers
    for server in servers:
        await server.stop()
