"""CPU per short call of a bare echo on `epp.http2`, beside the same echo on `grpc.aio`, in one run.

The load looks like ext_proc: many short bidirectional calls on one connection, each with a few small messages both ways,
then half-close and trailers. Cost is utime + stime of the server's process (/proc/<pid>/stat), so the client's does not count.

    python tests/bench/bench_http2_echo.py [--calls 4000] [--concurrency 16 64] [--rounds 3]
"""

import argparse
import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import grpc
import uvloop

METHOD = "/echo.Echo/Echo"
# What Envoy sends for one request: headers and body together, and the response's headers when they have come.
TURNS = ((b"h" * 600, b"b" * 1024), (b"r" * 300,))
ROOT = Path(__file__).resolve().parents[2]
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


async def serve_grpc_aio() -> None:
    """The reference server: `grpc.aio` with its leanest API."""

    async def echo(_: object, context: "grpc.aio.ServicerContext[object, object]") -> None:
        while (message := await context.read()) is not grpc.aio.EOF:
            await context.write(message)

    class Service(grpc.GenericRpcHandler):
        def service(self, details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[bytes, bytes] | None":
            return grpc.stream_stream_rpc_method_handler(echo) if details.method == METHOD else None

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Service(),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(port, flush=True)
    await server.wait_for_termination()


@contextmanager
def server(*arguments: str) -> Iterator[tuple[int, int]]:
    """A server process that prints its port: (pid, port)."""
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.PIPE, cwd=ROOT, text=True)
    try:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


def cpu_s(pid: int) -> float:
    """User and system time so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


async def call(multicallable: "grpc.aio.StreamStreamMultiCallable[bytes, bytes]") -> None:
    stream = multicallable()
    for turn in TURNS:
        for message in turn:
            await stream.write(message)
        for message in turn:
            if await stream.read() != message:
                raise SystemExit("the echo differs")
    await stream.done_writing()
    if await stream.code() is not grpc.StatusCode.OK:
        raise SystemExit("the call failed")


async def load(port: int, calls: int, concurrency: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        multicallable: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(METHOD)
        left = iter(range(calls))

        async def worker() -> None:
            for _ in left:
                await call(multicallable)

        await asyncio.gather(*(worker() for _ in range(concurrency)))


def cost_us(pid: int, port: int, calls: int, concurrency: int) -> float:
    """CPU of the server for one call, in µs."""
    before = cpu_s(pid)
    uvloop.run(load(port, calls, concurrency))
    return (cpu_s(pid) - before) / calls * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--calls", type=int, default=4000)
    parser.add_argument("--concurrency", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve-grpc-aio", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_grpc_aio:
        uvloop.run(serve_grpc_aio())
        return
    with server("-m", "tests.support.h2spec_server", "--uvloop") as lean, server(__file__, "--serve-grpc-aio") as aio:
        for concurrency in options.concurrency:
            compare(lean, aio, options.calls, concurrency, options.rounds)


def compare(lean: tuple[int, int], aio: tuple[int, int], calls: int, concurrency: int, rounds: int) -> None:
    ours: list[float] = []
    theirs: list[float] = []
    for round_number in range(rounds + 1):
        pair = cost_us(*lean, calls, concurrency), cost_us(*aio, calls, concurrency)
        if round_number:  # the first warms both up
            ours.append(pair[0])
            theirs.append(pair[1])
    print(f"{concurrency} calls at a time")
    print(f"  epp.http2 on uvloop: {median(ours):7.1f} µs per call  {[round(value) for value in ours]}")
    print(f"  grpc.aio on uvloop:  {median(theirs):7.1f} µs per call  {[round(value) for value in theirs]}")
    print(f"  ratio:               {median(ours) / median(theirs):7.3f}", flush=True)


if __name__ == "__main__":
    main()
