"""What one request costs inside the process, step by step: `python -m tests.bench.bench_request [--profile]`.

A conversation with a real Envoy, recorded, with a fresh 1 KiB prompt each time, through a session with the default profile and
eight endpoints; no sockets. Each figure is the least of several rounds, in µs of CPU time of this process.
"""

from __future__ import annotations

import cProfile
import json
import pstats
import sys
from collections import defaultdict
from pathlib import Path
from time import perf_counter, process_time

from epp.observability.explain import KEPT
from epp.server.session import ExtProc, Session
from tests.support.conversations import FOLDER, read
from tests.support.service import make_director

CONVERSATION = FOLDER / "envoy-1.40" / "full_duplex_streamed-full_duplex_streamed" / "json.txtpb"
ROUNDS, REQUESTS = 10, 300


def conversations(count: int, conversation: Path = CONVERSATION) -> list[list[tuple[str, bytes]]]:
    """The recorded messages with their kinds, each time with another prompt."""
    recorded = read(conversation).messages
    made = []
    for number in range(count):
        messages = []
        for message in recorded:
            copy = type(message)()
            copy.CopyFrom(message)
            if copy.request_body.body:
                prompt = f"{number} " + "hello world " * 80
                copy.request_body.body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": 10}).encode()
            messages.append((str(message.WhichOneof("request")), copy.SerializeToString()))
        made.append(messages)
    return made


def run(service: ExtProc, messages: list[tuple[str, bytes]]) -> None:
    session = Session(service, lambda: None)
    for _, message in messages:
        session.receive(message)
        session.take()
    session.close("OK")


def whole(service: ExtProc, made: list[list[tuple[str, bytes]]]) -> float:
    least = float("inf")
    for start in range(0, ROUNDS * REQUESTS, REQUESTS):
        before = process_time()
        for messages in made[start : start + REQUESTS]:
            run(service, messages)
        least = min(least, (process_time() - before) / REQUESTS)
    return least * 1e6


def steps(service: ExtProc, made: list[list[tuple[str, bytes]]]) -> dict[str, float]:
    least: dict[str, float] = {}
    for start in range(0, ROUNDS * REQUESTS, REQUESTS):
        spent: dict[str, float] = defaultdict(float)
        for messages in made[start : start + REQUESTS]:
            before = perf_counter()
            session = Session(service, lambda: None)
            spent["0 open"] += perf_counter() - before
            for number, (kind, message) in enumerate(messages, 1):
                before = perf_counter()
                session.receive(message)
                session.take()
                spent[f"{number} {kind}"] += perf_counter() - before
            before = perf_counter()
            session.close("OK")
            spent[f"{len(messages) + 1} close"] += perf_counter() - before
        for step, seconds in spent.items():
            least[step] = min(least.get(step, float("inf")), seconds / REQUESTS * 1e6)
    return least


def main() -> None:
    service = ExtProc(make_director(*[f"127.0.0.1:{8000 + i}" for i in range(8)], keep=KEPT), max_body_bytes=1 << 24)
    made = conversations(ROUNDS * REQUESTS)
    for messages in made[:REQUESTS]:
        run(service, messages)
    if "--profile" in sys.argv:
        profile = cProfile.Profile()
        profile.enable()
        for messages in made:
            run(service, messages)
        profile.disable()
        pstats.Stats(profile).sort_stats("tottime").print_stats(40)
        return
    print(f"{whole(service, made):8.1f} µs  one request, {len(made[0])} messages")
    for step, microseconds in steps(service, made).items():
        print(f"{microseconds:8.1f} µs  {step}")


if __name__ == "__main__":
    main()
