"""Listening, and serving with one or more processes."""

from __future__ import annotations

import socket
from typing import Final

import uvicorn

_BACKLOG: Final = 2048
# A process that says nothing for so long is replaced. On a busy machine its start alone may take more than uvicorn's 5 s.
_HUNG_S: Final = 60


def listen(host: str, port: int) -> socket.socket:
    """Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        # Answers are written in two parts. Without this the second one waits for the client's delayed acknowledgement, 40 ms;
        # asyncio sets it only on sockets that name their protocol, and uvicorn's own do not.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def serve(app: str, listener: socket.socket, *, workers: int) -> None:
    """Serve the application that the factory `module:name` makes until SIGTERM or Ctrl-C."""
    uvicorn.run(
        app,
        factory=True,
        fd=listener.fileno(),
        workers=workers,
        log_level="warning",
        timeout_worker_healthcheck=_HUNG_S,
    )
