"""Runs the commands of a page in a folder, as a reader would, but on free ports of the loopback interface.

Servers (`epp run`, `epp sim`, `envoy`) are started and waited for, and stay until the page starts another of the same kind.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from epp.cli.main import main as epp
from tests.support.pages import Command
from tests.support.ports import free_ports

DEADLINE_S: Final = 200.0  # for a server to be ready, and for a command
SEEN_WITHIN_S: Final = 60.0  # for what a page shows to come about

_PAGE_PORTS: Final = ("8000", "8001", "8002", "8081", "9002", "9003", "9090", "19000")
_PORT: Final = re.compile(rf"(?<![\w.])({'|'.join(_PAGE_PORTS)})(?!\w)")
_ELSEWHERE: Final = re.compile(r"\b10\.0\.0\.(\d+)\b")
_SERVERS: Final = ("epp run", "epp sim", "python -m epp.sim", "envoy")
_IN_PROCESS: Final = re.compile(r"epp (check|envoy-config|version)\b[^|<>&;$(]*")
_PORTS_OF: Final = {
    "epp run": {
        "--listen": "127.0.0.1",
        "--grpc-port": "9002",
        "--grpc-health-port": "9003",
        "--metrics-port": "9090",
    },
    "epp envoy-config": {"--epp": "127.0.0.1:9002", "--listen": "127.0.0.1:8081", "--admin": "127.0.0.1:19000"},
}


class Shell:
    """One page's folder, ports and servers. `close` it: nothing is left running."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ports = dict(zip(_PAGE_PORTS, map(str, free_ports(len(_PAGE_PORTS))), strict=True))
        self._servers: dict[str, subprocess.Popen[bytes]] = {}
        self._environ = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}

    def write(self, name: str, text: str) -> None:
        """A file that the page shows."""
        (self.folder / name).write_text(self._here(text))

    def run(self, command: Command) -> str:
        """What it printed, with the page's ports. Raises AssertionError when it fails or a server is not ready in time."""
        server = next((s for s in _SERVERS if command.text.startswith(f"{s} ")), None)
        if server is not None:
            self._serve(server, command)
            return ""
        text = self._here(_with_ports(command.text))
        if _IN_PROCESS.fullmatch(text):
            return self._as_on_page(self._in_process(text, failing="error" in "".join(command.output[-1:])))
        return self._as_on_page(self._in_bash(text, command))

    def close(self) -> None:
        for server in list(self._servers):
            self._stop(server)

    def _in_process(self, text: str, *, failing: bool) -> str:
        printed = io.StringIO()
        with (
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(printed),
            contextlib.redirect_stderr(printed),
        ):
            status = epp(shlex.split(text)[1:])
        assert status == (2 if failing else 0), f"{text}: exit status {status}\n{printed.getvalue()}"
        return printed.getvalue()

    def _in_bash(self, text: str, command: Command) -> str:
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.folder,
            env=self._environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=DEADLINE_S,
            check=False,
        )
        printed = done.stdout.decode()
        assert done.returncode == 0 or command.output, f"{command}: exit status {done.returncode}\n{printed}"
        return printed

    def _serve(self, server: str, command: Command) -> None:
        self._stop(server)
        text = self._here(_with_ports(command.text.removesuffix("&").rstrip()))
        log = self.folder / f"{server.replace(' ', '-')}.output"
        with log.open("wb") as output:
            self._servers[server] = process = subprocess.Popen(
                ["bash", "-c", f"exec {text}"],
                cwd=self.folder,
                env=self._environ,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        give_up_at = time.monotonic() + DEADLINE_S
        while not self._ready(server, log):
            assert process.poll() is None, f"{command}: it ended\n{log.read_text()}"
            assert time.monotonic() < give_up_at, f"{command}: it is not ready\n{log.read_text()}"
            time.sleep(0.02)

    def _ready(self, server: str, log: Path) -> bool:
        if server == "epp run":
            return _answers(f"http://127.0.0.1:{self._ports['9090']}/readyz")
        if server == "envoy":
            return _answers(f"http://127.0.0.1:{self._ports['19000']}/ready")
        return b"\n" in log.read_bytes()  # one line a server, once they listen

    def _stop(self, server: str) -> None:
        process = self._servers.pop(server, None)
        if process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _here(self, text: str) -> str:
        """Free ports for the page's, and loopback addresses for those of other machines."""
        return _ELSEWHERE.sub(r"127.0.0.\1", _PORT.sub(lambda m: self._ports[m[1]], text))

    def _as_on_page(self, text: str) -> str:
        for shown, used in self._ports.items():
            text = re.sub(rf"\b{used}\b", shown, text)
        return text


def _with_ports(text: str) -> str:
    """The command with the addresses it would use by default, so that they can be replaced."""
    for prefix, defaults in _PORTS_OF.items():
        if text.startswith(prefix) and "--filter-only" not in text:
            missing = [f" {flag} {value}" for flag, value in defaults.items() if f"{flag} " not in text]
            text = prefix + "".join(missing) + text.removeprefix(prefix)
    if text.startswith("envoy "):
        text = text.replace("envoy ", "envoy --disable-hot-restart --concurrency 1 ", 1)
    return text


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


# --- what a page shows ---------------------------------------------------------------------------------------------------

_HASH: Final = re.compile(r"(?<=hash )[0-9a-f]{12}\b")
_VARIES: Final = (
    (re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "TIME"),
    (re.compile(r"\d+(?:\.\d+)?(?:e[-+]\d+)?"), "N"),
)


def shows(command: Command, printed: str) -> bool:
    """Whether `printed` is what the page shows: `...` stands for any lines, hashes may differ, and so may the numbers but
    in what `epp check` prints."""
    exact = "epp check" in command.text
    pattern = "".join(
        r"(?:.*\n)*?" if line == "..." else re.escape(_comparable(line, exact)) + r"\n" for line in command.output
    )
    return re.fullmatch(pattern, _comparable(printed, exact)) is not None


def _comparable(text: str, exact: bool) -> str:
    text = _HASH.sub("HASH", text)
    for pattern, word in () if exact else _VARIES:
        text = pattern.sub(word, text)
    return text


def run_page(shell: Shell, commands: list[Command]) -> Iterator[str]:
    """Runs all of them; yields what is wrong with what the page shows."""
    for command in commands:
        printed = shell.run(command)
        give_up_at = time.monotonic() + SEEN_WITHIN_S
        while command.output and not shows(command, printed):
            if "epp check" in command.text or time.monotonic() > give_up_at:
                yield f"{command}\nthe page shows\n{chr(10).join(command.output)}\nit prints\n{printed}"
                break
            time.sleep(0.05)
            printed = shell.run(command)
