"""Responses: what the client gets is the same, whichever pieces it comes in."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import msgspec
import pytest
import pytest_asyncio

from tests.differential.agreement import differences
from tests.differential.configurations import plugin, simple
from tests.differential.fleet import Load
from tests.differential.pair import Both, Pair, pair
from tests.differential.talk import JSON_ANSWER, Ask, Outcome, completion

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]

_USAGE: Final = b'{"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}'
_EVENTS: Final = [
    b'data: {"object": "text_completion", "model": "n", "choices": [{"text": "a"}]}\n\n',
    b'data: {"object": "text_completion", "model": "n", "choices": [{"text": "b"}]}\n\n',
    b'data: {"object": "text_completion", "model": "n", "choices": [], "usage": %s}\n\n' % _USAGE,
    b"data: [DONE]\n\n",
]
_SSE: Final = {"content-type": "text/event-stream"}
_BODY: Final = completion("hi")
_STREAMED: Final = completion("hi", stream=True)
_TO_N: Final = {"x-llm-d-model-name-rewrite": "n"}
_NAMES_N: Final = JSON_ANSWER.replace(b'"model": "m"', b'"model": "n"')
_BIG: Final = json.dumps({"object": "text_completion", "model": "m", "choices": [{"text": "x" * 150_000}]}).encode()

RESPONSES: Final[dict[str, Ask]] = {
    "JSON": Ask(body=_BODY),
    "JSON without spaces": Ask(body=_BODY, answer=[JSON_ANSWER.replace(b": ", b":")]),
    "JSON in two pieces": Ask(body=_BODY, answer=[JSON_ANSWER[:40], JSON_ANSWER[40:]]),
    "JSON and an empty end": Ask(body=_BODY, answer=[JSON_ANSWER, b""]),
    "150 KB of JSON": Ask(body=_BODY, answer=[_BIG[:60_000], _BIG[60_000:120_000], _BIG[120_000:]]),
    "not JSON": Ask(body=_BODY, answer=[b"<html>"], answer_headers={"content-type": "text/html"}),
    "empty": Ask(body=_BODY, answer=[b""]),
    "no body": Ask(body=_BODY, answer=[]),
    "error of the server": Ask(body=_BODY, status=500, answer=[b'{"error": {"message": "out of memory"}}']),
    "model unknown to the server": Ask(body=_BODY, status=404, answer=[b'{"error": {"code": 404}}']),
    "events": Ask(body=_STREAMED, answer=_EVENTS, answer_headers=_SSE),
    "events in one piece": Ask(body=_STREAMED, answer=[b"".join(_EVENTS)], answer_headers=_SSE),
    "events cut in halves": Ask(
        body=_STREAMED, answer=[_EVENTS[0][:30], _EVENTS[0][30:], *_EVENTS[1:]], answer_headers=_SSE
    ),
    "events nobody asked for": Ask(body=_BODY, answer=_EVENTS, answer_headers=_SSE),
    "JSON where events were asked for": Ask(body=_STREAMED),
    "model named as the client did": Ask(body=_BODY, headers=_TO_N, answer=[_NAMES_N]),
    "model named as the client did, in events": Ask(body=_STREAMED, headers=_TO_N, answer=_EVENTS, answer_headers=_SSE),
    "strange usage": Ask(body=_BODY, answer=[b'{"object": "list", "usage": {"prompt_tokens": null}}']),
    "system's headers": Ask(
        body=_BODY, answer_headers={"x-gateway-destination-endpoint-served": "1.2.3.4:5", "content-length": "147"}
    ),
}
REWRITTEN: Final = {"model named as the client did", "model named as the client did, in events"}
PASSED_ON_AT_ONCE: Final = {"JSON in two pieces", "JSON and an empty end", "150 KB of JSON"}
"""The Go EPP keeps such a response until its end; ours sends on each piece when it comes."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(go_epp: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    attribute = {"key": {"namespace": "billing", "name": "tokens"}, "expression": "usage.completion_tokens"}
    config = simple(
        ("queue-scorer", 1),
        extra=(
            plugin("destination-endpoint-served-verifier"),
            plugin("request-attribute-reporter", attributes=[attribute]),
        ),
    )
    async with pair(tmp_path_factory.mktemp("responses"), go_epp, config, ({}, {}, {})) as running:
        await running.fleet.show([Load(queued=i) for i in range(3)])
        yield running


@pytest.mark.parametrize("name", RESPONSES)
async def test_client_gets_the_same(name: str, both: Pair) -> None:
    outcomes = await both.ask(RESPONSES[name])

    if name in PASSED_ON_AT_ONCE:
        outcomes = _joined(outcomes)
    assert not differences(outcomes, body_rewritten=name in REWRITTEN)


def _joined(outcomes: Both) -> Both:
    return Both(_in_one_piece(outcomes.go), _in_one_piece(outcomes.ours))


def _in_one_piece(outcome: Outcome) -> Outcome:
    kinds = list(dict.fromkeys(outcome.kinds))
    return msgspec.structs.replace(outcome, kinds=kinds, answer_ends=[any(outcome.answer_ends)])
