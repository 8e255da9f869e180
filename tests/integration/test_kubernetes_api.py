"""The connection to an API server: objects as they are, errors that say what to do, credentials that change."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

from epp.discovery.kubernetes import resources
from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.credentials import CredentialsError, Source, load
from epp.discovery.kubernetes.errors import (
    ApiError,
    Conflict,
    Forbidden,
    Gone,
    NotFound,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from tests.support.fake_kube import FakeKube, fake_kube

PODS = resources.pods("default")
PATH = PODS.path()


@pytest.fixture
async def kube() -> AsyncIterator[FakeKube]:
    async with fake_kube(PATH) as kube:
        yield kube


@pytest.fixture
async def api(kube: FakeKube, tmp_path: Path) -> AsyncIterator[Api]:
    api = await Api.connect(Source(str(kube.kubeconfig(tmp_path)), environ={}))
    try:
        yield api
    finally:
        await api.close()


def pod(name: str, **labels: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "labels": labels}}


async def test_an_object_is_created_read_and_replaced(api: Api) -> None:
    made = await api.create(PODS, pod("a"))
    assert made["metadata"]["resourceVersion"]

    await api.replace(PODS, "a", pod("a", color="red"))
    assert (await api.get(PODS, "a"))["metadata"]["labels"] == {"color": "red"}
    with pytest.raises(NotFound):
        await api.get(PODS, "b")


async def test_a_list_comes_in_pages(api: Api, kube: FakeKube) -> None:
    for n in range(5):
        kube.put(PATH, pod(f"p{n}"))

    first = await api.page(PODS, limit=3)
    rest = await api.page(PODS, limit=3, continue_=first.metadata.continue_)

    assert [len(first.items or ()), len(rest.items or ())] == [3, 2]
    assert rest.metadata.continue_ == ""
    assert first.metadata.resource_version == str(kube.revision)


async def test_a_list_that_took_too_long_is_gone(api: Api, kube: FakeKube) -> None:
    for n in range(5):
        kube.put(PATH, pod(f"p{n}"))
    first = await api.page(PODS, limit=3)
    kube.compact()

    with pytest.raises(Gone):
        await api.page(PODS, limit=3, continue_=first.metadata.continue_)


async def test_a_watch_tells_what_happens_after_a_version(api: Api, kube: FakeKube) -> None:
    kube.put(PATH, pod("old"))
    since = str(kube.revision)
    kube.put(PATH, pod("new"))
    seen: list[tuple[str, str]] = []

    async with contextlib.aclosing(api.watch(PODS, since, lasts_s=60, silence_s=60)) as batches:
        async for batch in batches:
            for event in batch:
                obj = msgspec.json.decode(event.object)
                seen.append((event.type, obj["metadata"].get("name", "")))
            if len(seen) == 1:
                kube.put(PATH, pod("new", x="y"))
                kube.drop(PATH, "new")
                kube.bookmark(PATH)
            if len(seen) == 4:
                break

    assert seen == [("ADDED", "new"), ("MODIFIED", "new"), ("DELETED", "new"), ("BOOKMARK", "")]


async def test_a_watch_of_a_version_that_is_too_old_is_gone(api: Api, kube: FakeKube) -> None:
    kube.compact()

    with pytest.raises(Gone):
        async with contextlib.aclosing(api.watch(PODS, "1", lasts_s=60, silence_s=60)) as batches:
            await anext(batches)


async def test_a_watch_that_says_nothing_is_given_up(api: Api) -> None:
    with pytest.raises(Unavailable, match="said nothing"):
        async with contextlib.aclosing(api.watch(PODS, "100", lasts_s=60, silence_s=1.0)) as batches:
            await anext(batches)


async def test_a_line_that_is_no_event_ends_the_watch(api: Api, kube: FakeKube) -> None:
    kube.put(PATH, pod("a"))

    async with contextlib.aclosing(api.watch(PODS, "100", lasts_s=60, silence_s=60)) as batches:
        await anext(batches)
        kube.say(PATH, {"kind": "nonsense"})

        with pytest.raises(Unavailable, match="not an event"):
            await anext(batches)


async def test_forbidden_names_the_rule_that_is_missing(api: Api, kube: FakeKube) -> None:
    kube.fail("list", "pods", 403)

    with pytest.raises(Forbidden) as caught:
        await api.page(PODS)

    rule = 'a Role in namespace default: apiGroups [""], resources ["pods"], verbs ["list"]'
    assert str(caught.value) == f"not allowed to list pods in namespace default; what is missing is {rule}"


@pytest.mark.parametrize(("header", "seconds"), [("7", 7.0), ("100000", 120.0), ("soon", 1.0), ("0", 1.0)])
async def test_too_many_requests_says_how_long_to_wait(api: Api, kube: FakeKube, header: str, seconds: float) -> None:
    kube.fail("list", "pods", 429, Retry_After=header)

    with pytest.raises(TooManyRequests) as caught:
        await api.page(PODS)

    assert caught.value.retry_after_s == seconds


@pytest.mark.parametrize(("status", "kind"), [(409, Conflict), (410, Gone), (422, ApiError), (500, Unavailable)])
async def test_other_answers_are_errors_of_their_own(
    api: Api, kube: FakeKube, status: int, kind: type[ApiError]
) -> None:
    kube.fail("list", "pods", status)

    with pytest.raises(ApiError) as caught:
        await api.page(PODS)

    assert type(caught.value) is kind
    assert caught.value.status == status


async def test_a_server_that_is_away_is_unavailable(api: Api, kube: FakeKube) -> None:
    await kube.stop()

    with pytest.raises(Unavailable):
        await api.page(PODS)


async def test_a_token_that_has_expired_is_read_again(api: Api, kube: FakeKube, tmp_path: Path) -> None:
    await api.page(PODS)
    kube.token = "second"
    (tmp_path / "token").write_text("second")

    await api.page(PODS)

    assert kube.requests == ["list pods"] * 3


async def test_a_token_that_nobody_replaced_is_unauthorized(api: Api, kube: FakeKube) -> None:
    kube.token = "second"

    with pytest.raises(Unauthorized):
        await api.page(PODS)

    assert kube.requests == ["list pods"] * 2


def service_account(directory: Path, token: str) -> Source:
    (directory / "token").write_text(token + "\n")
    (directory / "ca.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    environ = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443", "HOME": str(directory)}
    return Source(environ=environ, service_account_dir=directory)


async def test_inside_a_cluster_the_service_account_counts(tmp_path: Path) -> None:
    source = service_account(tmp_path, "mounted")

    configuration = await load(source)

    assert configuration.host == "https://10.0.0.1:443"
    assert (await configuration.auth_settings())["BearerToken"]["value"] == "Bearer mounted"


async def test_a_token_that_the_kubelet_replaces_is_used_at_once(tmp_path: Path) -> None:
    configuration = await load(service_account(tmp_path, "first"))
    (tmp_path / "token").write_text("second\n")

    assert (await configuration.auth_settings())["BearerToken"]["value"] == "Bearer second"

    (tmp_path / "token").unlink()
    assert (await configuration.auth_settings())["BearerToken"]["value"] == "Bearer second"


async def test_a_kubeconfig_goes_before_the_service_account(kube: FakeKube, tmp_path: Path) -> None:
    source = service_account(tmp_path, "mounted")
    named = msgspec.structs.replace(source, kubeconfig=str(kube.kubeconfig(tmp_path)))
    by_environment = msgspec.structs.replace(source, environ={**source.environ, "KUBECONFIG": named.kubeconfig})

    assert (await load(named)).host == (await load(by_environment)).host == f"http://127.0.0.1:{kube.port}"


async def test_the_context_that_is_named_counts_and_not_the_current_one(tmp_path: Path) -> None:
    names = ("one", "two")
    config = {
        "current-context": "one",
        "clusters": [{"name": n, "cluster": {"server": f"http://{n}.example.com"}} for n in names],
        "users": [{"name": n, "user": {"token": f"token of {n}"}} for n in names],
        "contexts": [{"name": n, "context": {"cluster": n, "user": n}} for n in names],
    }
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump(config))

    current, named = [await load(Source(str(path), context, environ={})) for context in ("", "two")]

    assert [c.host for c in (current, named)] == ["http://one.example.com", "http://two.example.com"]
    assert (await named.auth_settings())["BearerToken"]["value"] == "Bearer token of two"


async def test_while_a_helper_program_fails_the_credentials_of_before_count(kube: FakeKube, tmp_path: Path) -> None:
    """To go on as nobody would be told 403, after which no credentials are read again."""
    path, answer = kube.kubeconfig(tmp_path), tmp_path / "credential.json"
    config = yaml.safe_load(path.read_text())
    of_client_go = "client.authentication.k8s.io/v1"
    config["users"][0]["user"] = {"exec": {"apiVersion": of_client_go, "command": "cat", "args": [str(answer)]}}
    path.write_text(yaml.safe_dump(config))
    source = Source(str(path), environ={})
    with pytest.raises(CredentialsError, match="exec names gave no credentials"):
        await load(source)

    def say(token: str) -> None:
        answer.write_text(
            json.dumps({"apiVersion": of_client_go, "kind": "ExecCredential", "status": {"token": token}})
        )

    say(kube.token)
    api = await Api.connect(source)
    try:
        kube.token = "another"
        answer.unlink()
        with pytest.raises(Unauthorized):
            await api.page(PODS)

        say(kube.token)
        await api.page(PODS)
    finally:
        await api.close()


async def test_where_nothing_is_known_the_error_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(CredentialsError, match=r"KUBERNETES_SERVICE_HOST is not set .*--kubeconfig"):
        await load(Source(environ={"HOME": str(tmp_path)}, service_account_dir=tmp_path))


@pytest.mark.parametrize(
    ("text", "context", "complaint"),
    [
        (None, "", "there is no such file"),
        ("a: [", "", "kubeconfig .*while parsing"),
        ("{}", "", "current-context"),
        ("", "", "no kubeconfig"),
        ("[]", "", "no kubeconfig"),
        (
            "{current-context: a, contexts: [{name: a, context: {cluster: c}}], clusters: [{name: c, cluster: {}}]}",
            "b",
            "name b",
        ),
    ],
)
async def test_a_kubeconfig_that_cannot_be_used_is_said(
    tmp_path: Path, text: str | None, context: str, complaint: str
) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)

    with pytest.raises(CredentialsError, match=complaint):
        await load(Source(str(path), context, environ={}))
