"""Every body mode that Envoy offers, with a real Envoy: requests are answered, bodies arrive, counts return to zero."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from epp.envoy.options import BodyMode, Upstream
from epp.sim import SimServer
from tests.support.stack import start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

FULL, NONE, BUFFERED, STREAMED = (
    BodyMode.FULL_DUPLEX_STREAMED,
    BodyMode.NONE,
    BodyMode.BUFFERED,
    BodyMode.STREAMED,
)
PAIRS = [
    (FULL, FULL),
    (FULL, NONE),
    (FULL, STREAMED),
    (FULL, BUFFERED),
    (BUFFERED, BUFFERED),
    (BUFFERED, STREAMED),
    (STREAMED, STREAMED),
    (NONE, NONE),
]


@pytest.mark.parametrize(("request_body", "response_body"), PAIRS)
async def test_requests_are_answered_in_every_mode(
    tmp_path: Path, sims: list[SimServer], request_body: BodyMode, response_body: BodyMode
) -> None:
    endpoints = [s.address for s in sims]
    async with start_stack(
        tmp_path, endpoints=endpoints, request_body=request_body, response_body=response_body
    ) as stack:
        small = {"model": "sim-model", "prompt": "hello", "max_tokens": 5}
        large = small | {"prompt": "long " * 40_000}
        plain = await stack.post("/v1/completions", small)
        streamed = await stack.post("/v1/completions", small | {"stream": True})
        big_sent = json.dumps(large).encode()
        big = await stack.post("/v1/completions", big_sent, x_request_id="big")
        async with stack.session.get(f"{stack.url}/v1/models") as response:
            got = response.status
        many = await asyncio.gather(*(stack.post("/v1/completions", small) for _ in range(30)))

        assert (plain[0], streamed[0], big[0], got) == (200, 200, 200, 200)
        assert json.loads(plain[2])["usage"]["completion_tokens"] == 5
        assert streamed[2].endswith(b"data: [DONE]\n\n")
        assert {status for status, _, _ in many} == {200}
        received = [r for s in sims for r in s.requests if r.header("x-request-id") == "big"]
        assert [r.size_bytes for r in received] == [len(big_sent)]
        await stack.epp.idle()
        assert await stack.epp.metric("inference_objective_running_requests") == 0
        assert await stack.epp.metric("llm_epp_unexpected_messages_total") == 0


@pytest.mark.parametrize("response_body", [FULL, BUFFERED, STREAMED])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_rewritten_model_is_restored_where_bodies_are_seen(
    tmp_path: Path, sims: list[SimServer], response_body: BodyMode, stream: bool
) -> None:
    async with start_stack(tmp_path, endpoints=[sims[0].address], response_body=response_body) as stack:
        body = {"model": "a-name-of-another-length", "prompt": "hello", "max_tokens": 3, "stream": stream}

        status, _, text = await stack.post("/v1/completions", body, x_gateway_model_name_rewrite="sim-model")

        assert status == 200, text
        documents = [line[6:] for line in text.splitlines() if line.startswith(b"data: {")] if stream else [text]
        assert {json.loads(document)["model"] for document in documents} == {"a-name-of-another-length"}
        (received,) = sims[0].requests
        assert received.body is not None
        assert json.loads(received.body)["model"] == "sim-model"


async def test_a_buffered_request_body_may_be_rewritten(tmp_path: Path, sims: list[SimServer]) -> None:
    async with start_stack(tmp_path, endpoints=[sims[0].address], request_body=BUFFERED, response_body=NONE) as stack:
        body = {"model": "long-name-of-a-model", "prompt": "hello", "max_tokens": 3}

        status, _, _ = await stack.post("/v1/completions", body, x_gateway_model_name_rewrite="sim-model")

        assert status == 200
        (received,) = sims[0].requests
        assert received.body is not None
        assert json.loads(received.body) == body | {"model": "sim-model"}


async def test_override_host_obeys_the_pick_and_reports_who_served(tmp_path: Path, sims: list[SimServer]) -> None:
    endpoints = tuple(s.address for s in sims)
    config = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- {type: header-based-testing-filter}
- {type: destination-endpoint-served-verifier}
schedulingProfiles: [{name: default, plugins: [{pluginRef: header-based-testing-filter}]}]
"""
    path = tmp_path / "conformance.yaml"
    path.write_text(config)
    async with start_stack(
        tmp_path,
        f"--config-file={path}",
        endpoints=endpoints,
        upstream=Upstream.OVERRIDE_HOST,
    ) as stack:
        # `endpoints` of the Envoy are those of the EPP.
        for server in sims:
            body = {"model": "sim-model", "prompt": "hi", "max_tokens": 1}
            status, headers, _ = await stack.post("/v1/completions", body, test_epp_endpoint_selection=server.address)

            assert status == 200
            assert headers["x-conformance-test-served-endpoint"] == server.address
            assert len(server.requests) == 1
