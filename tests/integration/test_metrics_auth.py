"""The pages of the metrics port before a real API server: tokens of service accounts with the right, without it, and none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from epp.api import ConfigError
from epp.app import Service
from epp.app_kubernetes import is_guarded
from epp.cli.explain import explain
from epp.cli.options import RunOptions
from epp.config import load_default
from tests.support.accounts import METRICS_RULES, REVIEW_RULES, Rules, account_kubeconfig, make_account
from tests.support.control_plane import ControlPlane
from tests.support.loopback import loopback_options

PAGES = ("/metrics", "/debug/endpoints", "/debug/config", "/debug/plugins/state", "/debug/requests", "/explain")


@asynccontextmanager
async def guarded(plane: ControlPlane, namespace: str, *, cluster_rules: Rules = REVIEW_RULES) -> AsyncIterator[str]:
    """The URL of a service that asks `plane`, as an account with `cluster_rules`."""
    kubeconfig = account_kubeconfig(plane, "epp", namespace=namespace, cluster_rules=cluster_rules)
    options = loopback_options(
        endpoints=("127.0.0.1:1",), kubeconfig=str(kubeconfig), metrics_endpoint_auth=True, drain_timeout_s=0.0
    )
    service = Service(options, load_default())
    try:
        await service.start()
        yield f"http://127.0.0.1:{service.metrics_port}"
    finally:
        await service.stop()


async def get(url: str, token: str = "") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as response:
        return response.status, await response.text()


async def test_pages_are_for_those_who_may_get_the_metrics(control_plane: ControlPlane, namespace: str) -> None:
    scraper = make_account(control_plane, "scraper", namespace=namespace, cluster_rules=METRICS_RULES)
    guest = make_account(control_plane, "guest", namespace=namespace)
    user = f"system:serviceaccount:{namespace}:guest"

    async with guarded(control_plane, namespace) as url:
        for page in PAGES:
            status, _ = await get(url + page, scraper)
            assert status == 200, page
            assert await get(url + page, guest) == (403, f"Authorization denied for user {user}\n")
            assert await get(url + page) == (401, "Unauthorized\n")
            assert await get(url + page, "random") == (401, "Unauthorized\n")


async def test_probes_need_no_token(control_plane: ControlPlane, namespace: str) -> None:
    async with guarded(control_plane, namespace) as url:
        assert await get(f"{url}/healthz") == (200, "ok\n")
        assert await get(f"{url}/readyz") == (200, "ok\n")


async def test_without_an_api_server_known_tokens_are_let_in_and_others_get_500(
    own_control_plane: ControlPlane,
) -> None:
    plane = own_control_plane
    scraper = make_account(plane, "scraper", namespace="default", cluster_rules=METRICS_RULES)
    other = make_account(plane, "other", namespace="default", cluster_rules=METRICS_RULES)

    async with guarded(plane, "default") as url:
        assert (await get(f"{url}/metrics", scraper))[0] == 200
        plane.kill_api_server()

        assert (await get(f"{url}/metrics", scraper))[0] == 200
        assert await get(f"{url}/metrics", other) == (500, "Authentication failed\n")


@pytest.mark.parametrize(
    ("rules", "answer"),
    [
        (REVIEW_RULES[1:], "Authentication failed\n"),
        (REVIEW_RULES[:1], "Authorization for user {user} failed\n"),
    ],
    ids=["no tokenreviews", "no subjectaccessreviews"],
)
async def test_each_rule_of_the_clusterrole_is_needed(
    control_plane: ControlPlane, namespace: str, rules: Sequence[dict[str, object]], answer: str
) -> None:
    scraper = make_account(control_plane, "scraper", namespace=namespace, cluster_rules=METRICS_RULES)

    async with guarded(control_plane, namespace, cluster_rules=rules) as url:
        status, text = await get(f"{url}/metrics", scraper)

    assert (status, text) == (500, answer.format(user=f"system:serviceaccount:{namespace}:scraper"))


async def test_epp_explain_shows_a_token_and_says_so_where_one_is_missing(
    control_plane: ControlPlane, namespace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    token = tmp_path / "token"
    token.write_text(make_account(control_plane, "reader", namespace=namespace, cluster_rules=METRICS_RULES) + "\n")

    async with guarded(control_plane, namespace) as url:
        without = await asyncio.to_thread(explain, ["--last", "--url", url])
        said_without = capsys.readouterr().err
        statuses = [without, await asyncio.to_thread(explain, ["--last", "--url", url, "--token-file", str(token)])]

    assert statuses == [1, 1]
    assert "--token-file" in said_without
    assert capsys.readouterr().err == "epp explain: no request has been decided yet\n"


async def test_what_cannot_be_guarded_is_not_opened_instead(tmp_path: Path) -> None:
    options = loopback_options(
        endpoints=("127.0.0.1:1",), kubeconfig=str(tmp_path / "none"), metrics_endpoint_auth=True
    )
    service = Service(options, load_default())

    with pytest.raises(ConfigError, match=r"--metrics-endpoint-auth.*there is no such file"):
        await service.start()

    await service.stop()


@pytest.mark.parametrize(
    ("options", "static", "in_cluster", "expected"),
    [
        (RunOptions(endpoints=("a:1",)), False, False, False),  # a laptop
        (RunOptions(endpoints=("a:1",), pool_name="p"), False, False, False),  # the name is but a label there
        (RunOptions(pool_name="p"), True, False, False),  # file-discovery, beside the cluster
        (RunOptions(pool_name="p"), False, False, True),
        (RunOptions(endpoint_selector="a=b"), False, False, True),
        (RunOptions(endpoints=("a:1",)), False, True, True),  # in a Pod, as with the Go EPP
        (RunOptions(endpoints=("a:1",), ha_enable_leader_election=True), False, False, True),
        (RunOptions(endpoints=("a:1",), ha_enable_leader_election=True, replicas_serve="all"), False, False, False),
        (RunOptions(pool_name="p", metrics_endpoint_auth=False), False, True, False),
        (RunOptions(endpoints=("a:1",), metrics_endpoint_auth=True), False, False, True),
    ],
)
def test_unless_the_flag_is_given_pages_are_guarded_where_kubernetes_is(
    options: RunOptions, static: bool, in_cluster: bool, expected: bool
) -> None:
    assert is_guarded(options, static=static, in_cluster=lambda: in_cluster) == expected
