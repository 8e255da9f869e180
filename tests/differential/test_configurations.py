"""The same configuration files are good, or not, for both EPPs."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Final

import pytest
import yaml

from epp.cli.main import main
from epp.demo.processes import ChildError, Children, wait_for_tcp
from epp_plugins.registry import ALIASES, BUILTIN
from tests.differential.configurations import JUDGED, SAMPLES, Config, plugin, profile
from tests.differential.pair import START_S, start_go, with_discovery

pytestmark = pytest.mark.e2e
_AT_ONCE: Final = 3
_ATTEMPTS: Final = 5
# It opens ports only once it has accepted its configuration, and does not say so when one of them is taken.
_SERVED: Final = "gRPC server listening"

STRICTER: Final = {
    "parameter's case differs": "names are written as documented",
    "parameters for a plugin that has none": "they would have no effect",
    "negative weight": "it would send requests to the worst endpoint",
    "disaggregation without decode": "every request would be refused",
    "data-parallel-profile-handler with two profiles": "every request would be refused",
    "no apiVersion": "it says how the file is to be read",
    "plugin twice in a profile": "it would count twice",
    "parser twice": "it would be asked once",
    "two bands of one priority, without the gate": "with the gate the Go EPP refuses it, too",
    "negative time-out, without the gate": "with the gate the Go EPP refuses it, too",
    "no-hit memory of zero": "it means nothing",
    "token threshold of zero": "it means nothing",
    "negative idle threshold": "it means nothing",
    "busy score above one": "scores end at 1",
    "media cache of zero": "it means nothing",
    "negative latency weight": "it would send requests to the slowest endpoint",
    "headroom strategy that does not exist": "it means nothing",
    "port zero for data-parallel ranks": "there is no such port",
    "metrics path that is empty": "it means nothing",
    "load threshold of zero": "the rule would divide by zero",
    "block size of zero": "there are no such blocks",
    "negative block size": "there are no such blocks",
    "token producer with a negative factor": "it means nothing",
}
"""Refused by ours alone, and why."""

FRIENDLIER: Final = {
    "S13 as shipped": "the misspelt cacheSizeInMB of the shipped sample is read as the parameter that it means",
    "no data source": "a warning tells that scorers see no metrics",
    "GIE's feature gate": "files for GIE 1.5 name it; a warning tells that it does nothing",
    "feature gate with spaces": "nothing else can be meant",
    "data source without extractor": "the default extractor reads it",
}
"""Accepted by ours alone, and why."""

ALONE_STRICTER: Final = {"disagg-profile-handler": "there is no profile for decoding"}
ALONE_FRIENDLIER: Final = {
    "expected-cost-scorer": "ours alone",
    "prefill-backlog-producer": "ours alone",
    "predicted-latency-scorer": "of an earlier release",
    "slo-scorer": "of an earlier release",
    "slo-aware-routing": "of an earlier release",
    "slo-request-tracker": "of an earlier release",
    "slo-aware-profile-handler": "of an earlier release",
    "token-load-scorer": "the producer that it reads is added",
    "session-id-producer": "x-session-id is the default header",
}
"""The same of single types."""


async def _go_verdicts(
    binary: Path, folder: Path, files: dict[str, Path], *, experimental: bool = True
) -> dict[str, bool]:
    """Whether the Go EPP serves with each of the files. It has to end by itself, with a status that is not 0, otherwise."""
    turns = asyncio.Semaphore(_AT_ONCE)

    async def one(children: Children, number: int, path: Path) -> bool:
        for attempt in range(_ATTEMPTS):
            async with turns:
                name = f"go-{number}-{attempt}"
                child, port = await start_go(children, binary, path, name=name, experimental=experimental)
                try:
                    await wait_for_tcp(child, "127.0.0.1", port, deadline_s=START_S)
                except ChildError:
                    assert child.returncode, f"{path}:\n{child.log_tail()}"
                    # Ports are free when they are chosen, and another of those that start at once may be quicker.
                    if _SERVED in child.stderr_path.read_text() + child.stdout_path.read_text():
                        continue
                    return False
                await child.stop(grace_s=0.2)
                return True
        pytest.fail(f"no free port in {_ATTEMPTS} attempts")

    async with Children(folder / "logs") as children:
        verdicts = await asyncio.gather(*(one(children, i, path) for i, path in enumerate(files.values())))
    return dict(zip(files, verdicts, strict=True))


def _write(folder: Path, configs: dict[str, Config]) -> dict[str, Path]:
    endpoints = folder / "endpoints.json"
    endpoints.write_text(json.dumps({"endpoints": [{"name": "a", "address": "127.0.0.1", "port": "9"}]}))
    files = {name: folder / f"{number}.yaml" for number, name in enumerate(configs)}
    for name, path in files.items():
        path.write_text(yaml.safe_dump(with_discovery(configs[name], endpoints), sort_keys=False))
    return files


@pytest.fixture(scope="module")
def verdicts(go_epp: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bool, bool]]:
    """By name: whether the Go EPP accepts the configuration, and whether `epp check` does."""
    folder = tmp_path_factory.mktemp("configurations")
    files = _write(folder, SAMPLES | JUDGED)
    go = asyncio.run(_go_verdicts(go_epp, folder, files))
    return {n: (go[n], main(["check", "--allow-experimental-plugins", str(p)]) == 0) for n, p in files.items()}


@pytest.mark.parametrize("name", SAMPLES | JUDGED)
def test_same_verdict(name: str, verdicts: dict[str, tuple[bool, bool]]) -> None:
    go, ours = verdicts[name]
    assert (go, ours) == ((True, False) if name in STRICTER else (False, True) if name in FRIENDLIER else (go, go))


def test_both_kinds_of_verdict_are_compared(verdicts: dict[str, tuple[bool, bool]]) -> None:
    agreed = [go for go, ours in verdicts.values() if go is ours]

    assert agreed.count(False) >= 25
    assert agreed.count(True) >= 25


@pytest.fixture(scope="module")
def alone(go_epp: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[bool, bool]]:
    """By plugin type: the verdicts on a configuration that names it, without parameters and without the flag for Alpha."""
    folder = tmp_path_factory.mktemp("types")
    configs: dict[str, Config] = {
        t: {"plugins": [plugin("queue-scorer", "q"), plugin(t, "x")], "schedulingProfiles": [profile("q")]}
        for t in (*BUILTIN, *ALIASES)
    }
    files = _write(folder, configs)
    go = asyncio.run(_go_verdicts(go_epp, folder, files, experimental=False))
    return {n: (go[n], main(["check", str(p)]) == 0) for n, p in files.items()}


@pytest.mark.parametrize("type_name", [*BUILTIN, *ALIASES])
def test_same_types_need_parameters_or_the_flag(type_name: str, alone: dict[str, tuple[bool, bool]]) -> None:
    go, ours = alone[type_name]

    expected = not go if type_name in ALONE_STRICTER or type_name in ALONE_FRIENDLIER else go
    assert ours is expected
