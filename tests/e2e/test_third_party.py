"""A plugin of another package, found by its entry point, decides where a real Envoy sends requests."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from epp.sim import SimServer
from tests.support.configs import HEAD
from tests.support.distribution import install_by_hand
from tests.support.stack import start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

# All of a module of somebody who knows nothing but epp.api.
SCORER = '''\
from epp.api import Scorer


class Wanted(Scorer):
    """1 for the endpoint that the request's header names."""

    type = "wanted-scorer"

    def score(self, request, candidates):
        return [float(e.name == request.headers.get("x-wanted")) for e in candidates]
'''
PYPROJECT = """\
[project]
name = "wanted"
version = "1.0"

[project.entry-points."epp.plugins"]
wanted-scorer = "wanted:Wanted"
"""
# The others prefer nobody here, or would prefer somebody else: a weight of 10 outvotes them.
CONFIG = f"""{HEAD}plugins:
- type: wanted-scorer
- type: queue-scorer
- type: prefix-cache-scorer
schedulingProfiles:
- name: default
  plugins:
  - {{pluginRef: wanted-scorer, weight: 10}}
  - {{pluginRef: queue-scorer, weight: 1}}
  - {{pluginRef: prefix-cache-scorer, weight: 3}}
"""


async def test_an_installed_scorer_decides_the_pick(tmp_path: Path, sims: list[SimServer]) -> None:
    (tmp_path / "wanted").mkdir()
    (tmp_path / "wanted" / "wanted.py").write_text(SCORER)
    (tmp_path / "wanted" / "pyproject.toml").write_text(PYPROJECT)
    install_by_hand(tmp_path / "wanted", tmp_path / "site")
    (tmp_path / "epp.yaml").write_text(CONFIG)
    endpoints = [f"s{i}={server.address}" for i, server in enumerate(sims)]
    wanted = ["s2", "s0", "s1", "s1", "s2", "s0", "s2"]

    async with start_stack(
        tmp_path,
        f"--config-file={tmp_path / 'epp.yaml'}",
        endpoints=endpoints,
        env={"PYTHONPATH": str(tmp_path / "site")},
    ) as stack:
        for i, name in enumerate(wanted):
            await stack.complete(
                "the same prompt every time " * 20, model="sim-model", x_request_id=f"w-{i}", x_wanted=name
            )
        picked = [(await stack.epp.logged(f"w-{i}"))["endpoint"] for i in range(len(wanted))]

    addresses = {f"s{i}": server.address for i, server in enumerate(sims)}
    assert picked == [addresses[name] for name in wanted]
    received = Counter({f"s{i}": len(server.requests) for i, server in enumerate(sims)})
    assert received == Counter(wanted)
