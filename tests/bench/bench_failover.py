"""How long nobody is ready when a leader is stopped or dies, beside the Go EPP's: a real API server, two replicas of each.

`python -m tests.bench.bench_failover [--rounds 5]`: a row for each EPP and signal, seconds from the signal until the other
replica's gRPC health says SERVING. Ours take endpoints from the command line, the Go EPP from a pool without Pods.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import grpc

from epp.demo.processes import Child, Children
from epp.server.gen import health_pb2 as health
from tests.support import tools
from tests.support.control_plane import OFFICIAL_CRDS, ControlPlane
from tests.support.ports import free_port

POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: %s, namespace: default}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: epp, port: {number: 9002}}
"""
Command = Callable[[int], Sequence[str]]


def ours(health_port: int) -> Sequence[str]:
    return (
        *(sys.executable, "-m", "epp", "run", "--listen=127.0.0.1", "--endpoint=127.0.0.1:1", "--pool-name=ours"),
        *("--grpc-port=0", "--metrics-port=0", f"--grpc-health-port={health_port}", "--secure-serving=false"),
        *("--metrics-endpoint-auth=false", "--ha-enable-leader-election", "--drain-timeout=1s"),
    )


def theirs(health_port: int) -> Sequence[str]:
    return (
        *(str(tools.find(tools.GO_EPP)), "--pool-name=theirs", "--pool-namespace=default", "--tracing=false", "--v=1"),
        *(f"--grpc-port={free_port()}", f"--metrics-port={free_port()}", f"--grpc-health-port={health_port}"),
        *("--secure-serving=false", "--ha-enable-leader-election", "--drain-timeout=1s"),
    )


class Replica:
    def __init__(self, child: Child, port: int) -> None:
        self.child = child
        self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
        self._check = self._channel.unary_unary(
            "/grpc.health.v1.Health/Check",
            request_serializer=health.HealthCheckRequest.SerializeToString,
            response_deserializer=health.HealthCheckResponse.FromString,
        )

    async def is_ready(self) -> bool:
        try:
            answer = await self._check(health.HealthCheckRequest(service="readiness"), timeout=1.0)
        except grpc.aio.AioRpcError:
            return False
        return bool(answer.status == health.HealthCheckResponse.SERVING)

    async def until_ready(self) -> None:
        while True:
            if await self.is_ready():
                return
            await asyncio.sleep(0.005)

    async def until_answering(self) -> None:
        await self._channel.channel_ready()

    async def close(self) -> None:
        await self._channel.close()


async def measure(children: Children, name: str, command: Command, number: signal.Signals, rounds: int) -> list[float]:
    async def start(n: int) -> Replica:
        port = free_port()
        child = await children.start(command(port), name=f"{name}-{number.name}-{n}")
        replica = Replica(child, port)
        await replica.until_answering()
        return replica

    took_s = []
    leader = await start(0)
    await leader.until_ready()
    for n in range(1, rounds + 1):
        follower = await start(n)
        await asyncio.sleep(random.uniform(3.0, 5.0))  # a follower of some time, at any moment between two renewals
        before = time.monotonic()
        leader.child.process.send_signal(number)
        await follower.until_ready()
        took_s.append(time.monotonic() - before)
        await leader.close()
        await leader.child.stop()
        leader = follower
    await leader.close()
    await leader.child.stop()
    return took_s


async def run(plane: ControlPlane, rounds: int) -> None:

    os.environ["KUBECONFIG"] = str(plane.kubeconfig)
    plane.install_crds(*OFFICIAL_CRDS)
    plane.api.apply(POOL % "theirs")
    print("| EPP | signal | median | least | most |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as logs:
        async with Children(Path(logs)) as children:
            for name, command in (("llm-epp", ours), ("Go EPP", theirs)):
                for number in (signal.SIGTERM, signal.SIGKILL):
                    took_s = await measure(children, name, command, number, rounds)
                    numbers = (statistics.median(took_s), min(took_s), max(took_s))
                    print(f"| {name} | {number.name} | " + " | ".join(f"{s:.1f} s" for s in numbers) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds: int = parser.parse_args().rounds
    with ControlPlane() as plane:
        asyncio.run(run(plane, rounds))


if __name__ == "__main__":
    main()
