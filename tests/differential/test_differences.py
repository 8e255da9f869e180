"""What ours does in another way, on purpose. docs/compatibility.md gives the reasons; here both ways are seen."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Final

import grpc
import msgspec
import pytest
import pytest_asyncio

from epp.extproc.exchange import BodyMode
from epp.extproc.gen import ext_proc_pb2 as pb
from tests.differential.agreement import best
from tests.differential.configurations import IN_FLIGHT, SAMPLES, plugin, profile, simple
from tests.differential.fleet import Load
from tests.differential.pair import Pair, pair
from tests.differential.talk import JSON_ANSWER, Ask, Talk, ask_one, completion, held
from tests.support import extproc
from tests.support.service import process_call

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="module")]
_FULL: Final = BodyMode.FULL_DUPLEX_STREAMED


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def both(go_epp: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Pair]:
    """Queue 2, prefix 3; the first endpoint is the best, the last the worst."""
    config = simple(("queue-scorer", 2), ("prefix-cache-scorer", 3))
    async with pair(tmp_path_factory.mktemp("differences"), go_epp, config, ({},) * 4) as running:
        await running.fleet.show([Load(queued=i) for i in range(4)])
        yield running


async def test_only_whole_blocks_of_a_prompt_count_as_cached(both: Pair) -> None:
    ask = Ask(body=completion("less than a block, and not seen before"))
    await both.ask(ask)
    outcomes = await both.ask(ask)

    top = both.fleet.host_ports[0]
    assert outcomes.go.scores[top] - outcomes.ours.scores[top] == pytest.approx(3.0)


async def test_long_prompts_that_part_are_compared_in_larger_steps(both: Pair) -> None:
    words = [f"{i:07} " for i in range(7500)]  # 234 blocks of 32 words, and half of one
    await both.ask(Ask(body=completion("".join(words))))
    same = 159 * 32 + 16  # ends in a step of four blocks, from 156 on
    outcomes = await both.ask(Ask(body=completion("".join(words[:same] + words[:-same]))))

    top = both.fleet.host_ports[0]
    assert outcomes.ours.scores[top] == pytest.approx(2 + 3 * 156 / 234)
    assert outcomes.go.scores[top] == pytest.approx(2 + 3 * 159 / 235)


async def test_lists_of_token_ids_are_read(both: Pair) -> None:
    body = json.dumps({"model": "m", "prompt": [[1, 2], [3]]}).encode()
    outcomes = await both.ask(Ask(body=body))

    assert outcomes.go.verdict[0] == 400
    assert outcomes.ours.verdict == ("routed",)


async def test_compressed_request_is_read(both: Pair) -> None:
    body = gzip.compress(completion("hi"))
    outcomes = await both.ask(Ask(body=body, headers={"content-encoding": "gzip"}))

    assert outcomes.go.verdict[0] == 400
    assert outcomes.ours.verdict == ("routed",)
    assert outcomes.ours.body == body


async def test_request_without_body_is_scheduled(both: Pair) -> None:
    asked = [await both.ask(Ask(method="GET", path="/v1/models", body=None)) for _ in range(30)]

    assert len({o.go.destination for o in asked}) > 1
    assert {o.ours.destination for o in asked} == {both.fleet.host_ports[0]}


async def test_rewritten_body_keeps_all_other_bytes(both: Pair) -> None:
    body = b'{"z": 1.0, "model" : "m", "prompt": "<a>", "n": 12345678901234567890}'
    outcomes = await both.ask(Ask(body=body, headers={"x-llm-d-model-name-rewrite": "other"}))

    assert outcomes.ours.body == body.replace(b'"m"', b'"other"')
    assert outcomes.go.body != outcomes.ours.body
    assert outcomes.go.body.startswith(b'{"model":"other"')


async def test_only_changed_headers_are_sent_back(both: Pair) -> None:
    ask = Ask(body=completion("hi"), headers={"x-mine": "1"})
    go, ours = [await _headers_set(channel, both.named(ask)) for channel in (both.go, both.ours)]

    assert {":path", "x-mine"} <= go
    assert ours == {"x-gateway-destination-endpoint", "content-length"}


async def test_pieces_of_a_response_are_passed_on_at_once(both: Pair) -> None:
    outcomes = await both.ask(Ask(body=completion("hi"), answer=[JSON_ANSWER[:20], JSON_ANSWER[20:]]))

    assert outcomes.go.kinds.count("response_body") == 1
    assert outcomes.ours.kinds.count("response_body") == 2


async def test_body_that_trailers_end_is_routed(both: Pair) -> None:
    head = extproc.request_headers(Ask().fields, request_mode=_FULL, response_mode=_FULL)
    body = extproc.request_body(completion("hi"))

    go, ours = await _first_answers(both, head, body, extproc.request_trailers())
    assert go is None
    assert ours == "request_headers"


async def test_buffered_bodies_are_served(both: Pair) -> None:
    head = extproc.request_headers(Ask().fields, request_mode=BodyMode.BUFFERED, response_mode=BodyMode.NONE)

    go, ours = await _first_answers(both, head)
    assert go is None
    assert ours == "request_headers"


async def test_request_id_may_be_used_twice(go_epp: Path, tmp_path: Path) -> None:
    """Clients choose ids. The Go EPP counts requests in flight by them: the end of one ends all of its id."""
    config = simple(("active-request-scorer", 1), extra=(IN_FLIGHT,))
    async with pair(tmp_path, go_epp, config, ({}, {}, {})) as both, AsyncExitStack() as stack:
        first, second, third = ([s.host_port] for s in both.fleet.servers)
        busy = both.named(Ask(body=completion("held"), subset=first))
        for ask in (busy, both.named(Ask(body=completion("held"), subset=third))):
            for channel in (both.go, both.ours):
                await stack.enter_async_context(held(channel, ask))
        for channel in (both.go, both.ours):
            await ask_one(channel, msgspec.structs.replace(busy, subset=second))
        outcomes = await both.ask(Ask(body=completion("asked")))

    assert [outcomes.go.scores[x[0]] for x in (first, second, third)] == [1.0, 1.0, 0.0]
    assert [outcomes.ours.scores[x[0]] for x in (first, second, third)] == [0.0, 1.0, 0.0]


async def test_untyped_samples_are_read(both: Pair) -> None:
    try:
        await both.fleet.show([Load(queued=3 - i, typed=False) for i in range(4)])
        outcomes = await both.ask(Ask(body=completion("whom now?")))
    finally:
        await both.fleet.show([Load(queued=i) for i in range(4)])

    assert len(set(outcomes.go.scores.values())) == 1
    assert outcomes.ours.destination == both.fleet.host_ports[3]
    assert len(set(outcomes.ours.scores.values())) == 4


async def test_equal_totals_go_to_the_endpoint_with_fewer_requests_in_flight(go_epp: Path, tmp_path: Path) -> None:
    config = simple(("queue-scorer", 1), extra=(IN_FLIGHT,))
    async with pair(tmp_path, go_epp, config, ({}, {})) as both:
        busy = both.named(Ask(body=completion("held"), subset=[both.fleet.servers[0].host_port]))
        async with held(both.go, busy), held(both.ours, busy):
            asked = [await both.ask(Ask(body=completion(f"{n}"))) for n in range(40)]

    assert all(len(best(o.ours.scores)) == 2 for o in asked)
    assert {o.ours.destination for o in asked} == {both.fleet.host_ports[1]}
    assert {o.go.destination for o in asked} == set(both.fleet.host_ports)


async def test_unknown_profile_is_a_bad_request(go_epp: Path, tmp_path: Path) -> None:
    config = {
        "plugins": [plugin("header-profile-handler"), plugin("queue-scorer")],
        "schedulingProfiles": [profile("queue-scorer", name="decode"), profile("queue-scorer", name="prefill")],
    }
    async with pair(tmp_path, go_epp, config, ({}, {})) as both:
        outcomes = await both.ask(Ask(body=completion("hi"), headers={"epp-profile": "nobody"}))

    assert (outcomes.go.verdict[0], outcomes.ours.verdict[0]) == (429, 400)


async def test_refusal_by_filters_says_so(go_epp: Path, tmp_path: Path) -> None:
    config = simple("label-selector-filter", extra=(plugin("label-selector-filter", matchLabels={"a": "b"}),))
    async with pair(tmp_path, go_epp, config, ({}, {})) as both:
        outcomes = await both.ask(Ask(body=completion("hi")))

    prefix = "inference error: ResourceExhausted - "
    assert outcomes.go.immediate is not None
    assert outcomes.ours.immediate is not None
    assert outcomes.go.immediate[:2] == (429, f"{prefix}no endpoints available for the given request")
    assert outcomes.ours.immediate[:2] == (
        429,
        f"{prefix}failed to find target endpoint: no endpoint can serve this request",
    )
    assert outcomes.go.immediate[2] == outcomes.ours.immediate[2]


async def test_scores_are_told_with_every_profile_handler(go_epp: Path, tmp_path: Path) -> None:
    async with pair(tmp_path, go_epp, SAMPLES["S14"], ({}, {})) as both:
        outcomes = await both.ask(Ask(body=completion("hi")))

    assert not outcomes.go.scores
    assert outcomes.ours.scores.keys() == set(both.fleet.host_ports)


async def _headers_set(channel: grpc.aio.Channel, ask: Ask) -> set[str]:
    """Names of the request headers that the EPP's reply sets."""
    talk = Talk(channel, ask)
    await talk.request()
    await talk.respond()
    await talk.close()
    return {name.lower() for name in talk.replies.headers_set("request_headers")}


async def _first_answers(both: Pair, *messages: pb.ProcessingRequest) -> tuple[str | None, str | None]:
    """The kind of each EPP's first reply; None for the Go EPP when it has none as long after ours as ours took, and more."""
    calls = [process_call(channel) for channel in (both.go, both.ours)]
    for call in calls:
        for message in messages:
            await call.write(message.SerializeToString())
    reads = [asyncio.ensure_future(call.read()) for call in calls]
    await asyncio.wait_for(asyncio.shield(reads[1]), 60)
    # Another request is answered in the meantime: the Go EPP had its time.
    await both.ask(Ask(body=completion("in the meantime")))
    kinds = [pb.ProcessingResponse.FromString(r.result()).WhichOneof("response") if r.done() else None for r in reads]
    for call in calls:
        call.cancel()
    await asyncio.gather(*reads, return_exceptions=True)
    return kinds[0], kinds[1]
