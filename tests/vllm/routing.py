"""How policies route to four real vLLM servers: `make bench-vllm`, or `VLLM_PYTHON=... python -m tests.vllm.routing --help`.

The same conversations about long documents are played once for each policy in every round, each time with other words, so
that nothing is cached from before; the order of the policies turns from round to round. All of it happens on one machine.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import aiohttp
import yaml

from epp.demo.client import Answer, Target, ask, play
from epp.demo.envoy import Envoy, start_envoy
from epp.demo.processes import Children
from epp.demo.stack import requests_served
from epp.demo.summary import Summary, percentile, summarize
from epp.demo.workload import Conversation, Size, Turn, make_load
from epp.envoy.bootstrap import bootstrap, round_robin_bootstrap
from epp.envoy.options import BootstrapOptions, RoundRobinOptions, Upstream
from tests.support.stack import Epp, start_epp
from tests.vllm.conftest import MODEL, Vllm, vllm

CONFIG: Final = Path(__file__).parents[2] / "config"
ROUND_ROBIN: Final = "round robin"
PRECISE: Final = "precise"
POLICIES: Final = (ROUND_ROBIN, "default", "sticky-until-saturated", PRECISE, "recommended")
REPLICAS: Final = 4
BLOCKS: Final = 512
"""Of 32 tokens, in each server: together they hold all conversations, one alone does not."""

SIZES: Final = {
    "small": Size(conversations=8, turns=4, one_offs=4, span_s=12.0, document_words=700),
    "normal": Size(conversations=20, turns=8, one_offs=16, span_s=60.0, document_words=1000),
}
_SHAPE: Final = {"hidden_size": 512, "intermediate_size": 1536}
_HEADS: Final = {"num_attention_heads": 8, "num_key_value_heads": 4}


def make_model(folder: Path, layers: int = 8) -> Path:
    """The tiny model, deeper and wider: with 8 layers, a cold prompt of 1,500 tokens takes a third of a second on one core."""
    folder.mkdir()
    for file in MODEL.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    shape = json.loads((MODEL / "config.json").read_text()) | _SHAPE | _HEADS | {"num_hidden_layers": layers}
    (folder / "config.json").write_text(json.dumps(shape))
    return folder


def configuration(policy: str, folder: Path) -> list[str]:
    """Flags of `epp run`. The precise configuration is made to fit these servers: their ports and their tokenizer."""
    if policy == "default":
        return []
    if policy != PRECISE:
        return [f"--config-file={CONFIG / policy}.yaml"]
    config = yaml.safe_load((CONFIG / "precise-prefix-cache.yaml").read_text())
    parameters = {plugin["type"]: plugin.get("parameters") for plugin in config["plugins"]}
    tokens = parameters["token-producer"]
    del tokens["vllm"]
    tokens["local"] = {"path": str(MODEL)}
    parameters["precise-prefix-cache-producer"]["kvEventsConfig"] = {"podDiscoveryConfig": {"socketPort": 0}}
    path = folder / "precise.yaml"
    path.write_text(yaml.safe_dump(config))
    return [f"--config-file={path}"]


@contextlib.asynccontextmanager
async def routed(policy: str, servers: Sequence[str], folder: Path) -> AsyncIterator[tuple[Envoy, Epp | None]]:
    """An Envoy that routes to `servers` by `policy`."""
    async with Children(folder / "logs") as children:
        if policy == ROUND_ROBIN:
            yield (
                await start_envoy(children, round_robin_bootstrap(RoundRobinOptions(endpoints=tuple(servers))), folder),
                None,
            )
            return
        epp = await start_epp(children, *configuration(policy, folder), endpoints=servers)
        options = BootstrapOptions(epp=epp.grpc, upstream=Upstream.OVERRIDE_HOST, endpoints=tuple(servers))
        yield await start_envoy(children, bootstrap(options), folder), epp


def load(size: Size, salt: str) -> tuple[Conversation, ...]:
    """Every answer is streamed: all of them have a first token."""
    return tuple(
        replace(talk, turns=tuple(replace(turn, streamed=True) for turn in talk.turns))
        for talk in make_load(size, salt=salt)
    )


async def run_policy(
    policy: str, servers: Vllm, size: Size, *, salt: str, folder: Path
) -> tuple[Summary, list[Answer]]:
    """Play the load once."""
    async with routed(policy, servers.host_ports, folder) as (envoy, epp):
        target = Target(envoy.url, "tiny", salt)
        async with aiohttp.ClientSession() as http:
            for number in range(len(servers.host_ports)):
                turn = Turn("warm-up", 0.0, f"good morning {salt} {number}", streamed=True, max_tokens=2)
                messages = [{"role": "user", "content": turn.text}]
                await ask(http, target, turn, request_id=f"warm-{number}", late_ms=0.0, messages=messages)
        names = {host_port: host_port for host_port in servers.host_ports}
        before = await requests_served(envoy, names)
        answers = await play(load(size, salt), target, on_answer=lambda answer: None)
        after = await requests_served(envoy, names)
        if epp is not None:
            await epp.idle()
        return summarize(answers, {name: after[name] - before[name] for name in names}), answers


def busiest(summary: Summary) -> float:
    """Requests of the busiest server over the mean of all."""
    counts = list(summary.per_server.values())
    return max(counts) / (sum(counts) / len(counts))


def table(results: Mapping[str, Sequence[Summary]]) -> str:
    """One line a policy: the middle of the rounds, times beside round robin's of the same round."""
    heads = ("policy", "TTFT mean", "TTFT p90", "of round robin's mean", "cached", "busiest over mean", "failed")
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for policy, runs in results.items():
        pairs = zip(runs, results[ROUND_ROBIN], strict=True)
        ratios = [r.ttft_mean_ms / b.ttft_mean_ms for r, b in pairs if r.ttft_mean_ms and b.ttft_mean_ms]
        lines.append(
            f"| {policy} | {_middle([r.ttft_mean_ms for r in runs]):.0f} ms | {_middle([r.ttft_p90_ms for r in runs]):.0f} ms"
            f" | {_middle(ratios):.2f} | {_middle([r.cached_share for r in runs]):.0%}"
            f" | {max(busiest(r) for r in runs):.2f} | {sum(r.errors for r in runs)} |"
        )
    return "\n".join(lines)


def _middle(values: Sequence[float | None]) -> float:
    return percentile([v for v in values if v is not None], 0.5) or float("nan")


async def compare(policies: Sequence[str], size: Size, rounds: int, folder: Path) -> dict[str, list[Summary]]:
    """Prints a line after each run."""
    results: dict[str, list[Summary]] = {policy: [] for policy in policies}
    model = make_model(folder / "model")
    async with vllm(folder / "vllm", count=REPLICAS, model=model, blocks=BLOCKS, max_tokens=4096) as servers:
        for number in range(rounds):
            turned = [*policies[number % len(policies) :], *policies[: number % len(policies)]]
            for policy in turned:
                salt = f"{number}{policies.index(policy)}{random.randrange(10**6)}"
                place = _made(folder / f"{number}-{policies.index(policy)}")
                summary, answers = await run_policy(policy, servers, size, salt=salt, folder=place)
                results[policy].append(summary)
                said = next((a.error for a in answers if a.error), "")
                _say(
                    f"round {number + 1}/{rounds}, {policy}: TTFT {summary.ttft_mean_ms:.0f} ms, {said or 'none failed'}"
                )
    return results


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.vllm.routing", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that every policy plays the load (3)")
    parser.add_argument("--size", choices=SIZES, default="normal", help="how much load (normal)")
    parser.add_argument("--policy", action="append", choices=POLICIES, help="these alone, and round robin")
    options = parser.parse_args()
    wanted: list[Any] = [p for p in POLICIES if not options.policy or p in (ROUND_ROBIN, *options.policy)]
    with tempfile.TemporaryDirectory(prefix="llm-epp-vllm-") as folder:
        results = asyncio.run(compare(wanted, SIZES[options.size], options.rounds, Path(folder)))
    print(table(results))


if __name__ == "__main__":
    main()
