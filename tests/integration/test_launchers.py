"""The demo's launchers against the real programs: Envoy, llama.cpp with a generated model, and plain child processes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from epp.demo.envoy import EnvoyConfigError, EnvoyMissingError, find_envoy, start_envoy, validate
from epp.demo.llamacpp import LlamaServer, start_llamacpp
from epp.demo.model import ensure_model
from epp.demo.processes import Child, ChildError, Children, wait_for_http, wait_for_tcp, wait_until
from epp.demo.vocabulary import WORDS
from epp.envoy import BodyMode, BootstrapOptions, RoundRobinOptions, Upstream, bootstrap, round_robin_bootstrap
from tests.support.ports import free_port

EPP = "127.0.0.1:9002"
ENDPOINTS = ("127.0.0.1:8001", "[::1]:8002")
DEADLINE_S = 60.0
MODEL_NAME = "demo/model"

try:
    find_envoy()
    NO_ENVOY = ""
except EnvoyMissingError as missing:
    NO_ENVOY = str(missing)
needs_envoy = pytest.mark.skipif(bool(NO_ENVOY), reason=NO_ENVOY)

OVERRIDE: dict[str, Any] = {"upstream": Upstream.OVERRIDE_HOST, "endpoints": ENDPOINTS}
VARIANTS: dict[str, dict[str, object]] = {
    **{
        f"{request.name}-{response.name}": bootstrap(
            BootstrapOptions(epp=EPP, request_body=request, response_body=response)
        )
        for request, response in zip([*BodyMode, *[BodyMode.FULL_DUPLEX_STREAMED] * 5], [*BodyMode] * 2, strict=True)
    },
    "override-host": bootstrap(BootstrapOptions(epp=EPP, retries=2, **OVERRIDE)),
    "tls": bootstrap(BootstrapOptions(epp=EPP, epp_tls=True)),
    "fail-open": bootstrap(BootstrapOptions(epp=EPP, failure_mode_allow=True, message_timeout_s=0.2)),
    "mode-override": bootstrap(BootstrapOptions(epp=EPP, allow_mode_override=True, request_body=BodyMode.NONE)),
    "subset-hint": bootstrap(BootstrapOptions(epp=EPP, subset_hint_header="x-subset")),
    "http2-upstream": bootstrap(BootstrapOptions(epp=EPP, upstream_http2=True, fresh_upstream_connections=True)),
    "round-robin": round_robin_bootstrap(RoundRobinOptions(endpoints=ENDPOINTS, fresh_upstream_connections=True)),
}

ENDLESS = [sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"]
STUBBORN = [
    *(sys.executable, "-c"),
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(600)",
]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ensure_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
async def children(tmp_path: Path) -> AsyncIterator[Children]:
    async with Children(tmp_path / "log") as children:
        yield children


@pytest.fixture
async def server(children: Children, model: Path) -> LlamaServer:
    (server,) = await start_llamacpp(children, model, count=1, alias=MODEL_NAME)
    return server


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    # llama.cpp closes a connection after a streamed answer without saying so; see the launcher's options.
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True)) as session:
        yield session


async def complete(http: aiohttp.ClientSession, url: str, **request: Any) -> dict[str, Any]:
    """A completion or a chat, whichever ``request`` is."""
    path = "/v1/chat/completions" if "messages" in request else "/v1/completions"
    async with http.post(url + path, json={"model": MODEL_NAME, "max_tokens": 4, **request}) as response:
        answer: dict[str, Any] = await response.json()
        assert response.status == 200, answer
        return answer


def cached_tokens(answer: dict[str, Any]) -> int:
    return int(answer["usage"]["prompt_tokens_details"]["cached_tokens"])


async def wait_says_up(child: Child) -> None:
    async def probe() -> bool | None:
        return True if b"up" in child.stdout_path.read_bytes() else None

    await wait_until(child, probe, what="said that it is up", deadline_s=DEADLINE_S)


async def wait_gone(pid: int) -> None:
    """Return when process ``pid``, which need not be a child of this one, has ended."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(watch, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), DEADLINE_S)
    finally:
        loop.remove_reader(watch)
        os.close(watch)


# Processes


async def test_a_child_that_ends_too_early_is_reported_with_the_end_of_its_log(children: Children) -> None:
    child = await children.start([sys.executable, "-c", "raise SystemExit('out of luck')"], name="unlucky")

    with pytest.raises(ChildError, match=r"unlucky ended with status 1 before it listened.*(?s:.)*out of luck"):
        await wait_for_tcp(child, "127.0.0.1", free_port(), deadline_s=DEADLINE_S)


async def test_a_child_that_is_never_ready_is_reported_when_the_deadline_has_passed(children: Children) -> None:
    child = await children.start(ENDLESS, name="idle")

    with pytest.raises(ChildError, match=r"idle took longer than 0.1 s before it answered 200"):
        await wait_for_http(child, f"http://127.0.0.1:{free_port()}/", deadline_s=0.1)


async def test_a_program_that_does_not_exist_says_so_in_its_log(children: Children) -> None:
    child = await children.start(["/nonexistent/program"], name="missing")
    await child.process.wait()

    assert "cannot run /nonexistent/program: No such file or directory" in child.log_tail()


async def test_a_child_that_ignores_sigterm_is_killed_after_the_grace(children: Children) -> None:
    child = await children.start(STUBBORN, name="stubborn")
    await wait_says_up(child)

    await child.stop(grace_s=0.1)

    assert child.returncode == -signal.SIGKILL


async def test_leaving_the_block_by_an_exception_stops_every_child(tmp_path: Path) -> None:
    started: list[Child] = []

    async def fail_after_starting() -> None:
        async with Children(tmp_path) as children:
            started.extend([await children.start(ENDLESS, name=name) for name in ("one", "two")])
            raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await fail_after_starting()

    assert [child.returncode is None for child in started] == [False, False]


async def test_two_children_may_not_share_a_name(children: Children) -> None:
    await children.start(ENDLESS, name="twin")

    with pytest.raises(ValueError, match="'twin' was already started"):
        await children.start(ENDLESS, name="twin")


# llama.cpp


def test_the_model_file_is_the_same_every_time(model: Path, tmp_path: Path) -> None:
    again = ensure_model(tmp_path)

    assert again.read_bytes() == model.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [model.name]


async def test_a_server_answers_at_once_and_in_pieces(server: LlamaServer, http: aiohttp.ClientSession) -> None:
    whole = await complete(http, server.url, prompt="tell me a story", seed=1)
    request = {"model": MODEL_NAME, "prompt": "tell me a story", "max_tokens": 4, "seed": 1, "stream": True}
    async with http.post(f"{server.url}/v1/completions", json=request) as response:
        events = [line.removeprefix(b"data: ") async for line in response.content if line.startswith(b"data: ")]

    assert events[-1].strip() == b"[DONE]"
    pieces = [choice["text"] for event in events[:-1] for choice in json.loads(event)["choices"]]
    assert "".join(pieces) == whole["choices"][0]["text"]
    assert len([piece for piece in pieces if piece]) == 4


async def test_a_repeated_prefix_comes_from_the_cache(server: LlamaServer, http: aiohttp.ClientSession) -> None:
    prefix = " ".join(WORDS[:300])
    first = await complete(http, server.url, prompt=f"{prefix} what is the answer")
    second = await complete(http, server.url, prompt=f"{prefix} where is the river")

    assert cached_tokens(first) == 0
    assert cached_tokens(second) >= 300


async def test_the_next_turn_of_a_chat_finds_the_turns_before_in_the_cache(
    server: LlamaServer, http: aiohttp.ClientSession
) -> None:
    turns = [{"role": "system", "content": " ".join(WORDS[:200])}, {"role": "user", "content": "what is the answer"}]
    first = await complete(http, server.url, messages=turns)
    turns += [first["choices"][0]["message"], {"role": "user", "content": "please explain"}]
    second = await complete(http, server.url, messages=turns)

    assert cached_tokens(second) >= first["usage"]["prompt_tokens"]


async def test_english_costs_one_token_every_three_to_five_bytes(
    server: LlamaServer, http: aiohttp.ClientSession
) -> None:
    text = (
        "You are a careful assistant of a customer service. Please answer every question in a short and helpful way. "
        "Explain how you reached the result, follow the policy of the company, and never promise a delivery date. "
        "When the weather is bad, the train may be late; in that case tell the customer where to find information."
    )
    answer = await complete(http, server.url, prompt=text)

    assert 3 <= len(text) / answer["usage"]["prompt_tokens"] <= 5


async def test_a_prompt_of_a_megabyte_is_refused_and_the_server_lives_on(
    server: LlamaServer, http: aiohttp.ClientSession
) -> None:
    request = {"model": MODEL_NAME, "prompt": "word " * 200_000, "max_tokens": 1}
    async with http.post(f"{server.url}/v1/completions", json=request) as response:
        status, error = response.status, await response.json()

    assert (status, error["error"]["type"]) == (400, "exceed_context_size_error")
    assert (await complete(http, server.url, prompt="still there"))["usage"]["completion_tokens"] == 4


async def test_metrics_carry_no_labels(server: LlamaServer, http: aiohttp.ClientSession) -> None:
    async with http.get(f"{server.url}/metrics") as response:
        lines = (await response.text()).splitlines()

    samples = dict(line.split() for line in lines if not line.startswith("#"))
    assert float(samples["llamacpp:requests_processing"]) == 0
    assert float(samples["llamacpp:requests_deferred"]) == 0


async def test_a_server_listens_on_the_port_it_is_told(children: Children, model: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "epp.demo.llamacpp", "--model", str(model), "--port", str(port)]
    child = await children.start(command, name="chosen")
    await wait_for_http(child, f"http://127.0.0.1:{port}/health", deadline_s=DEADLINE_S)

    assert json.loads(child.stdout_path.read_bytes()) == {"listening": f"127.0.0.1:{port}"}


async def test_a_model_that_cannot_be_loaded_is_reported_by_name(children: Children, tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"not a model")

    with pytest.raises(ChildError, match=r"before it said where it listens(?s:.)*cannot serve .*broken\.gguf"):
        await start_llamacpp(children, broken, count=1, alias=MODEL_NAME)


async def test_sigterm_ends_a_server_with_status_zero(server: LlamaServer) -> None:
    await server.child.stop(grace_s=DEADLINE_S)

    assert server.child.returncode == 0


async def test_the_death_of_the_parent_ends_its_servers(children: Children, model: Path, tmp_path: Path) -> None:
    """A parent killed by SIGKILL runs no clean-up at all, so only the kernel can end what it started."""
    program = f"""
import asyncio
from pathlib import Path
from epp.demo.llamacpp import start_llamacpp
from epp.demo.processes import Children

async def main():
    async with Children(Path({str(tmp_path / "inner")!r})) as children:
        servers = await start_llamacpp(children, Path({str(model)!r}), count=2, alias="m")
        print("up", *(server.child.pid for server in servers), flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""
    parent = await children.start([sys.executable, "-c", program], name="parent")
    await wait_says_up(parent)
    _, *pids = parent.stdout_path.read_text().split()

    os.kill(parent.pid, signal.SIGKILL)

    assert len(pids) == 2
    for pid in pids:
        await wait_gone(int(pid))


# Envoy


@needs_envoy
@pytest.mark.parametrize("variant", VARIANTS)
async def test_envoy_accepts_every_kind_of_bootstrap(variant: str, tmp_path: Path) -> None:
    await validate(VARIANTS[variant], tmp_path)


@needs_envoy
async def test_a_bootstrap_that_envoy_refuses_is_reported_in_its_words(tmp_path: Path) -> None:
    # Protobuf varies the number of spaces in its messages from run to run, on purpose.
    with pytest.raises(EnvoyConfigError, match=r"no +such +field: +'listeners'"):
        await validate({"listeners": []}, tmp_path)


@needs_envoy
async def test_round_robin_spreads_requests_over_real_servers(
    children: Children, model: Path, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    servers = await start_llamacpp(children, model, count=2, alias=MODEL_NAME)
    options = RoundRobinOptions(endpoints=tuple(server.address for server in servers), fresh_upstream_connections=True)
    envoy = await start_envoy(children, round_robin_bootstrap(options), tmp_path / "envoy")

    # The same prompt four times: the third and fourth find their server's cache warm, the first two do not.
    answers = [await complete(http, envoy.url, prompt="one two three four five") for _ in range(4)]

    assert [cached_tokens(answer) > 0 for answer in answers] == [False, False, True, True]
    assert await envoy.stats("^cluster.model_servers.upstream_rq_completed$") == {
        "cluster.model_servers.upstream_rq_completed": 4
    }


@needs_envoy
async def test_without_an_epp_a_request_fails_closed_or_open_as_told(
    children: Children, server: LlamaServer, tmp_path: Path, http: aiohttp.ClientSession
) -> None:
    statuses = []
    for allow in (False, True):
        options = BootstrapOptions(
            epp=f"127.0.0.1:{free_port()}",
            upstream=Upstream.OVERRIDE_HOST,
            endpoints=(server.address,),
            failure_mode_allow=allow,
        )
        envoy = await start_envoy(children, bootstrap(options), tmp_path / "envoy", name=f"envoy-{allow}")
        async with http.get(f"{envoy.url}/v1/models") as response:
            statuses.append(response.status)

    assert statuses == [500, 200]


@needs_envoy
async def test_stopping_envoy_closes_its_ports(children: Children, tmp_path: Path) -> None:
    envoy = await start_envoy(children, round_robin_bootstrap(RoundRobinOptions(endpoints=ENDPOINTS)), tmp_path)
    await envoy.stop()

    for address in (envoy.address, envoy.admin_address):
        host, _, port = address.rpartition(":")
        with pytest.raises(OSError):
            await asyncio.open_connection(host, int(port))


def test_an_envoy_chosen_by_hand_must_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENVOY", "/nonexistent/envoy")

    with pytest.raises(EnvoyMissingError, match="ENVOY=/nonexistent/envoy: not an executable file"):
        find_envoy()
