"""Real `epp run` replicas, a real API server, and an account that may do nothing but get, create and update leases."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from epp.demo.processes import Children
from tests.support import tools
from tests.support.accounts import LEASE_RULES, account_kubeconfig
from tests.support.control_plane import OFFICIAL_CRDS, ControlPlane
from tests.support.health import check
from tests.support.kube_api import ApiError
from tests.support.logs import log_records
from tests.support.ports import free_port
from tests.support.stack import Epp, eventually, start_epp

DEADLINE_S = 200.0  # a lease runs out in 15 s; a loaded machine adds to everything


class Replicas:
    """Replicas of one service. While it is open it watches that no two are ready at the same time."""

    def __init__(self, children: Children, plane: ControlPlane, namespace: str, kubeconfig: Path) -> None:
        self.children = children
        self._plane = plane
        self._namespace = namespace
        self._kubeconfig = kubeconfig
        self.alive: dict[str, Epp] = {}
        self.both: list[tuple[str, str]] = []

    async def start(self, name: str, *flags: str, endpoints: Sequence[str] = ("127.0.0.1:1",)) -> Epp:
        replica = await start_epp(
            self.children,
            "--ha-enable-leader-election",
            "--metrics-endpoint-auth=false",
            f"--kubeconfig={self._kubeconfig}",
            "--pool-name=llama",
            f"--pool-namespace={self._namespace}",
            *flags,
            endpoints=endpoints,
            name=name,
            env={"POD_NAME": name},
        )
        self.alive[name] = replica
        return replica

    async def ready(self) -> list[str]:
        """Who says so, one after the other."""
        return [name for name, replica in list(self.alive.items()) if await is_ready(replica)]

    async def leader(self, *, but: str = "") -> str:
        """The one that is ready, as soon as there is one."""
        found: list[str] = await eventually(
            self.ready, lambda ready: bool(ready) and but not in ready, deadline_s=DEADLINE_S
        )
        return found[0]

    async def nobody_leads(self) -> None:
        await eventually(self.ready, lambda ready: not ready, deadline_s=DEADLINE_S)

    async def holder(self) -> str:
        try:
            return str(self.lease().get("holderIdentity", ""))
        except ApiError:
            return ""

    def lease(self) -> dict[str, Any]:
        name = f"epp-{self._namespace}-llama.llm-d.ai"
        found: dict[str, Any] = self._plane.api.get("coordination.k8s.io/v1", "Lease", name, namespace=self._namespace)
        return found["spec"]

    async def watch(self) -> None:
        """One is ready, another is, and the first still is: there were two."""
        while True:
            alive = dict(self.alive)
            for one, other in permutations(alive, 2):
                if await is_ready(alive[one]) and await is_ready(alive[other]) and await is_ready(alive[one]):
                    self.both.append((one, other))
            await asyncio.sleep(0.02)


async def is_ready(replica: Epp) -> bool:
    try:
        status, _ = await replica.page("/readyz")
    except (aiohttp.ClientError, OSError):
        return False
    return status == 200


@asynccontextmanager
async def replicas(plane: ControlPlane, namespace: str, tmp_path: Path) -> AsyncIterator[Replicas]:
    kubeconfig = account_kubeconfig(plane, "epp", namespace=namespace, rules=LEASE_RULES)
    async with Children(tmp_path) as children:
        several = Replicas(children, plane, namespace, kubeconfig)
        watching = asyncio.create_task(several.watch())
        try:
            yield several
        finally:
            has_watched = watching.cancel()
        assert has_watched, watching.exception()
        assert several.both == []


async def test_sigterm_hands_over_while_the_old_leader_drains(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with replicas(control_plane, namespace, tmp_path) as several:
        first = await several.start("first", "--drain-timeout=250s")
        await several.leader()
        second = await several.start("second")

        first.terminate()

        assert await several.leader(but="first") == "second"
        status, text = await first.page("/readyz")
        assert (status, "shutdown: draining" in text) == (503, True)
        assert several.lease()["holderIdentity"].startswith("second_")
        assert await second.metric("leader_election_master_status") == 1


async def test_a_leader_that_is_killed_is_followed_by_another(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with replicas(control_plane, namespace, tmp_path) as several:
        for name in ("first", "second"):
            await several.start(name)
        old = await several.leader()
        before = several.lease()["leaseTransitions"]

        several.alive.pop(old).child.process.send_signal(signal.SIGKILL)

        [other] = several.alive
        assert await several.leader() == other
        assert several.lease()["leaseTransitions"] == before + 1


async def test_a_leader_that_cannot_renew_steps_down_and_leads_again_when_it_can(
    own_control_plane: ControlPlane, tmp_path: Path
) -> None:
    plane = own_control_plane
    async with replicas(plane, "default", tmp_path) as several:
        for name in ("first", "second"):
            await several.start(name)
        leader = several.alive[await several.leader()]

        plane.pause_api_server()
        await several.nobody_leads()
        await eventually(
            partial(leader.page, "/readyz"), lambda page: "cannot be read or renewed" in page[1], deadline_s=DEADLINE_S
        )
        plane.resume_api_server()

        await several.leader()


async def test_a_follower_is_warm_alive_and_says_who_leads(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    async with replicas(control_plane, namespace, tmp_path) as several:
        await several.start("first")
        await several.leader()
        follower = await several.start("second")

        async def told() -> str:
            return (await follower.page("/readyz"))[1]

        text = await eventually(told, lambda text: "held by first_" in text, deadline_s=DEADLINE_S)
        assert "another replica is the leader" in text
        assert len(await follower.endpoints()) == 1
        assert await check(follower.health, "liveness") == "SERVING"
        assert await check(follower.health, "readiness") == "NOT_SERVING"
        assert await check(follower.health, "something") == "SERVICE_UNKNOWN"


async def test_a_follower_that_shall_be_cold_begins_to_follow_endpoints_when_it_leads(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    control_plane.install_crds(*OFFICIAL_CRDS)
    control_plane.api.apply(POOL, namespace=namespace)
    control_plane.api.create_pod("server", namespace=namespace, ip="127.0.0.1", labels={"app": "llama"})
    config = tmp_path / "cold.yaml"
    config.write_text(
        "apiVersion: llm-d.ai/v1alpha1\nkind: EndpointPickerConfig\nfeatureGates: [haPopulateNonLeaderDatastore=false]\n"
    )
    objects = tmp_path / "objects"
    objects.mkdir()
    cold = (f"--config-file={config}", f"--kubeconfig={control_plane.kubeconfig}", f"--objects={objects}")
    async with replicas(control_plane, namespace, tmp_path) as several:
        first = await several.start("first", *cold, endpoints=())
        await several.leader()
        second = await several.start("second", *cold, endpoints=())

        async def told() -> str:
            return (await second.page("/readyz"))[1]

        text = await eventually(told, lambda text: "held by first_" in text, deadline_s=DEADLINE_S)
        assert "endpoints: not loaded yet" in text
        first.terminate()

        assert await several.leader(but="first") == "second"
        assert [e["address"] for e in await second.endpoints()] == ["127.0.0.1:8000"]


async def test_with_replicas_serve_all_everybody_is_ready_and_no_lease_is_taken(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = account_kubeconfig(control_plane, "epp", namespace=namespace)
    async with Children(tmp_path) as children:
        several = Replicas(children, control_plane, namespace, kubeconfig)

        for name in ("first", "second"):
            await several.start(name, "--replicas-serve=all")

        await eventually(several.ready, lambda ready: ready == ["first", "second"])
        assert control_plane.api.list("coordination.k8s.io/v1", "Lease", namespace=namespace) == []


async def test_without_the_right_to_leases_the_log_says_which_rule_is_missing(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    kubeconfig = account_kubeconfig(control_plane, "epp", namespace=namespace)
    async with Children(tmp_path) as children:
        several = Replicas(children, control_plane, namespace, kubeconfig)
        replica = await several.start("first")

        async def complaints() -> list[str]:
            messages = [record["msg"] for record in log_records(replica.child.stderr_path)]
            return [m for m in messages if "cannot be read or renewed" in m]

        found = await eventually(complaints, bool, deadline_s=DEADLINE_S)
        assert 'resources ["leases"], verbs ["get"]' in found[0]
        assert not await is_ready(replica)


POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: llama}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: 8000}]
  endpointPickerRef: {name: epp, port: {number: 9002}}
"""


async def test_the_go_epp_and_this_one_are_replicas_of_one_service_while_one_replaces_the_other(
    control_plane: ControlPlane, namespace: str, tmp_path: Path
) -> None:
    try:
        go_epp = tools.find(tools.GO_EPP)
    except tools.ToolMissingError as missing:
        pytest.skip(str(missing))
    control_plane.install_crds(*OFFICIAL_CRDS)
    control_plane.api.apply(POOL, namespace=namespace)
    async with replicas(control_plane, namespace, tmp_path) as several:
        ports = [free_port() for _ in range(3)]
        flags = [
            f"--{name}={port}"
            for name, port in zip(("grpc-port", "grpc-health-port", "metrics-port"), ports, strict=True)
        ]
        theirs = await several.children.start(
            [
                *(str(go_epp), "--pool-name=llama", f"--pool-namespace={namespace}", "--secure-serving=false"),
                *("--ha-enable-leader-election", "--tracing=false", "--drain-timeout=1s", *flags),
            ],
            name="go-epp",
            env={"KUBECONFIG": str(control_plane.kubeconfig)},
        )
        await eventually(several.holder, bool, deadline_s=DEADLINE_S)
        theirs_id = await several.holder()
        ours = await several.start("ours")

        async def told() -> str:
            return (await ours.page("/readyz"))[1]

        await eventually(told, lambda text: f"held by {theirs_id}" in text, deadline_s=DEADLINE_S)
        theirs.process.send_signal(signal.SIGTERM)

        assert await several.leader() == "ours"
