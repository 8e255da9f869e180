"""The command `epp sim`: some simulated model servers in one process, until a signal."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from epp.sim.config import SimConfig, StepCost
from epp.sim.server import SimServer

if TYPE_CHECKING:
    Subparsers = argparse._SubParsersAction[argparse.ArgumentParser]

DESCRIPTION = """Run simulated model servers: OpenAI endpoints, vLLM's metrics page, and an engine with continuous batching,
a prefix cache and a queue. They answer with words of no meaning after the time a real one would have taken."""

EPILOG = """examples:
  epp sim --count 3 --port 8000                 servers on ports 8000, 8001 and 8002
  epp sim --count 4 --slow 3=4 --json-ready     four on free ports, the last one four times slower
  epp sim --lora adapter-a --lora adapter-b     with two LoRA adapters
  curl -X POST localhost:8000/sim/faults -d '{"metrics_hang": true}'
"""

PARENT_POLL_S = 0.5


def add_parser(subparsers: Subparsers) -> argparse.ArgumentParser:
    """Add the command to `epp`'s parser. Its arguments carry `run`, to be called with them."""
    parser = subparsers.add_parser(
        "sim",
        help="run simulated model servers",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_arguments(parser)
    parser.set_defaults(run=run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m epp.sim",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_arguments(parser)
    return run(parser.parse_args(arguments))


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM, SIGINT or the end of the parent. Exit status: 0, 1 when a port is taken, 2 for wrong values."""
    try:
        configs = configurations(args)
    except ValueError as error:
        print(f"epp sim: {error}", file=sys.stderr)
        return 2
    try:
        return asyncio.run(_serve(configs, json_ready=args.json_ready, parent_pid=args.parent_pid))
    except OSError as error:
        print(f"epp sim: cannot listen: {error.strerror or error}; choose another --port, or 0", file=sys.stderr)
        return 1


def configurations(args: argparse.Namespace) -> list[SimConfig]:
    """One configuration a server. ValueError says which argument does not fit."""
    if args.count < 1:
        raise ValueError(f"--count: {args.count} is too small; expected 1 or more")
    if not 0 <= args.port <= 65536 - args.count:
        raise ValueError(f"--port: {args.port} leaves no room for {args.count} ports; expected 0..{65536 - args.count}")
    slow = dict(_slow(text, args.count) for text in args.slow)
    shared = SimConfig(
        host=args.host,
        model=args.model,
        loras=tuple(args.lora),
        max_loras=args.max_loras,
        cost=StepCost(
            base_ms=args.decode_ms,
            prefill_ms_per_1k_tokens=args.prefill_ms_per_1k_tokens,
            decode_ms_per_sequence=args.decode_ms_per_sequence,
            lora_factor=args.lora_factor,
            speed=args.speed,
        ),
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=args.max_num_batched_tokens,
        max_queued_requests=args.max_queued_requests,
        blocks=args.blocks,
        block_size=args.block_size,
        max_model_len=args.max_model_len,
        output_tokens=args.output_tokens,
        stream_interval=args.stream_interval,
        metrics_padding_bytes=args.metrics_padding,
    )
    return [
        replace(
            shared,
            name=f"{args.name}-{index}",
            port=args.port + index if args.port else 0,
            cost=replace(shared.cost, speed=args.speed / slow.get(index, 1.0)),
        )
        for index in range(args.count)
    ]


def _slow(text: str, count: int) -> tuple[int, float]:
    index, _, factor = text.partition("=")
    try:
        server, times = int(index), float(factor)
    except ValueError as error:
        raise ValueError(f"--slow: {text!r} is not INDEX=FACTOR, such as 2=4") from error
    if not 0 <= server < count or not times > 0:
        raise ValueError(f"--slow: {text!r}: expected an index in 0..{count - 1} and a factor above 0")
    return server, times


async def _serve(configs: list[SimConfig], *, json_ready: bool, parent_pid: int | None) -> int:
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(SimServer(config)) for config in configs]
        watch = None if parent_pid is None else loop.create_task(_watch_parent(parent_pid, ended))
        print(_ready_line(servers) if json_ready else _ready_text(servers), flush=True)
        await ended.wait()
        if watch is not None:
            watch.cancel()
    return 0


async def _watch_parent(pid: int, ended: asyncio.Event) -> None:
    """A parent that was killed cannot tell its children; they have to look."""
    is_child = os.getppid() == pid
    while not ended.is_set() and (os.getppid() == pid if is_child else _exists(pid)):
        with suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), PARENT_POLL_S)
    ended.set()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _ready_line(servers: list[SimServer]) -> str:
    described = [
        {"name": server.name, "address": server.address, "url": server.url, "model": server.config.model}
        for server in servers
    ]
    return json.dumps({"ready": True, "pid": os.getpid(), "servers": described})


def _ready_text(servers: list[SimServer]) -> str:
    return "\n".join(f"{server.name}  {server.url}  {server.config.model}" for server in servers)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults, cost = SimConfig(), StepCost()
    where = parser.add_argument_group("servers")
    where.add_argument("--host", default=defaults.host, help="address to listen on (%(default)s)")
    where.add_argument("--port", type=int, default=0, help="first port, the others follow; 0: free ones (%(default)s)")
    where.add_argument("--count", type=int, default=1, metavar="N", help="number of servers (%(default)s)")
    where.add_argument("--name", default="sim", help="first part of the names in x-sim-name (%(default)s)")
    where.add_argument("--json-ready", action="store_true", help="print one JSON line with the addresses once ready")
    where.add_argument("--parent-pid", type=int, metavar="PID", help="end when this process ends")
    model = parser.add_argument_group("model")
    model.add_argument("--model", default=defaults.model, help="name of the served model (%(default)s)")
    model.add_argument("--lora", action="append", default=[], metavar="NAME", help="an adapter; may be repeated")
    model.add_argument(
        "--max-loras", type=int, default=defaults.max_loras, metavar="N", help="adapters in one batch (%(default)s)"
    )
    model.add_argument(
        "--max-model-len", type=int, metavar="TOKENS", help="prompt and output; default: what the KV cache holds"
    )
    model.add_argument(
        "--output-tokens",
        type=int,
        default=defaults.output_tokens,
        metavar="TOKENS",
        help="length of an answer without max_tokens (%(default)s)",
    )
    time = parser.add_argument_group("time")
    time.add_argument(
        "--prefill-ms-per-1k-tokens",
        type=float,
        default=cost.prefill_ms_per_1k_tokens,
        metavar="MS",
        help="for prompt tokens that are not cached (%(default)s)",
    )
    time.add_argument(
        "--decode-ms", type=float, default=cost.base_ms, metavar="MS", help="fixed part of every step (%(default)s)"
    )
    time.add_argument(
        "--decode-ms-per-sequence",
        type=float,
        default=cost.decode_ms_per_sequence,
        metavar="MS",
        help="more for each sequence that decodes (%(default)s)",
    )
    time.add_argument(
        "--lora-factor",
        type=float,
        default=cost.lora_factor,
        metavar="FACTOR",
        help="times the cost of work with an adapter (%(default)s)",
    )
    time.add_argument(
        "--speed",
        type=float,
        default=cost.speed,
        metavar="FACTOR",
        help="everything this many times faster (%(default)s)",
    )
    time.add_argument(
        "--slow", action="append", default=[], metavar="INDEX=FACTOR", help="make one server slower; may be repeated"
    )
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--max-num-seqs",
        type=int,
        default=defaults.max_num_seqs,
        metavar="N",
        help="sequences in one batch (%(default)s)",
    )
    engine.add_argument(
        "--max-num-batched-tokens",
        type=int,
        default=defaults.max_num_batched_tokens,
        metavar="TOKENS",
        help="token budget of a step (%(default)s)",
    )
    engine.add_argument(
        "--max-queued-requests", type=int, metavar="N", help="waiting requests, then 503; default: no limit"
    )
    engine.add_argument(
        "--blocks", type=int, default=defaults.blocks, metavar="N", help="KV cache blocks (%(default)s)"
    )
    engine.add_argument(
        "--block-size", type=int, default=defaults.block_size, metavar="TOKENS", help="tokens of a block (%(default)s)"
    )
    engine.add_argument(
        "--stream-interval",
        type=int,
        default=defaults.stream_interval,
        metavar="TOKENS",
        help="tokens a streamed chunk collects (%(default)s)",
    )
    engine.add_argument(
        "--metrics-padding",
        type=int,
        default=0,
        metavar="BYTES",
        help="make the metrics page this much longer (%(default)s)",
    )
