"""How well latencies of real vLLM servers are predicted: `python -m tests.vllm.latency --help` (VLLM_PYTHON: its Python).

A ladder of loads, each step heavier than the one before: conversations about documents, questions of all lengths, and among
them a probe that is always the same size. Afterwards one server is slowed by stopping it for a share of every few
milliseconds. The EPP predicts and learns all the while. What it has observed is judged twice: as it was served, and by a
model that was trained on the first steps alone and has never seen the heavier ones.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import numpy as np

from epp.demo.client import Answer, Target, ask
from epp.demo.vocabulary import WORDS
from epp.demo.workload import Turn
from epp_predictor.evaluation import Evaluation, as_served, quality, trained_again
from epp_predictor.history import Records, read
from epp_predictor.report import cells, page
from tests.support.stack import Stack, start_stack
from tests.vllm.conftest import Vllm, vllm
from tests.vllm.routing import make_model

CONFIG: Final = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: kv-cache-utilization-scorer
- type: prefix-cache-scorer
- type: predicted-latency-producer
- type: max-score-picker
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 2}
  - {pluginRef: kv-cache-utilization-scorer, weight: 2}
  - {pluginRef: prefix-cache-scorer, weight: 3}
  - {pluginRef: max-score-picker}
"""
SERVERS: Final = 2
_PROBE_WORDS: Final = 300
_PROBE: Final = "probe"
_PROBE_TOKENS: Final = 16
_STOP_EVERY_S: Final = 0.02


@dataclass
class Step:
    """One rung: so many requests a second for so long."""

    name: str
    rate: float
    seconds: float
    slowed: float = 1.0
    """How many times slower the first server is."""
    began_s: float = 0.0
    ended_s: float = 0.0
    answers: list[Answer] = field(default_factory=list)

    def of(self, records: Records) -> Records:
        """What was observed of requests that ended in it."""
        return records.where((records.time_s >= self.began_s) & (records.time_s < self.ended_s))

    def noise(self) -> dict[str, float]:
        """How far apart the latencies of equal requests are, by target: median distance from their median, as a share of it."""
        probes = [a for a in self.answers if a.label == _PROBE and not a.error and a.ttft_ms and a.total_ms]
        firsts = [a.ttft_ms for a in probes if a.ttft_ms]
        later = [(a.total_ms - a.ttft_ms) / (_PROBE_TOKENS - 1) for a in probes if a.ttft_ms and a.total_ms]
        return {"ttft": _spread(firsts), "tpot": _spread(later)}


def _spread(values: Sequence[float]) -> float:
    if len(values) < 5:
        return float("nan")
    return float(np.median(np.abs(np.array(values) / np.median(values) - 1)))


class Clients:
    """Sends requests at random times, a given number a second on average, whatever becomes of them."""

    def __init__(self, url: str, seed: int) -> None:
        self.target = Target(url, "tiny", "latency")
        self.rng = random.Random(seed)
        self.number = 0
        self.talks: list[list[dict[str, str]]] = []

    async def play(self, step: Step) -> None:
        step.began_s = time.time()
        end_s = time.monotonic() + step.seconds
        connector = aiohttp.TCPConnector(limit=0)
        timeout = aiohttp.ClientTimeout(total=120)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http, asyncio.TaskGroup() as group:
            while (left_s := end_s - time.monotonic()) > 0:
                group.create_task(self._one(http, step))
                await asyncio.sleep(min(left_s, self.rng.expovariate(step.rate)))
        step.ended_s = time.time()

    async def _one(self, http: aiohttp.ClientSession, step: Step) -> None:
        self.number += 1
        label, messages, talk = self._request()
        turn = Turn(
            label, 0.0, "", streamed=True, max_tokens=_PROBE_TOKENS if label == _PROBE else self.rng.randint(4, 40)
        )
        answer = await ask(http, self.target, turn, request_id=f"latency-{self.number}", late_ms=0.0, messages=messages)
        step.answers.append(answer)
        if talk is not None and not answer.error and len(talk) < 9:
            talk += [messages[-1], {"role": "assistant", "content": answer.text}]
            self.talks.append(talk)

    def _request(self) -> tuple[str, list[dict[str, str]], list[dict[str, str]] | None]:
        chance = self.rng.random()
        if chance < 0.2:
            return _PROBE, [_user(f"{self.number} {self._prose(_PROBE_WORDS)}")], None
        if chance < 0.5:
            return "question", [_user(f"{self.number} {self._prose(int(self.rng.uniform(20, 1200)))}")], None
        if self.talks and chance < 0.85:
            talk = self.talks.pop(self.rng.randrange(len(self.talks)))
        else:
            document = f"{self.number} {self._prose(int(self.rng.uniform(200, 1000)))}"
            talk = [{"role": "system", "content": document}]
        return "talk", [*talk, _user(self._prose(40))], talk

    def _prose(self, words: int) -> str:
        return " ".join(self.rng.choices(WORDS, k=words))


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@asynccontextmanager
async def slowed(servers: Vllm, factor: float) -> AsyncIterator[None]:
    """The first server runs for 1/factor of the time: its engine is stopped and continued fifty times a second."""
    if factor <= 1:
        yield
        return
    pids = servers.pids(0)
    task = asyncio.create_task(_stutter(pids, 1 - 1 / factor))
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _stutter(pids: Sequence[int], stopped: float) -> None:
    try:
        while True:
            _signal(pids, signal.SIGSTOP)
            await asyncio.sleep(_STOP_EVERY_S * stopped)
            _signal(pids, signal.SIGCONT)
            await asyncio.sleep(_STOP_EVERY_S * (1 - stopped))
    finally:
        _signal(pids, signal.SIGCONT)


def _signal(pids: Sequence[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _settle(servers: Vllm) -> None:
    """Each server on a core of its own, where it gives way to Envoy, the EPP and the clients."""
    cores = sorted(os.sched_getaffinity(0))
    for number in range(SERVERS):
        for pid in servers.pids(number):
            for thread in Path(f"/proc/{pid}/task").iterdir():
                with suppress(ProcessLookupError):  # it may have ended since
                    os.sched_setaffinity(int(thread.name), {cores[number % len(cores)]})
                    os.setpriority(os.PRIO_PROCESS, int(thread.name), 5)


async def observe(steps: Sequence[Step], folder: Path, *, seed: int, layers: int) -> dict[str, Records]:
    """Play the steps; returns what the EPP has observed, by target."""
    config = folder / "latency.yaml"
    config.write_text(CONFIG)
    model = make_model(folder / "model", layers)
    async with vllm(folder / "vllm", count=SERVERS, model=model, blocks=512, max_tokens=4096) as servers:
        _settle(servers)
        endpoints = [f"s{n}={host_port}" for n, host_port in enumerate(servers.host_ports)]
        async with start_stack(folder, f"--config-file={config}", endpoints=endpoints) as stack:
            clients = Clients(stack.url, seed)
            for step in steps:
                async with slowed(servers, step.slowed):
                    await clients.play(step)
                failed = [a for a in step.answers if a.error]
                first = [a.ttft_ms for a in step.answers if a.ttft_ms is not None]
                _say(
                    f"{step.name}: {len(step.answers)} requests, {len(failed)} failed, "
                    f"first token after {np.median(first):.0f} ms (median), noise "
                    + ", ".join(f"{target} {share:.1%}" for target, share in step.noise().items())
                )
            return await _exported(stack)


async def _exported(stack: Stack) -> dict[str, Records]:
    status, text = await stack.epp.page("/debug/plugins/export/predicted-latency-producer")
    assert status == 200, text
    return read(text.splitlines())


def tell(steps: Sequence[Step], records: dict[str, Records], learnt: int) -> list[tuple[str, list[Evaluation]]]:
    """Print the figures. The first `learnt` steps are those that the model trained again may see. Returns them for a report."""
    sections: list[tuple[str, list[Evaluation]]] = [("As served", []), ("Trained on the first steps", [])]
    ladder = [step for step in steps if step.slowed == 1]
    for target, every in records.items():
        upper = every.where(every.time_s < ladder[-1].ended_s)
        later = upper.where(upper.time_s >= ladder[learnt].began_s)
        served = as_served(later)
        again = trained_again(upper, share=1 - len(later) / max(len(upper), 1))
        for (_, section), found in zip(sections, (served, again), strict=True):
            if found is not None:
                section.append(found)
        print(f"\n{target.upper()}: {len(upper)} observations, of which {len(later)} later and heavier")
        print("  | judged | requests | median error | p90 | bias | coverage | ± | a line |")
        print("  |---|---|---|---|---|---|---|---|")
        for name, found in (("as served", served), ("trained on the first steps", again)):
            if found is not None:
                print(f"  | {name} | {' | '.join(cells(found.overall))} |")
                judged = found.records
                for step in ladder[learnt:]:
                    part = quality(step.of(judged), np.zeros(2))
                    print(f"  | {name}, {step.name} | {' | '.join(cells(part)[:-1])} | |")
        if again is None:
            print("  none was trained on the first steps: too few, or it said no more than a constant there")
        for step in (s for s in steps if s.slowed > 1):
            some = step.of(every)
            if as_served(some) is not None:
                print(f"  | {step.name}, all | {' | '.join(cells(quality(some, np.zeros(2)))[:-1])} | |")
                print(
                    f"  | {step.name}, the slow server | {' | '.join(cells(quality(_at(some, 's0'), np.zeros(2)))[:-1])} | |"
                )
                print(f"  the slow server's interval held again after {_recovered(_at(some, 's0'))} of its requests")
    print("\nnoise floor (equal requests in the same step):")
    for target in records:
        print(f"  {target.upper()}: {', '.join(f'{step.noise()[target]:.1%}' for step in ladder[learnt:])}")
    return sections


def _at(records: Records, endpoint: str) -> Records:
    return records.where(records.endpoint == endpoint)


def _recovered(records: Records) -> str:
    """After how many requests at least 84 % of the next 25 lay in their intervals."""
    inside = (records.low_ms <= records.observed_ms) & (records.observed_ms <= records.high_ms)
    for begin in range(len(inside) - 24):
        if inside[begin : begin + 25].mean() >= 0.84:
            return str(begin)
    return f"more than {len(inside)}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.vllm.latency", description=__doc__)
    parser.add_argument(
        "--rates", default="1,1.6,2.2,2.8,3.4", help="requests a second, step by step (1,1.6,2.2,2.8,3.4)"
    )
    parser.add_argument("--seconds", type=float, default=90, help="that each step takes (90)")
    parser.add_argument("--learnt", type=int, default=3, help="steps that the model trained again may see (3)")
    parser.add_argument(
        "--slowed", type=float, default=1.35, help="how many times slower one server becomes (1.35; 1: not)"
    )
    parser.add_argument(
        "--slowed-seconds", type=float, default=240, help="for how long (240), at the second step's rate"
    )
    parser.add_argument("--layers", type=int, default=8, help="of the model: fewer answer more requests a second (8)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, help="also write a page with pictures")
    options = parser.parse_args()
    rates = [float(rate) for rate in options.rates.split(",")]
    steps = [Step(f"{rate:g} a second", rate, options.seconds) for rate in rates]
    if options.slowed > 1:
        steps.append(
            Step(f"one server {options.slowed:g} times slower", rates[1], options.slowed_seconds, options.slowed)
        )
    with tempfile.TemporaryDirectory(prefix="llm-epp-latency-") as folder:
        records: dict[str, Any] = asyncio.run(observe(steps, Path(folder), seed=options.seed, layers=options.layers))
    sections = tell(steps, records, options.learnt)
    if options.report is not None:
        options.report.write_text(page(sections, source="real vLLM servers on CPUs"))


if __name__ == "__main__":
    main()
