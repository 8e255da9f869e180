"""Requests that are wrong, or odd: the same is refused with the same status, and the rest goes on in the same form."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from tests.differential.agreement import differences
from tests.differential.bad_requests import BAD_REQUESTS, GRPC_REQUESTS, ODD_REQUESTS
from tests.differential.configurations import plugin, simple
from tests.differential.fleet import Load
from tests.differential.pair import Pair, pair

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

OTHER_WORDS: Final = {
    "not JSON",
    "JSON list",
    "JSON string",
    "JSON null",
    "text behind the object",
    "single quotes",
    "neither model nor prompt",
    "messages that are not JSON",
    "generate with text as token_ids",
    "conditional decode without a cache",
    "not protobuf",
}
"""Same status and code. What is wrong with JSON is said by another library; of two faults the other may be named."""

PICKED_BY_RULE: Final = {"GET without a body", "POST without a body", "OPTIONS without a body"}
"""The Go EPP sends requests without a body anywhere."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(go_epp: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    config = simple(("queue-scorer", 2), ("kv-cache-utilization-scorer", 2))
    async with pair(tmp_path_factory.mktemp("requests"), go_epp, config, ({}, {}, {})) as running:
        await running.fleet.show([Load(queued=i, kv=i / 5) for i in range(3)])
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def grpc_both(go_epp: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    config = simple(("queue-scorer", 1), extra=(plugin("vllmgrpc-parser"),))
    parsers = {"requestHandler": {"parsers": [{"pluginRef": "vllmgrpc-parser"}]}}
    async with pair(tmp_path_factory.mktemp("grpc"), go_epp, config | parsers, ({}, {})) as running:
        await running.fleet.show([Load(queued=i) for i in range(2)])
        yield running


@pytest.mark.parametrize("name", BAD_REQUESTS)
async def test_bad_request_is_refused_alike(name: str, both: Pair) -> None:
    outcomes = await both.ask(BAD_REQUESTS[name])

    go, ours = outcomes.go.immediate, outcomes.ours.immediate
    assert go is not None
    assert ours is not None
    assert go[0] == ours[0] == 400
    assert _code(go[1]) == _code(ours[1])
    assert go[2] == ours[2]
    assert name in OTHER_WORDS or go[1] == ours[1]


@pytest.mark.parametrize("name", ODD_REQUESTS)
async def test_odd_request_goes_the_same_way(name: str, both: Pair) -> None:
    outcomes = await both.ask(ODD_REQUESTS[name])

    anywhere = name in PICKED_BY_RULE
    without = ("scores",) if anywhere else ("immediate",) if name in OTHER_WORDS else ()
    found = differences(outcomes, picks_at_random=anywhere, body_rewritten="rewritten" in name, without=without)
    assert not found
    if outcomes.go.immediate and outcomes.ours.immediate:
        assert outcomes.go.immediate[0] == outcomes.ours.immediate[0]


@pytest.mark.parametrize("name", [name for name in GRPC_REQUESTS if name != "unknown method"])
async def test_grpc_request_goes_the_same_way(name: str, grpc_both: Pair) -> None:
    outcomes = await grpc_both.ask(GRPC_REQUESTS[name])

    unread = name in ("empty body", "half a frame", "frame that is too short", "compressed")
    assert not differences(outcomes, without=("immediate",) if name in OTHER_WORDS or unread else ())
    if outcomes.go.immediate and outcomes.ours.immediate:
        assert outcomes.go.immediate[0] == outcomes.ours.immediate[0]
        assert _code(outcomes.go.immediate[1]) == _code(outcomes.ours.immediate[1])


async def test_other_methods_of_the_engine_are_passed_on_by_ours_alone(grpc_both: Pair) -> None:
    outcomes = await grpc_both.ask(GRPC_REQUESTS["unknown method"])

    assert outcomes.go.immediate is not None
    assert outcomes.go.immediate[0] == 400
    assert outcomes.ours.destination


def _code(text: str) -> str:
    """`inference error: <Code>`."""
    return text.partition(" - ")[0]
