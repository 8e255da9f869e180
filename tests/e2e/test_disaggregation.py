"""Prefill and decode on servers of their own, through a real Envoy: who gets the request, and what it says of the other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from epp.sim import SimServer
from tests.support.files import replace
from tests.support.stack import Stack, eventually, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

PREFILLER = "x-prefiller-host-port"
CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {{type: file-discovery, parameters: {{path: {path}, watchFile: true}}}}
- {{type: prefill-filter}}
- {{type: decode-filter}}
- {{type: prefix-cache-scorer}}
- {{type: queue-scorer}}
- {{type: prefix-based-pd-decider, parameters: {{nonCachedTokens: 100}}}}
- {{type: disagg-profile-handler, parameters: {{deciders: {{prefill: prefix-based-pd-decider}}{more}}}}}
schedulingProfiles:
- {{name: prefill, plugins: [{{pluginRef: prefill-filter}}, {{pluginRef: prefix-cache-scorer}}]}}
- {{name: decode, plugins: [{{pluginRef: decode-filter}}, {{pluginRef: queue-scorer}}]}}
dataLayer: {{discovery: {{pluginRef: file-discovery}}}}
"""


def endpoints_file(folder: Path, roles: Mapping[SimServer, str]) -> Path:
    path = folder / "endpoints.yaml"
    entries = [
        {"name": s.name, "address": "127.0.0.1", "port": s.port, "labels": {"llm-d.ai/role": role}}
        for s, role in roles.items()
    ]
    replace(path, json.dumps({"endpoints": entries}))
    return path


def written(folder: Path, roles: Mapping[SimServer, str], *, more: str = "") -> str:
    config = folder / "epp.yaml"
    config.write_text(CONFIG.format(path=endpoints_file(folder, roles), more=more))
    return f"--config-file={config}"


async def ask(stack: Stack, prompt: str, **headers: str) -> int:
    status, _, _ = await stack.post(
        "/v1/completions", {"model": "sim-model", "prompt": prompt, "max_tokens": 2}, **headers
    )
    return status


def long_prompt(i: int) -> str:
    return f"{i} " * 400


async def test_the_decode_server_gets_the_request_and_is_told_who_prefills(
    tmp_path: Path, sims: list[SimServer]
) -> None:
    prefiller, *decoders = sims
    flag = written(tmp_path, {prefiller: "prefill", decoders[0]: "decode", decoders[1]: "decode"})
    async with start_stack(tmp_path, flag, endpoints=[]) as stack:
        statuses = [await ask(stack, long_prompt(i)) for i in range(6)]
        received = [request for server in decoders for request in server.requests]

        assert statuses == [200] * 6
        assert len(received) == 6
        assert {request.header(PREFILLER) for request in received} == {prefiller.address}
        assert not prefiller.requests
        assert await stack.epp.metric("llm_d_epp_disagg_decision_total", decision_type="prefill-decode") == 6
        await stack.epp.idle()


async def test_a_short_prompt_is_not_prefilled_elsewhere_whatever_the_client_says(
    tmp_path: Path, sims: list[SimServer]
) -> None:
    flag = written(tmp_path, {sims[0]: "prefill", sims[1]: "decode"})
    async with start_stack(tmp_path, flag, endpoints=[]) as stack:
        await ask(stack, "short")
        await ask(stack, "short", x_prefiller_host_port="10.9.9.9:1")

        assert [request.header(PREFILLER) or "" for request in sims[1].requests] == ["", ""]


async def test_a_prompt_that_the_decode_server_has_cached_is_not_prefilled_again(
    tmp_path: Path, sims: list[SimServer]
) -> None:
    flag = written(tmp_path, {sims[0]: "prefill", sims[1]: "decode"})
    async with start_stack(tmp_path, flag, endpoints=[]) as stack:
        for _ in range(2):
            assert await ask(stack, long_prompt(0)) == 200
            await stack.epp.idle()

        assert [request.header(PREFILLER) for request in sims[1].requests] == [sims[0].address, None]


async def test_without_a_prefill_server_decode_servers_do_it_all_until_one_is_back(
    tmp_path: Path, sims: list[SimServer]
) -> None:
    prefiller, decoder, _ = sims
    flag = written(tmp_path, {decoder: "decode"})
    async with start_stack(tmp_path, flag, endpoints=[]) as stack:
        alone = await ask(stack, long_prompt(1))
        lacking = await stack.epp.metric("llm_d_epp_disagg_stage_unavailable_total", stage="prefill")
        endpoints_file(tmp_path, {decoder: "decode", prefiller: "prefill"})
        await eventually(stack.epp.endpoints, lambda es: len(es) == 2)
        helped = await ask(stack, long_prompt(2))

        assert (alone, helped, lacking) == (200, 200, 1)
        assert [request.header(PREFILLER) for request in decoder.requests] == [None, prefiller.address]
        assert "stage prefill finds no endpoint" in stack.epp.child.stderr_path.read_text()


async def test_a_missing_prefill_server_can_be_made_an_error(tmp_path: Path, sims: list[SimServer]) -> None:
    flag = written(tmp_path, {sims[1]: "decode"}, more=", onStageUnavailable: refuse")
    async with start_stack(tmp_path, flag, endpoints=[]) as stack:
        status, headers, _ = await stack.post(
            "/v1/completions", {"model": "sim-model", "prompt": long_prompt(3), "max_tokens": 2}
        )

        assert (status, headers["x-llm-d-request-dropped-reason"]) == (503, "rejected-no-endpoints")
        assert await ask(stack, "short") == 200
        await stack.epp.idle()


async def test_without_a_decode_server_the_request_is_refused(tmp_path: Path, sims: list[SimServer]) -> None:
    flag = written(tmp_path, {sims[0]: "prefill"})
    async with start_stack(tmp_path, flag, endpoints=[]) as stack:
        status, headers, _ = await stack.post("/v1/completions", {"model": "sim-model", "prompt": "x"})

        assert (status, headers["x-llm-d-request-dropped-reason"]) == (429, "rejected-saturated")
        assert not sims[0].requests
