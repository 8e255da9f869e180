"""Real vLLM servers with a tiny random model on loopback: `make test-vllm`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from tests.support.ports import free_ports
from tests.support.processes import children, family

HERE: Final = Path(__file__).parent
MODEL: Final = HERE / "models" / "tiny"
BLOCK_SIZE: Final = 32
BLOCKS: Final = 128
_START_S: Final = 180.0
_EVENTS: Final = {
    "enable_kv_cache_events": True,
    "publisher": "zmq",
    "endpoint": "tcp://*:0",
    "replay_endpoint": "tcp://*:0",
    "topic": "kv@127.0.0.1:{port}@tiny",
}


class Vllm:
    """Servers of one launcher, each one `host_port`."""

    def __init__(
        self, ports: list[int], session: aiohttp.ClientSession, process: subprocess.Popen[bytes], logs: Path
    ) -> None:
        self.host_ports = [f"127.0.0.1:{port}" for port in ports]
        self.process = process
        self._session = session
        self._logs = logs

    async def post(self, server: int, path: str, body: dict[str, Any]) -> Any:
        async with self._session.post(f"http://{self.host_ports[server]}{path}", json=body) as reply:
            assert reply.status == 200, await reply.text()
            return await reply.json()

    async def complete(self, server: int, prompt: object, **more: object) -> int:
        """Ask for one token. How much of the prompt the server had cached, in tokens."""
        body = {"model": "tiny", "prompt": prompt, "max_tokens": 1, **more}
        usage = (await self.post(server, "/v1/completions", body))["usage"]
        return int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0)

    async def ready(self) -> None:
        async with asyncio.timeout(_START_S):
            for host_port in self.host_ports:
                while not await self._is_healthy(host_port):
                    if self.process.poll() is not None:
                        raise RuntimeError(f"vLLM has ended: {self.log_tail()}")
                    await asyncio.sleep(0.2)

    def pids(self, number: int) -> list[int]:
        """The processes of one server, that which listens first."""
        return family(sorted(children(self.process.pid))[number])

    def log_tail(self) -> str:
        texts = [path.read_text(errors="replace")[-2000:] for path in sorted(self._logs.glob("*.log"))]
        return "\n".join(texts)

    async def _is_healthy(self, host_port: str) -> bool:
        try:
            async with self._session.get(f"http://{host_port}/health") as reply:
                return reply.status == 200
        except aiohttp.ClientError:
            return False


@asynccontextmanager
async def vllm(
    folder: Path,
    *,
    count: int = 1,
    first_port: int = 0,
    hashes: str = "sha256",
    seed: str = "",
    adapters: Sequence[str] = (),
    model: Path = MODEL,
    blocks: int = BLOCKS,
    max_tokens: int = BLOCK_SIZE * 60,
) -> AsyncIterator[Vllm]:
    """`count` servers on neighbouring ports; kill `process` to lose them. `seed`: their PYTHONHASHSEED, empty for none.

    `adapters` are names of LoRA adapters with random weights. Each server's cache has `blocks`, a request `max_tokens`.
    """
    first = first_port or free_ports(count)[0]
    arguments = {
        "--model": str(model),
        "--max-model-len": str(max_tokens),
        "--num-gpu-blocks-override": str(blocks),
        "--prefix-caching-hash-algo": hashes,
    }
    process = _launch(folder, count, first, arguments, seed=seed, adapters=adapters)
    try:
        async with aiohttp.ClientSession() as session:
            servers = Vllm([first + i for i in range(count)], session, process, folder)
            await servers.ready()
            yield servers
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.to_thread(process.wait, 30)
        except subprocess.TimeoutExpired:
            process.kill()


def _launch(
    folder: Path, count: int, first_port: int, given: Mapping[str, str], *, seed: str, adapters: Sequence[str]
) -> subprocess.Popen[bytes]:
    python = os.environ.get("VLLM_PYTHON", "")
    if not python:
        pytest.skip("VLLM_PYTHON is not set: run these tests by make test-vllm")
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {
        "--served-model-name": "tiny",
        "--load-format": "dummy",
        "--dtype": "bfloat16",
        "--block-size": str(BLOCK_SIZE),
        "--max-num-seqs": "4",
        "--kv-events-config": json.dumps(_EVENTS),
        **given,
    }
    flags = ["--enforce-eager", "--enable-prompt-tokens-details", "--enable-scale-out"]
    if adapters:
        subprocess.run([python, str(HERE / "make_adapters.py"), str(MODEL), str(folder), *adapters], check=True)
        flags += ["--enable-lora", "--max-loras", "2", "--max-lora-rank", "8", "--lora-modules"]
        flags += [f"{name}={folder / name}" for name in adapters]
    command = [python, str(HERE / "prefork.py"), str(count), str(first_port), str(folder), "--"]
    command += [word for item in arguments.items() for word in item] + flags
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONHASHSEED"}
    if seed:
        environment["PYTHONHASHSEED"] = seed
    with (folder / "launcher.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
