"""Prove deploy/Containerfile where no container engine runs: its own steps in clean Debian roots, then the picker inside.

    python scripts/prove_container.py [--root DIR] [--keep]

Needs root, debootstrap and a Debian mirror, and what pip needs. The steps are read from the Containerfile, so that they are
the ones that are proven; only FROM is played: a root of the base's Debian release, with Python where the base has it. The
picker runs as the Containerfile's user, on a root that is read-only but for /tmp, and is asked /readyz; the predictor's servers
are asked what they can do. Prints sizes and the time until it was ready, as JSON. Exit status: 0 proven, 1 a step failed or the
picker was not ready, 2 something is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

REPOSITORY: Final = Path(__file__).resolve().parents[1]
CONTAINERFILE: Final = REPOSITORY / "deploy" / "Containerfile"
CHROOT: Final = shutil.which("chroot") or "/usr/sbin/chroot"
READY_WITHIN_S: Final = 60.0
# What else the image is for, and packages that only some configurations need.
OTHERS: Final = (
    ("epp-predictor", "train", "--help"),
    ("epp-predictor", "serve", "--help"),
    ("python3", "-c", "import cel, fastapi, opentelemetry.sdk, scipy, tokenizers, xgboost"),
)
MIRROR: Final = os.environ.get("DEBIAN_MIRROR", "")  # else debootstrap takes its own
# What the network needs while packages are fetched, as an engine hands it in; it does not stay in the root.
_OF_THE_HOST: Final = ("/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt")
_SEEN_BY_STEPS: Final = ("PIP_CERT", "PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")


class Step(NamedTuple):
    """An instruction of a Containerfile and what stands behind it."""

    word: str
    text: str


@dataclass
class Stage:
    """What is built from one FROM. `root` is its file system."""

    base: str
    root: Path
    workdir: str = "/"
    user: str = "0:0"
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"}
    )
    entrypoint: list[str] = field(default_factory=list)


class StepFailedError(Exception):
    """A step of the Containerfile does not work. The message names it."""


def steps(text: str) -> list[Step]:
    """The instructions of a Containerfile, with continued lines joined."""
    joined = re.sub(r"\\\n", " ", text)
    lines = (line.strip() for line in joined.splitlines())
    return [Step(*line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


class Builder:
    """Runs steps one by one; every kind that the Containerfile uses, and no other."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._arguments: dict[str, str] = {}
        self._stages: dict[str, Stage] = {}
        self._stage: Stage | None = None

    @property
    def stage(self) -> Stage:
        """The one that is being built; at the end, the image."""
        if self._stage is None:
            raise StepFailedError("there is a step before the first FROM")
        return self._stage

    def run(self, step: Step) -> None:
        print(f"+ {step.word} {step.text}", file=sys.stderr, flush=True)
        text = re.sub(r"\$\{(\w+)\}", lambda found: self._arguments[found[1]], step.text)
        match step.word:
            case "ARG":
                name, _, value = text.partition("=")
                self._arguments[name] = value
            case "FROM":
                self._from(text)
            case "WORKDIR":
                self.stage.workdir = text
                (self.stage.root / text.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(shlex.split(text))
            case "RUN":
                self._run(text)
            case "ENV":
                name, _, value = text.partition("=")
                self.stage.environment[name] = value
            case "USER":
                self.stage.user = text
            case "ENTRYPOINT":
                self.stage.entrypoint = json.loads(text)
            case "EXPOSE":
                pass  # says something to people only
            case word:
                raise StepFailedError(f"{word}: this script does not know the instruction")

    def _from(self, text: str) -> None:
        base, _, name = text.partition(" AS ")
        root = self._folder / (name or "image")
        make_root(base, root, with_pip=bool(name))
        self._stage = self._stages[name] = Stage(base, root)

    def _copy(self, words: list[str]) -> None:
        *sources, target = [word for word in words if not word.startswith("--")]
        stages = [word.removeprefix("--from=") for word in words if word.startswith("--from=")]
        origin = self._stages[stages[0]].root if stages else REPOSITORY
        into = self.stage.root / os.path.join(self.stage.workdir, target).lstrip("/")
        for source in sources:
            path = origin / source.lstrip("/")
            if path.is_dir():
                shutil.copytree(
                    path, into, symlinks=True, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__")
                )
            else:
                shutil.copy2(path, into / path.name if target.endswith("/") else into)

    def _run(self, command: str) -> None:
        """As root in the stage's root, with the host's network."""
        root = self.stage.root
        with mounted(root, *_OF_THE_HOST):
            environment = self.stage.environment | {n: os.environ[n] for n in _SEEN_BY_STEPS if n in os.environ}
            done = subprocess.run(
                [CHROOT, str(root), "/bin/sh", "-c", f"cd {shlex.quote(self.stage.workdir)} && {command}"],
                env=environment,
                stdout=sys.stderr,
            )
        if done.returncode:
            raise StepFailedError(f"RUN {command}: exit status {done.returncode}")


def make_root(base: str, root: Path, *, with_pip: bool) -> None:
    """Debian of the release that is in the base's name, with its Python under the names that the base has."""
    release = base.rpartition("-")[2]
    packages = "python3,python3-venv" if with_pip else "python3"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", release, str(root), *filter(None, [MIRROR])],
        stdout=sys.stderr,
        check=True,
    )
    (root / "usr/local/bin/python3").symlink_to("/usr/bin/python3")
    wanted = re.search(r"python:(\d+\.\d+)", base)
    found = subprocess.run([CHROOT, str(root), "python3", "-V"], capture_output=True, text=True, check=True).stdout
    if wanted is None or f"Python {wanted[1]}." not in found:
        raise StepFailedError(f"{base}: Debian {release} has {found.strip()}")


@contextlib.contextmanager
def mounted(root: Path, *files: str) -> Iterator[None]:
    """/proc, /dev and files of the host in a root, for as long as the block lasts."""
    done: list[Path] = []
    try:
        for file in files:
            place = root / file.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
            _mount("--bind", os.path.realpath(file), place)
            done.append(place)
        for options, name in ((("-t", "proc", "proc"), "proc"), (("--rbind", "/dev"), "dev")):
            _mount(*options, root / name)
            done.append(root / name)
        yield
    finally:
        for place in reversed(done):
            subprocess.run(["umount", "--recursive", "--lazy", str(place)], check=True)


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def size_mb(path: Path) -> float:
    """Of all files, links counted once and not followed."""
    output = subprocess.run(["du", "-sxk", str(path)], capture_output=True, text=True, check=True).stdout
    return round(int(output.split()[0]) / 1000, 1)


def start_inside(stage: Stage) -> dict[str, float]:
    """Run the image's entry point as its user on a read-only root; returns how long it took to be ready, and its memory."""
    view = Path(tempfile.mkdtemp(prefix="prove-container-"))
    user, group = stage.user.split(":")
    _mount("--bind", stage.root, view)
    try:
        with mounted(view):
            _mount("-o", "remount,ro,bind", view)
            _mount("-t", "tmpfs", "tmpfs", view / "tmp")
            inside = [CHROOT, f"--userspec={user}:{group}", "--groups=", str(view)]
            for others in OTHERS:
                subprocess.run([*inside, *others], env=stage.environment, stdout=subprocess.DEVNULL, check=True)
            command = [
                *inside,
                *stage.entrypoint,
                *("--endpoint", "127.0.0.1:1", "--listen", "127.0.0.1", "--log-format", "json"),
                *("--grpc-port", "0", "--grpc-health-port", "0", "--metrics-port", "0", "--drain-timeout", "0s"),
            ]
            try:
                return _ready_times(command, stage.environment, view, uid=int(user))
            finally:
                subprocess.run(["umount", str(view / "tmp")], check=True)
    finally:
        subprocess.run(["umount", "--lazy", str(view)], check=True)
        view.rmdir()


def _ready_times(command: list[str], environment: dict[str, str], view: Path, *, uid: int) -> dict[str, float]:
    began = time.monotonic()
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            port = _metrics_port(process, log, began)
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as response:
                if response.status != 200:
                    raise StepFailedError(f"/readyz: status {response.status}")
            ready_s = time.monotonic() - began
            status = Path(f"/proc/{process.pid}/status").read_text()
            [real_uid] = re.findall(r"^Uid:\s+(\d+)", status, re.MULTILINE)
            if int(real_uid) != uid:
                raise StepFailedError(f"it runs as {real_uid}, not as {uid}")
            if (refused := _can_write(view, uid)) is not None:
                raise StepFailedError(f"{refused} can be written")
            [memory_kb] = re.findall(r"^VmRSS:\s+(\d+)", status, re.MULTILINE)
            return {"ready_s": round(ready_s, 2), "memory_mb": round(int(memory_kb) / 1000, 1)}
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(30)


def _metrics_port(process: subprocess.Popen[bytes], log: object, began: float) -> int:
    while True:
        log.seek(0)  # type: ignore[attr-defined]
        text = log.read().decode()  # type: ignore[attr-defined]
        for line in text.splitlines():
            if '"msg":"serving"' in line:
                return int(json.loads(line)["metrics_port"])
        if process.poll() is not None or time.monotonic() - began > READY_WITHIN_S:
            raise StepFailedError(f"the picker did not serve:\n{text[-3000:]}")
        time.sleep(0.01)


def _can_write(view: Path, uid: int) -> str | None:
    """The first place but /tmp where a file could be made, by root even: the mount has to forbid it."""
    for place in ("", "opt/epp", "usr", "etc", "var", "home"):
        with contextlib.suppress(OSError):
            (view / place / "written").touch()
            return f"/{place}"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, help="folder for the roots; without it a temporary one")
    parser.add_argument("--keep", action="store_true", help="leave the roots behind")
    arguments = parser.parse_args()
    for problem in missing():
        print(f"prove_container: {problem}", file=sys.stderr)
        return 2
    folder = arguments.root or Path(tempfile.mkdtemp(prefix="container-roots-"))
    builder = Builder(folder)
    began = time.monotonic()
    try:
        for step in steps(CONTAINERFILE.read_text()):
            builder.run(step)
        image = builder.stage
        report: dict[str, float] = {
            "base_mb": round(size_mb(image.root) - size_mb(image.root / "opt"), 1),
            "added_mb": size_mb(image.root / "opt"),
            "build_s": round(time.monotonic() - began, 1),
            **start_inside(image),
        }
    except (StepFailedError, subprocess.CalledProcessError) as error:
        print(f"prove_container: {error}", file=sys.stderr)
        return 1
    finally:
        if not arguments.keep:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(report))
    return 0


def missing() -> list[str]:
    """What keeps it from running here."""
    problems = [] if os.geteuid() == 0 else ["needs root, for chroot and mounts"]
    return problems + [
        f"{tool} not found: apt-get install {tool}" for tool in ("debootstrap",) if not shutil.which(tool)
    ]


if __name__ == "__main__":
    sys.exit(main())
