"""llama.cpp servers for the demo: ``python -m epp.demo.llamacpp`` is one of them, ``start_llamacpp`` starts several.

Each server is a process of its own with one compute thread: two that spin on a busy two-core machine stall each other.
It answers /v1/completions, /v1/chat/completions, /health, /metrics (llamacpp:*, no labels) and /slots.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from epp.demo.processes import Child, Children, wait_for_http, wait_until

# Open streams each hold a thread; with the default pool a scrape of /metrics waits behind them for seconds.
_HTTP_THREADS = 64
# llama.cpp's log levels: 3 and up write several lines a request.
_WARNINGS = 2


class ReadyLine(msgspec.Struct):
    """What a server prints, as one line of JSON, once it listens."""

    listening: str
    """``host:port``."""


@dataclass(frozen=True, slots=True)
class LlamaServer:
    """One llama.cpp server that answers."""

    child: Child
    address: str
    """``host:port``, the form in which an endpoint is named."""

    @property
    def url(self) -> str:
        return f"http://{self.address}"


async def start_llamacpp(
    children: Children,
    model: Path,
    *,
    count: int,
    alias: str,
    name: str = "llama",
    slots: int = 4,
    slot_context_tokens: int = 16384,
    saved_prompts_mib: int = 0,
    deadline_s: float = 60.0,
) -> list[LlamaServer]:
    """Start ``count`` servers of one model on free ports and return when all are healthy.

    ``slots`` requests run at a time on each, the others wait; a request may use ``slot_context_tokens``. Each slot keeps
    its last prompt in the cache; ``saved_prompts_mib`` of memory keep earlier ones. ``name``, numbered, names the
    children; ``alias`` is the model's name in requests. Raises ChildError.
    """
    command = [
        *(sys.executable, "-m", "epp.demo.llamacpp", "--model", str(model), "--alias", alias),
        *("--slots", str(slots), "--slot-context-tokens", str(slot_context_tokens)),
        *("--saved-prompts-mib", str(saved_prompts_mib)),
    ]
    started = [await children.start(command, name=f"{name}-{number}") for number in range(count)]
    return list(await asyncio.gather(*(_wait_healthy(child, deadline_s) for child in started)))


async def _wait_healthy(child: Child, deadline_s: float) -> LlamaServer:
    async def probe() -> str | None:
        line, complete, _ = child.stdout_path.read_bytes().partition(b"\n")
        return msgspec.json.decode(line, type=ReadyLine).listening if complete else None

    address = await wait_until(child, probe, what="said where it listens", deadline_s=deadline_s)
    await wait_for_http(child, f"http://{address}/health", deadline_s=deadline_s)
    return LlamaServer(child, address)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one server until SIGTERM or SIGINT; prints a ReadyLine. Returns the exit status."""
    options = _parser().parse_args(arguments)
    # Blocked before the first thread exists, so every thread inherits it and only sigwait sees them.
    awaited = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(options.model)
    parameters.model_alias = {options.alias}
    parameters.hostnames = [options.host]
    parameters.port = options.port
    parameters.n_parallel = options.slots
    parameters.n_ctx = options.slot_context_tokens * options.slots
    parameters.cache_ram_mib = options.saved_prompts_mib
    parameters.cache_idle_slots = options.saved_prompts_mib > 0
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = options.threads
    parameters.n_threads_http = _HTTP_THREADS
    parameters.endpoint_metrics = parameters.endpoint_slots = True
    parameters.offline = True
    parameters.ui = False
    parameters.verbosity = _WARNINGS
    try:
        server = xllamacpp.Server(parameters)
    except RuntimeError as error:
        # llama.cpp has logged the cause by itself.
        raise SystemExit(f"cannot serve {options.model} on {options.host}:{options.port}: {error}") from None
    print(json.dumps({"listening": server.listening_address.removeprefix("http://")}), flush=True)
    signal.sigwait(awaited)
    # The server's destructor waits for open streams; the process has nothing else to save.
    os._exit(0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m epp.demo.llamacpp", description="run one llama.cpp server")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--alias", default="llm-epp-demo", help="model name it answers to")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; the ready line says which")
    parser.add_argument("--slots", type=int, default=4, help="requests that run at a time")
    parser.add_argument("--slot-context-tokens", type=int, default=16384, help="tokens of one request")
    parser.add_argument("--saved-prompts-mib", type=int, default=0, help="memory for prompts that no slot holds")
    parser.add_argument("--threads", type=int, default=1, help="compute threads")
    return parser


if __name__ == "__main__":
    sys.exit(main())
