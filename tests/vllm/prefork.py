"""Starts N vLLM servers quickly: imports vLLM once and forks. Run by the Python that has vLLM (`scripts/vllm_env.sh`).

    prefork.py N FIRST_PORT LOG_DIR -- ARGUMENTS...

ARGUMENTS are those of vLLM's API server; `{i}` and `{port}` in them become the server's number and port. SIGTERM stops all.
Written for the vLLM of requirements.lock: it replaces a private function, so that the engine's process is forked as well.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable

DEFAULTS = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}
PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None, use_errno=True).prctl


def end_with_parent(number: int) -> None:
    _prctl(PR_SET_PDEATHSIG, number, 0, 0, 0)


def after_fork_in_engine() -> None:
    """Die with the API server, and let go of its listening socket: it would connect and never answer."""
    end_with_parent(signal.SIGKILL)
    for descriptor in map(int, os.listdir("/proc/self/fd")):
        try:
            copy = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            continue
        with copy:
            try:
                if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.getsockopt(
                    socket.SOL_SOCKET, socket.SO_ACCEPTCONN
                ):
                    os.close(descriptor)
            except OSError:
                continue


def serve(main: Callable[[], None], number: int, port: int, log_dir: str, arguments: list[str]) -> None:
    os.setsid()
    end_with_parent(signal.SIGTERM)
    os.register_at_fork(after_in_child=after_fork_in_engine)
    log = os.open(f"{log_dir}/vllm-{number}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    own = [a.replace("{i}", str(number)).replace("{port}", str(port)) for a in arguments]
    sys.argv = ["vllm", *own, "--host", "127.0.0.1", "--port", str(port), "--distributed-executor-backend", "uni"]
    main()


def start() -> None:
    count, first_port, log_dir, arguments = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[5:]
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    # Imported for their time only, once for all servers.
    import vllm.entrypoints.launchers.api_server.entry as entry
    import vllm.model_executor.models.llama
    import vllm.v1.attention.backends.cpu_attn
    import vllm.v1.engine.async_llm
    import vllm.v1.engine.core
    import vllm.v1.engine.utils
    import vllm.v1.executor.uniproc_executor
    import vllm.v1.worker.cpu_model_runner
    import vllm.v1.worker.cpu_worker

    vllm.v1.engine.utils.get_mp_context = lambda: multiprocessing.get_context("fork")
    gc.freeze()
    children = []
    for number in range(count):
        child = os.fork()
        if not child:
            try:
                serve(entry.main, number, first_port + number, log_dir, arguments)
            finally:
                os._exit(1)
        children.append(child)

    def stop(*_: object) -> None:
        for child in children:
            try:
                os.kill(child, signal.SIGTERM)
            except ProcessLookupError:
                continue

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    for child in children:
        while True:
            try:
                os.waitpid(child, 0)
                break
            except InterruptedError:
                continue


if __name__ == "__main__":
    start()
