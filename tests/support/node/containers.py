"""One container of a Pod: started, probed, restarted and stopped, and what its status says of it."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from epp.demo.processes import leashed
from tests.support.node import probes
from tests.support.node.podspec import NotYetError

Object = dict[str, Any]

_PROGRAM: Final = Path(__file__).with_name("container.py")
_LONGEST_PAUSE_S: Final = 10.0


def now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Container:
    """`prepare` gives what container.py is to be told, or raises NotYetError; `changed` is called after each change.

    `keep` says whether the program is to be started again after it ended with a status.
    """

    def __init__(
        self,
        spec: Object,
        *,
        address: str,
        folder: Path,
        patience: float,
        prepare: Callable[[Object], Awaitable[Object]],
        keep: Callable[[int], bool],
        changed: Callable[[], None],
    ) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.ready = self.begun = False
        self.has_started = asyncio.Event()
        self.finished = asyncio.Event()
        self._stopping = asyncio.Event()
        self.exit_status: int | None = None
        self._address = address
        self._folder = folder
        self._patience = patience
        self._prepare = prepare
        self._keep = keep
        self._changed = changed
        self._state: Object = {"waiting": {"reason": "ContainerCreating"}}
        self._last_state: Object = {}
        self._restarts = 0
        self._pid: int | None = None
        self._ports = {p["name"]: p["containerPort"] for p in spec.get("ports", ()) if "name" in p}

    def status(self) -> Object:
        return {
            "name": self.name,
            "image": self.spec["image"],
            "imageID": self.spec["image"],
            "containerID": f"process://{self._pid}" if self._pid else "",
            "state": self._state,
            "lastState": self._last_state,
            "ready": self.ready,
            "started": self.has_started.is_set(),
            "restartCount": self._restarts,
        }

    @property
    def running(self) -> bool:
        return "running" in self._state

    async def supervise(self) -> None:
        """Until it has ended and is not to be started again."""
        self.begun = True
        pause_s = 0.5
        while not self._stopping.is_set():
            try:
                told = await self._prepare(self.spec)
            except NotYetError as error:
                self._become({"waiting": {"reason": "CreateContainerConfigError", "message": str(error)}})
                await self._pause(0.2)
                continue
            status = await self._run(told)
            if self._stopping.is_set() or not self._keep(status):
                break
            self._last_state = self._state
            self._restarts += 1
            self._become({"waiting": {"reason": "CrashLoopBackOff", "message": f"again in {pause_s:g} s"}})
            await self._pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self.finished.set()
        self._changed()

    async def stop(self, grace_s: float) -> None:
        """SIGTERM after its preStop hook, and SIGKILL when that took longer than `grace_s`, as a kubelet does."""
        self._stopping.set()
        if not self.begun:
            return
        try:
            async with asyncio.timeout(grace_s):
                await self._unless_finished(self._before_stop())
                self.kill(signal.SIGTERM)
                await self.finished.wait()
        except TimeoutError:
            self.kill(signal.SIGKILL)
            await self.finished.wait()

    def kill(self, number: signal.Signals) -> None:
        if self._pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, number)

    async def _run(self, told: Object) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        root = self._folder / f"root-{self._restarts}"
        root.mkdir(exist_ok=True)
        spec_path = self._folder / "spec.json"
        spec_path.write_text(json.dumps(told | {"folder": str(root), "log": str(self._folder / "log")}))
        process = await asyncio.create_subprocess_exec(
            *leashed([sys.executable, "-I", "-S", str(_PROGRAM), str(spec_path)]),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        assert process.stdout is not None
        said = await process.stdout.readline()
        self._pid = int(said) if said else None
        began = now()
        if "startupProbe" not in self.spec:
            self._say_started()
        self._become({"running": {"startedAt": began}})
        if self._stopping.is_set():  # it was told to stop while it started
            self.kill(signal.SIGKILL)
        watching = asyncio.create_task(self._watch_health())
        status = await process.wait()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        self._pid = None
        self.exit_status = status
        self.ready = False
        self.has_started.clear()
        reason = "Completed" if status == 0 else "Error"
        self._become({"terminated": {"exitCode": status, "reason": reason, "startedAt": began, "finishedAt": now()}})
        return status

    async def _pause(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), pause_s)

    def _become(self, state: Object) -> None:
        if state != self._state:
            self._state = state
            self._changed()

    # --- probes --------------------------------------------------------------------------------------------------------

    async def _watch_health(self) -> None:
        if "startupProbe" in self.spec:
            await self._until_started(self.spec["startupProbe"])
        async with asyncio.TaskGroup() as group:
            if "livenessProbe" in self.spec:
                group.create_task(self._watch_liveness(self.spec["livenessProbe"]))
            if "readinessProbe" in self.spec:
                group.create_task(self._watch_readiness(self.spec["readinessProbe"]))

    async def _until_started(self, probe: Object) -> None:
        async for passed in self._verdicts(probe):
            if passed:
                self._say_started()
                self._changed()
                return
            await self._restart(probe)

    def _say_started(self) -> None:
        self.has_started.set()
        self.ready = "readinessProbe" not in self.spec

    async def _watch_liveness(self, probe: Object) -> None:
        async for passed in self._verdicts(probe):
            if not passed:
                await self._restart(probe)

    async def _watch_readiness(self, probe: Object) -> None:
        async for passed in self._verdicts(probe):
            if passed != self.ready:
                self.ready = passed
                self._changed()

    async def _verdicts(self, probe: Object) -> Any:
        """True or False each time as many probes in a row have passed or failed as the thresholds say."""
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        passed_in_a_row = failed_in_a_row = 0
        while True:
            problem = await probes.ask(
                probe,
                self._address,
                self._ports,
                self._execute,
                timeout_s=probe.get("timeoutSeconds", 1) * self._patience,
            )
            passed_in_a_row, failed_in_a_row = (passed_in_a_row + 1, 0) if problem is None else (0, failed_in_a_row + 1)
            if problem is not None:
                print(f"{self.name}: probe {probe} failed: {problem}", file=sys.stderr, flush=True)
            if passed_in_a_row >= probe.get("successThreshold", 1):
                yield True
            elif failed_in_a_row >= probe.get("failureThreshold", 3):
                yield False
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def _restart(self, probe: Object) -> None:
        """Stop the program, so that it is started again; the probes end with it."""
        print(f"{self.name}: killed for {probe}", file=sys.stderr, flush=True)
        self.kill(signal.SIGTERM)
        await asyncio.sleep(probe.get("terminationGracePeriodSeconds", 30))
        self.kill(signal.SIGKILL)

    # --- in the container ----------------------------------------------------------------------------------------------

    async def _unless_finished(self, work: Coroutine[Any, Any, None]) -> None:
        tasks = [asyncio.create_task(work), asyncio.create_task(self.finished.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _before_stop(self) -> None:
        hook = self.spec.get("lifecycle", {}).get("preStop")
        if hook is None or not self.running:
            return
        if "sleep" in hook:
            await asyncio.sleep(hook["sleep"]["seconds"])
        elif "exec" in hook:
            await self._execute(hook["exec"]["command"])
        else:
            await probes.ask(hook, self._address, self._ports, self._execute, timeout_s=60)

    async def _execute(self, command: list[str]) -> int:
        where = ["nsenter", f"--target={self._pid}", "--mount", "--net", "--pid", f"--root=/proc/{self._pid}/root"]
        process = await asyncio.create_subprocess_exec(*where, *command, stdin=asyncio.subprocess.DEVNULL)
        return await process.wait()
