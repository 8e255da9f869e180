"""Producers that a configuration does not name and its plugins need: both EPPs add the same."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest
import yaml

from epp.config import Registry, build, load_file, resolved_of
from epp.demo.processes import Children, wait_for_tcp
from epp_plugins.registry import ALIASES, BUILTIN
from tests.differential.configurations import IN_FLIGHT, SAMPLES, Config, plugin, simple
from tests.differential.pair import START_S, start_go, with_discovery
from tests.support.configs import make_environment

pytestmark = pytest.mark.e2e

# The parsers read prompts, and in-flight requests are counted always.
_OURS: Final = {"token-producer", "inflight-load-producer"}
_ADDED: Final = re.compile(r'"auto-created default producer","producer":"[^"/]*/([^"]*)"')

CONFIGS: Final[dict[str, Config]] = {
    "loads": simple(("active-request-scorer", 1)),
    "tokens in flight": simple(("token-load-scorer", 1), extra=(IN_FLIGHT,)),
    "sticky": simple("prefix-cache-affinity-filter", ("queue-scorer", 1)),
    "no hit": simple(("no-hit-lru-scorer", 1)),
    "lengths": simple(("context-length-aware", 1)),
    "concurrency": simple("concurrency-detector", ("queue-scorer", 1)),
    "active requests": simple(
        "utilization-filter",
        ("queue-scorer", 1),
        extra=(plugin("utilization-filter", conditions=[{"metric": "active-requests", "maxValue": 3}]),),
    ),
    "waiting requests": simple(
        "utilization-filter",
        ("queue-scorer", 1),
        extra=(plugin("utilization-filter", conditions=[{"metric": "waiting-queue", "maxValue": 3}]),),
    ),
    "media": simple(("mm-embeddings-cache-scorer", 1)),
    "S1": SAMPLES["S1"],
    "S4": SAMPLES["S4"],
    "S5": SAMPLES["S5"],
}


@pytest.mark.parametrize("name", CONFIGS)
async def test_both_add_the_same_producers(name: str, go_epp: Path, tmp_path: Path) -> None:
    path = tmp_path / "epp.yaml"
    endpoints = tmp_path / "endpoints.json"
    endpoints.write_text('{"endpoints": [{"name": "a", "address": "127.0.0.1", "port": "9"}]}')
    path.write_text(yaml.safe_dump(with_discovery(CONFIGS[name], endpoints), sort_keys=False))

    async with Children(tmp_path / "logs") as children:
        child, port = await start_go(children, go_epp, path, name="go-epp")
        await wait_for_tcp(child, "127.0.0.1", port, deadline_s=START_S)
        go = set(_ADDED.findall(child.stderr_path.read_text() + child.stdout_path.read_text()))
        await child.stop(grace_s=0.2)

    ours = _added(path)
    assert go - _OURS == ours - _OURS


def _added(path: Path) -> set[str]:
    """The data producers that ours adds."""
    registry = Registry(BUILTIN, aliases=ALIASES)
    resolved = resolved_of(build(load_file(path), registry, make_environment(allow_experimental=True)))
    return {n for n in resolved.producers if resolved.plugins[n].default}
