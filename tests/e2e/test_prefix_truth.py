"""What the approximate prefix index predicts, beside what real llama.cpp servers say they had cached."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio

from epp.demo.llamacpp import LlamaServer, start_llamacpp
from epp.demo.processes import Children
from epp.extproc.exchange import BodyMode
from tests.e2e.conftest import LLAMA_MODEL, start_llama_at
from tests.support.ports import free_port
from tests.support.stack import Stack, eventually, start_epp, start_stack

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

TO_LLAMA: Final[dict[str, Any]] = {"fresh_upstream_connections": True}  # it closes kept ones unannounced
PRODUCER = "approx-prefix-cache-producer"
TEXT = "a pump has valve and the mark manual says that it turns when water goes back to where is was"


def prompts(count: int, *, words: int = 240, seed: int = 0) -> list[str]:
    """Texts of about a kilobyte that have nothing in common."""
    chance = random.Random(seed)
    return [" ".join(chance.choices(TEXT.split(), k=words)) for _ in range(count)]


@pytest_asyncio.fixture(loop_scope="session")
async def servers(tmp_path: Path, llama_model: Path) -> AsyncIterator[list[LlamaServer]]:
    """Two servers of one test's own: nothing of what others asked is cached there."""
    async with Children(tmp_path / "engines") as children:
        yield await start_llamacpp(children, llama_model, count=2, alias=LLAMA_MODEL)


def endpoints(servers: list[LlamaServer]) -> list[str]:
    return [f"s{i}={server.address}" for i, server in enumerate(servers)]


async def results(stack: Stack) -> dict[str, float]:
    """Answers by verdict."""
    return {
        verdict: await stack.epp.metric("llm_epp_prefix_predictions_total", producer=PRODUCER, result=verdict)
        for verdict in ("right", "over", "under", "trivial")
    }


async def state(stack: Stack) -> dict[str, dict[str, Any]]:
    """What the producer shows of each endpoint."""
    _, text = await stack.epp.page("/debug/plugins/state")
    found: dict[str, dict[str, Any]] = json.loads(text)["plugins"][PRODUCER]["state"]["endpoints"]
    return found


async def ask(stack: Stack, prompt: str, name: str) -> dict[str, Any]:
    """The decision, once the answer is complete."""
    await stack.complete(prompt, model=LLAMA_MODEL, x_request_id=name)

    async def told() -> dict[str, Any]:
        _, text = await stack.epp.page(f"/explain/{name}")
        found: dict[str, Any] = json.loads(text)
        return found

    found: dict[str, Any] = await eventually(told, lambda decision: decision.get("outcome") is not None)
    return found


async def test_predictions_are_right_where_engines_keep_what_they_read(
    tmp_path: Path, servers: list[LlamaServer]
) -> None:
    async with start_stack(tmp_path, endpoints=endpoints(servers), **TO_LLAMA) as stack:
        topics = prompts(4)
        decisions = [
            await ask(stack, f"{topic} {' '.join(prompts(1, words=20, seed=100 * turn + i))}", f"{turn}-{i}")
            for turn in range(8)
            for i, topic in enumerate(topics)
        ]

        counts = await results(stack)
        judged = counts["right"] + counts["over"] + counts["under"]
        outcomes = [decision["outcome"] for decision in decisions]
        apart = [abs(o["predicted_cached_tokens"] - o["cached_tokens"]) for o in outcomes]
        print(f"{counts}; tokens apart, of about {outcomes[0]['prompt_tokens']}: {sorted(apart)}")
        assert judged >= 24
        assert counts["right"] >= 0.95 * judged
        assert decisions[-1]["prefixes"][0]["confidence"] == {
            name: pytest.approx(1, abs=0.1) for name in {d["chosen"][0]["name"] for d in decisions[4:]}
        }


async def test_a_restarted_engine_is_found_out_and_learned_again(tmp_path: Path, llama_model: Path) -> None:
    port = free_port()
    async with Children(tmp_path / "engines") as children:
        first = await start_llama_at(children, llama_model, port, name="first")
        async with start_stack(tmp_path, endpoints=endpoints([first]), **TO_LLAMA) as stack:
            topics = prompts(4)
            for turn in range(2):
                for i, topic in enumerate(topics):
                    await ask(stack, topic, f"before-{turn}-{i}")
            before = await results(stack)
            await first.child.stop(1.0)
            await start_llama_at(children, llama_model, port, name="again")

            for i, topic in enumerate(topics[:3]):
                await ask(stack, topic, f"after-{i}")

            wrong = await results(stack)
            (told,) = stack.epp.log("cached tokens are not as predicted")
            # Its metrics begin anew: where they have been read by now, that is found out before the third wrong prediction.
            assert before["over"] == 0
            assert wrong["over"] <= 3
            assert (told["endpoint"], told["action"]) == ("s0", "purge")
            assert told["cause"] == "it has restarted or its cache was reset"
            assert told["blocks_dropped"] > 12
            decision = await ask(stack, topics[3], "forgotten")
            assert decision["outcome"]["predicted_cached_tokens"] == decision["outcome"]["cached_tokens"] == 0
            await ask(stack, topics[3], "learned")
            assert (await results(stack))["right"] == before["right"] + 1


async def test_an_engine_that_keeps_little_is_believed_to_keep_less(tmp_path: Path, servers: list[LlamaServer]) -> None:
    """llama.cpp keeps one prompt a slot, and tells nobody how much that is."""
    async with start_stack(tmp_path, endpoints=endpoints(servers)[:1], **TO_LLAMA) as stack:
        topics = prompts(40)
        for i, topic in enumerate(topics):
            await ask(stack, topic, f"first-{i}")
        held = (await state(stack))["s0"]["blocks"]

        for i, topic in enumerate(topics):
            # Two in a row: the second finds what the first has brought.
            await ask(stack, topic, f"again-{i}")
            await ask(stack, topic, f"at-once-{i}")

        now = (await state(stack))["s0"]
        shrunk = await stack.epp.metric("llm_epp_prefix_index_corrections_total", producer=PRODUCER, action="shrink")
        (told,) = stack.epp.log("cached tokens are not as predicted")
        print(now)
        assert shrunk >= 1
        assert told["cause"] == "its cache is smaller than it says, or others use it, too"
        assert now["blocks"] <= held - told["blocks_dropped"] < held
        assert now["confidence"] > 0.9


async def test_a_restarted_picker_knows_where_prompts_are_cached(tmp_path: Path, servers: list[LlamaServer]) -> None:
    flags = (f"--state-dir={tmp_path / 'state'}", f"--grpc-port={free_port()}")
    async with start_stack(tmp_path, *flags, endpoints=endpoints(servers), **TO_LLAMA) as stack:
        topics = prompts(4)
        before = [await ask(stack, topic, f"before-{i}") for i, topic in enumerate(topics)]
        stack.epp.terminate()
        await stack.epp.child.process.wait()

        stack.epp = await start_epp(stack.children, *flags, endpoints=endpoints(servers), name="again")

        after = [await ask(stack, topic, f"after-{i}") for i, topic in enumerate(topics)]
        assert [d["chosen"] for d in after] == [d["chosen"] for d in before]
        assert all(d["outcome"]["cached_tokens"] > 0.9 * d["outcome"]["prompt_tokens"] for d in after)
        assert await results(stack) == {"right": 4, "over": 0, "under": 0, "trivial": 0}


async def test_answers_that_tell_nothing_are_compared_by_the_engines_metrics(
    tmp_path: Path, servers: list[LlamaServer]
) -> None:
    """Envoy sends no response bodies, so that nobody reads usage."""
    engine = endpoints(servers)[:1]
    async with start_stack(tmp_path, endpoints=engine, response_body=BodyMode.NONE, **TO_LLAMA) as stack:
        topics = prompts(3)

        async def go_on() -> dict[str, float]:
            for topic in topics:
                await stack.complete(topic, model=LLAMA_MODEL)
            return await results(stack)

        # How many requests one comparison takes depends on how many are answered between two readings of the page.
        counts = await eventually(go_on, lambda found: sum(found.values()) >= 3)

        assert counts == {"right": 3, "over": 0, "under": 0, "trivial": 0}
        assert (await state(stack))["s0"]["confidence"] == 1
