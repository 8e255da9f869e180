"""Runs one program as a container runtime does: `python container.py SPEC.json`. Only the standard library, no imports of ours.

The program is process 1 of its own PID namespace, in the Pod's network namespace, on a copy-on-write view of this machine's
root with the volumes mounted over it, as its own user without more rights than asked for. Its output goes to the log; its
process id outside goes to standard output; the exit status is its own. Linux, root. There are no images and no limits.
"""

import contextlib
import ctypes
import json
import os
import signal
import sys
from typing import Any, NoReturn

Spec = dict[str, Any]

CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWNET = 0x00020000, 0x20000000, 0x40000000
CLONE_NEWUTS, CLONE_NEWIPC = 0x04000000, 0x08000000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 32, 4096, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 1, 24, 38
LAST_CAPABILITY = 40
CANNOT_RUN = 127

libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str | None, target: str, kind: str | None = None, flags: int = 0, options: str | None = None) -> None:
    encoded = [None if text is None else text.encode() for text in (source, target, kind, options)]
    checked(libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), f"mount {target}")


def inside(root: str, path: str) -> str:
    """`path` below `root`, with symbolic links followed as if `root` were /."""
    done = "/"
    ahead = [part for part in path.split("/") if part]
    while ahead:
        part = ahead.pop(0)
        step = os.path.normpath(os.path.join(done, part))
        if os.path.islink(root + step):
            target = os.readlink(root + step)
            ahead = [p for p in target.split("/") if p] + ahead
            done = "/" if target.startswith("/") else done
        else:
            done = step
    return root + done


def bind(source: str, target: str, read_only: bool = False) -> None:
    """A file on a file, or a folder on a folder, which is made where it is not there."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        with open(target, "a"):
            pass
    mount(source, target, flags=MS_BIND | MS_REC)
    if read_only:
        mount(None, target, flags=MS_BIND | MS_REMOUNT | MS_RDONLY)


def make_root(spec: Spec) -> str:
    """Everything that the program will see, as a folder. Nothing that is written there reaches this machine's files."""
    mount(None, "/", flags=MS_REC | MS_PRIVATE)
    base = spec["folder"]
    mount("container", base, "tmpfs")
    upper, work, root = (os.path.join(base, name) for name in ("upper", "work", "root"))
    for folder in (upper, work, root):
        os.mkdir(folder)
    os.chmod(upper, 0o755)
    mount("container", root, "overlay", options=f"lowerdir=/,upperdir={upper},workdir={work}")
    for path in spec["visible"]:  # parts of this machine that are file systems of their own, or closed to others
        if not os.path.exists(root + path):
            bind(path, root + path, read_only=True)
        while path != "/":
            path = os.path.dirname(path)
            os.chmod(root + path, 0o755)
    for path, target in spec["links"].items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(root + path)
        os.symlink(target, root + path)
    empty = os.path.join(base, "tmp")
    os.mkdir(empty)
    os.chmod(empty, 0o1777)
    bind(empty, root + "/tmp", read_only=spec["read_only_root"])
    for volume in sorted(spec["mounts"], key=lambda volume: volume["target"].count("/")):
        if volume["target"].startswith("/tmp/"):
            os.makedirs(empty + volume["target"].removeprefix("/tmp"), exist_ok=True)
        bind(volume["source"], inside(root, volume["target"]), volume["read_only"])
    mount("proc", root + "/proc", "proc")
    bind("/dev", root + "/dev")
    mount("shm", root + "/dev/shm", "tmpfs", options="mode=1777")
    bind("/sys", root + "/sys", read_only=True)
    if spec["read_only_root"]:
        mount(None, root, flags=MS_REMOUNT | MS_RDONLY)
    return root


def become(spec: Spec) -> None:
    """Take on the user and give up the rights. A change of user forgets the signal of the parent's death, which comes last."""
    if spec["no_new_privileges"]:
        checked(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    for capability in range(LAST_CAPABILITY + 1):
        if capability not in spec["capabilities"]:
            libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0)
    os.setgroups(spec["groups"])
    os.setgid(spec["gid"])
    os.setuid(spec["uid"])
    checked(libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0), "death signal")


def run(spec: Spec) -> NoReturn:
    """In the child."""
    log = os.open(spec["log"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        root = make_root(spec)
        os.chroot(root)
        os.chdir(spec["cwd"])
        become(spec)
        for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(ignored, signal.SIG_DFL)
        os.execvpe(spec["argv"][0], spec["argv"], spec["env"])
    except OSError as error:
        os.write(2, f"cannot run {spec['argv']}: {error}\n".encode())
    os._exit(CANNOT_RUN)


def main() -> NoReturn:
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    network = os.open(f"/proc/{spec['network_of']}/ns/net", os.O_RDONLY)
    checked(libc.setns(network, CLONE_NEWNET), "network namespace")
    checked(libc.unshare(CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC), "namespaces")
    os.environ["PATH"] = spec["env"].get("PATH", os.defpath)  # where execvpe looks
    running, told = os.pipe()  # the other end closes when the program takes over, or when there is none
    child = os.fork()
    if child == 0:
        os.close(running)
        name = spec["hostname"].encode()
        libc.sethostname(name, len(name))
        run(spec)
    os.close(told)
    os.read(running, 1)
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    os._exit(os.WEXITSTATUS(status) if os.WIFEXITED(status) else 128 + os.WTERMSIG(status))


main()
