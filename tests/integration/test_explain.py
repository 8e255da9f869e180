"""Decisions of a director, as the page, the header and the command tell them."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from time import monotonic
from typing import Any

import aiohttp
import pytest

from epp.api import (
    KV_CACHE_USAGE,
    METRICS_UPDATED_S,
    WAITING_REQUESTS,
    Candidates,
    Code,
    Filter,
    Mask,
    Plugin,
    Request,
    RequestError,
    RequestHeaderProcessor,
    Scorer,
    Screener,
)
from epp.cli.main import main as epp
from epp.cli.options import UsageError, parse
from epp.director.director import Director
from epp.director.exchange import RequestExchange
from epp.extproc.exchange import BodyMode
from epp.extproc.stream import Stream
from epp.observability.explain import Decisions
from epp.observability.explain_page import ExplainPage
from epp.server.http import HttpServer, Pages
from tests.support.configs import HEAD
from tests.support.extproc import (
    POST,
    Replies,
    feed,
    request_body,
    request_headers,
    response_body,
    response_headers,
    take,
)
from tests.support.service import make_director

PROMPT = "a secret prompt"
SCORERS = """\
plugins:
- {type: queue-scorer}
- {type: kv-cache-utilization-scorer}
- {type: max-score-picker}
schedulingProfiles:
- name: default
  plugins:
  - {pluginRef: queue-scorer, weight: 1}
  - {pluginRef: kv-cache-utilization-scorer, weight: 1}
  - {pluginRef: max-score-picker}
"""
EXPLAIN = {"x-llm-epp-explain": "1"}


def kept_out(*names: str) -> Callable[[Candidates], Mask | Sequence[bool]]:
    return lambda candidates: [e.name not in names for e in candidates]


class WithoutS0(Filter):
    type = "without-s0"

    def keep(self, request: Request, candidates: Candidates) -> Mask | Sequence[bool]:
        return kept_out("s0")(candidates)


class WithoutAny(Filter):
    type = "without-any"

    def keep(self, request: Request, candidates: Candidates) -> Mask | Sequence[bool]:
        return [False] * len(candidates)


class WithoutS2(Screener):
    type = "without-s2"

    def screen(self, request: Request, candidates: Candidates) -> Mask | Sequence[bool]:
        return kept_out("s2")(candidates)


class Broken(Scorer):
    type = "broken"

    def score(self, request: Request, candidates: Candidates) -> Sequence[float]:
        raise ValueError("oops")


class SameRefusal(RequestHeaderProcessor):
    """Raises one and the same error each time."""

    type = "same-refusal"
    error = RequestError(Code.FORBIDDEN, "not you")

    def process_request_header(self, request: Request) -> None:
        raise self.error


def explained_director(
    config: str = SCORERS,
    *,
    plugins: Sequence[type[Plugin]] = (),
    header: bool = False,
    waiting: Sequence[float] = (2, 12, 4),
    kv: Sequence[float] | float = 0.5,
) -> Director:
    """Over s0, s1, ... with these loads, all read just now."""
    director = make_director(
        *[f"127.0.0.1:{8000 + i}" for i in range(len(waiting))], config=HEAD + config, plugins=plugins
    )
    fleet = director.datastore.fleet
    rows = fleet.candidates().rows
    fleet.columns[WAITING_REQUESTS][rows] = waiting
    fleet.columns[KV_CACHE_USAGE][rows] = kv
    fleet.columns[METRICS_UPDATED_S][rows] = monotonic()
    director.decisions = Decisions(fleet, monotonic)
    director.explain_header = header
    return director


def ask(director: Director, request_id: str = "r", *, subset: Sequence[str] | None = None, **headers: str) -> Replies:
    """A request and, where it was not refused, its response: what Envoy is told."""
    exchange = RequestExchange(director, lambda path, waiting: pytest.fail("nothing waits"))
    stream = Stream(exchange, max_body_bytes=1000)
    mode = BodyMode.FULL_DUPLEX_STREAMED
    fields = {**POST, "x-request-id": request_id} | {k.replace("_", "-"): v for k, v in headers.items()}
    body = json.dumps({"model": "m", "prompt": PROMPT}).encode()
    replies = feed(
        stream,
        request_headers(fields, request_mode=mode, response_mode=mode, subset=subset),
        request_body(body, end=True),
    )
    if "immediate_response" not in replies.kinds:
        answer = (
            b'{"usage": {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 4}}}'
        )
        replies += feed(stream, response_headers(), response_body(answer, end=True))
    stream.aborted()
    replies += take(stream)
    return replies


def told(director: Director, request_id: str = "r") -> dict[str, Any]:
    found = ExplainPage(director.decisions).one(request_id)
    assert found is not None
    return found


def why_not(explained: dict[str, Any]) -> dict[str, str]:
    return {e["name"]: e["why_not"] for p in explained["profiles"] for e in p["endpoints"] if not e["chosen"]}


# --- what is told --------------------------------------------------------------------------------------------------------


def test_the_load_that_spoke_against_an_endpoint_is_named() -> None:
    director = explained_director()
    ask(director)

    explained = told(director)
    assert [e["name"] for e in explained["chosen"]] == ["s0"]
    assert why_not(explained) == {"s1": "−1.00, queue 12 vs 2", "s2": "−0.20, queue 4 vs 2"}


def test_scores_come_raw_and_weighted_and_add_up() -> None:
    director = explained_director(SCORERS.replace("weight: 1", "weight: 3", 1), kv=(0.75, 0.25, 0.5))
    ask(director)

    [profile] = told(director)["profiles"]
    best = profile["endpoints"][0]
    assert best["scores"]["queue-scorer"] == {"raw": 1.0, "weighted": 3.0}
    assert best["scores"]["kv-cache-utilization-scorer"] == {"raw": 0.25, "weighted": 0.25}
    assert best["total"] == 3.25


def test_both_loads_are_named_where_both_speak_against_it() -> None:
    director = explained_director(waiting=(0, 10), kv=(0.1, 0.9))
    ask(director)

    assert why_not(told(director)) == {"s1": "−1.80, queue 10 vs 0, kv cache 90% vs 10%"}


def test_equal_totals_are_told_as_a_tie() -> None:
    director = explained_director(waiting=(1, 1))
    ask(director)

    explained = told(director)
    assert explained["profiles"][0]["tied"] == ["s0", "s1"]
    assert list(why_not(explained).values()) == ["tied, drawn by lot"]


def test_whom_a_filter_removed_is_told() -> None:
    director = explained_director(
        "plugins:\n- type: without-s0\n- type: queue-scorer\n- type: max-score-picker\n"
        "schedulingProfiles:\n- name: default\n  plugins:\n"
        "  - pluginRef: without-s0\n  - pluginRef: queue-scorer\n  - pluginRef: max-score-picker\n",
        plugins=(WithoutS0,),
    )
    ask(director)

    explained = told(director)
    assert explained["profiles"][0]["filters"] == [
        {"name": "without-s0", "type": "without-s0", "parameters": {}, "removed": ["s0"]}
    ]
    assert why_not(explained)["s0"] == "removed by without-s0"


def test_a_filter_is_told_with_its_rule() -> None:
    director = explained_director(
        "plugins:\n- {type: by-label, name: mine, parameters: {label: role, validValues: [decode], allowsNoLabel: false}}\n"
        "- type: queue-scorer\n- type: max-score-picker\n"
        "schedulingProfiles:\n- name: default\n  plugins:\n"
        "  - pluginRef: mine\n  - pluginRef: queue-scorer\n  - pluginRef: max-score-picker\n"
    )
    for endpoint in director.datastore.fleet.candidates().endpoints[1:]:
        endpoint.labels = {"role": "decode"}
    ask(director)

    explained = told(director)
    [rule] = explained["profiles"][0]["filters"]
    assert (rule["type"], rule["parameters"]) == ("by-label", {"label": "role", "validValues": ["decode"]})
    assert why_not(explained)["s0"] == 'removed by mine (by-label: label=role, validValues=["decode"])'


def test_who_was_no_candidate_is_told_with_the_reason() -> None:
    director = explained_director("plugins:\n- type: without-s2\n- type: queue-scorer\n", plugins=(WithoutS2,))
    ask(director, subset=["127.0.0.1:8000", "127.0.0.1:8002"])

    explained = told(director)
    removed_by = {e["name"]: e["removed_by"] for e in explained["endpoints"]}
    assert removed_by == {"s0": None, "s1": "the proxy's subset hint", "s2": "without-s2"}


def test_a_scorer_that_failed_is_told() -> None:
    director = explained_director("plugins:\n- type: broken\n- type: queue-scorer\n", plugins=(Broken,))
    ask(director)

    failed = {s["name"]: s["failed"] for s in told(director)["profiles"][0]["scorers"]}
    assert failed == {"broken": True, "queue-scorer": False}


def test_the_outcome_has_what_the_server_reported() -> None:
    director = explained_director()
    ask(director)

    outcome = told(director)["outcome"]
    assert (outcome["status"], outcome["prompt_tokens"], outcome["cached_tokens"]) == (200, 5, 4)
    assert outcome["ttft_ms"] >= 0


NOBODY = (
    "plugins:\n- type: without-s0\n- type: without-any\n- type: max-score-picker\n"
    "schedulingProfiles:\n- name: default\n  plugins:\n"
    "  - pluginRef: without-s0\n  - pluginRef: without-any\n  - pluginRef: max-score-picker\n"
)


@pytest.mark.parametrize(
    ("subset", "reason"),
    [
        (None, "0/3 endpoints are available: 1 removed by without-s0, 2 by without-any"),
        (
            ["127.0.0.1:8000", "127.0.0.1:8001"],
            "0/3 endpoints are available: 1 removed by the proxy's subset hint, 1 by without-s0, 1 by without-any",
        ),
        (["10.9.9.9:1"], "0/3 endpoints are available: 3 removed by the proxy's subset hint"),
    ],
    ids=["filters", "hint and filters", "hint"],
)
def test_a_refusal_says_who_removed_whom(subset: list[str] | None, reason: str) -> None:
    director = explained_director(NOBODY, plugins=(WithoutS0, WithoutAny))
    ask(director, subset=subset)

    assert told(director)["refusal"]["reason"] == reason


def test_an_empty_pool_says_so() -> None:
    director = explained_director(waiting=())
    ask(director)

    assert told(director)["refusal"]["reason"] == "0/0 endpoints are available: the pool is empty"


def test_a_sheddable_request_says_who_found_the_pool_saturated() -> None:
    director = explained_director(waiting=(1000, 1000), kv=1)
    director.datastore.objectives.set("batch", -1)
    ask(director, x_gateway_inference_objective="batch")

    explained = told(director)
    assert explained["priority"] == -1
    assert explained["refusal"]["reason"] == "0/2 endpoints are available: 2 removed by utilization-detector"


def test_nothing_kept_refers_to_the_request_or_shows_its_prompt() -> None:
    director = explained_director(NOBODY, plugins=(WithoutS0, WithoutAny))
    ask(director, "kept-refused")
    director = explained_director()
    ask(director, "kept-served")
    gc.collect()

    alive = [o.id for o in gc.get_objects() if isinstance(o, Request) and o.id.startswith("kept-")]
    assert len(director.decisions) == 1
    assert alive == []
    assert PROMPT not in json.dumps(told(director, "kept-served"))


def test_nothing_kept_holds_plugins_of_a_configuration_that_was_replaced() -> None:
    director = explained_director("plugins:\n- type: without-s0\n- type: queue-scorer\n", plugins=(WithoutS0,))
    ask(director)
    decisions = director.decisions
    del director
    gc.collect()

    assert len(decisions) == 1
    assert not [o for o in gc.get_objects() if isinstance(o, WithoutS0)]


# --- the header ----------------------------------------------------------------------------------------------------------


def test_a_trusted_caller_gets_one_line() -> None:
    director = explained_director(header=True)

    line = json.loads(ask(director, **EXPLAIN).headers_set("response_headers")["x-llm-epp-explained"])

    assert (line["chosen"], line["total"]) == (["s0"], 1.5)
    assert line["why_not"] == {"s2": "-0.20, queue 4 vs 2", "s1": "-1.00, queue 12 vs 2"}


def test_a_refused_caller_gets_the_reason() -> None:
    director = explained_director(NOBODY, plugins=(WithoutS0, WithoutAny), header=True)

    line = json.loads(ask(director, **EXPLAIN).headers_set("immediate_response")["x-llm-epp-explained"])

    assert line["refused"] == "0/3 endpoints are available: 1 removed by without-s0, 2 by without-any"


@pytest.mark.parametrize(("header", "asked"), [(False, EXPLAIN), (True, {}), (True, {"x-llm-epp-explain": "0"})])
def test_nobody_else_gets_it(header: bool, asked: dict[str, str]) -> None:
    director = explained_director(header=header)

    assert "x-llm-epp-explained" not in ask(director, **asked).headers_set("response_headers")


def test_an_explanation_does_not_reach_another_caller_through_a_shared_error() -> None:
    director = explained_director("plugins:\n- type: same-refusal\n", plugins=(SameRefusal,), header=True)

    asked, other = (ask(director, **h).headers_set("immediate_response") for h in (EXPLAIN, {}))

    assert "x-llm-epp-explained" in asked
    assert "x-llm-epp-explained" not in other


def test_over_a_large_fleet_the_line_stays_short_and_says_how_many_it_leaves_out() -> None:
    director = explained_director(header=True, waiting=range(400))

    text = ask(director, **EXPLAIN).headers_set("response_headers")["x-llm-epp-explained"]

    line = json.loads(text)
    assert len(text) <= 2048
    assert text.isascii()
    assert 1 + len(line["why_not"]) + line["more"] == 400
    assert list(line["why_not"])[:2] == ["s1", "s2"]


# --- the page and the command --------------------------------------------------------------------------------------------


@asynccontextmanager
async def page_of(page: Director | Changing | None) -> AsyncIterator[str]:
    """The URL of a metrics port that shows these decisions."""
    explain = ExplainPage(page.decisions) if isinstance(page, Director) else page
    pages = Pages(
        metrics=lambda accept: (iter(()), "text/plain"),
        problems=lambda: (),
        endpoints=dict,
        config=lambda: ("", ""),
        plugins=dict,
        export=lambda name: None,
        requests=lambda: (),
        explain=explain,
    )
    server = await HttpServer.start(pages, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


async def get(url: str) -> tuple[int, Any]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


def test_the_number_to_keep_is_checked() -> None:
    with pytest.raises(UsageError, match="--explain-decisions: -1 is negative"):
        parse(["--explain-decisions=-1", "--endpoint=127.0.0.1:8000"])


async def test_the_page_shows_one_and_the_latest_and_later_ones() -> None:
    director = explained_director()
    for request_id in ("a", "b/c", "d"):
        ask(director, request_id)

    async with page_of(director) as url:
        one = await get(f"{url}/explain/b%2Fc")
        last = await get(f"{url}/explain?last=2")
        after = await get(f"{url}/explain?after=1")
        missing = await get(f"{url}/explain/nobody")
        wrong = await get(f"{url}/explain?last=x")

    assert (one[0], one[1]["id"]) == (200, "b/c")
    assert [d["id"] for d in last[1]["decisions"]] == ["b/c", "d"]
    assert [d["number"] for d in after[1]["decisions"]] == [2, 3]
    assert missing == (404, {"error": "no decision about request 'nobody' is kept"})
    assert wrong[0] == 400


async def test_without_a_ring_the_page_says_why() -> None:
    async with page_of(None) as url:
        assert await get(f"{url}/explain") == (404, {"error": "no decisions are kept: --explain-decisions is 0"})


async def command(*arguments: str) -> int:
    return await asyncio.to_thread(epp, ["explain", *arguments])


async def test_the_command_prints_a_table_with_why_not(capsys: pytest.CaptureFixture[str]) -> None:
    director = explained_director()
    ask(director, "mine")

    async with page_of(director) as url:
        status = await command("mine", "--url", url)

    lines = capsys.readouterr().out.splitlines()
    assert status == 0
    assert lines[0].startswith("request mine  decision 1 at ")
    assert any(line.split()[:2] == ["s0", "1.500"] and line.endswith("chosen") for line in lines)
    assert any(line.split()[0:1] == ["s1"] and line.endswith("−1.00, queue 12 vs 2") for line in lines)


async def test_the_last_ones_come_as_json_lines(capsys: pytest.CaptureFixture[str]) -> None:
    director = explained_director()
    for request_id in ("a", "b", "c"):
        ask(director, request_id)

    async with page_of(director) as url:
        await command("--last", "2", "--json", "--url", url)

    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["b", "c"]


async def test_a_refusal_is_printed_with_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    director = explained_director(NOBODY, plugins=(WithoutS0, WithoutAny))
    ask(director)

    async with page_of(director) as url:
        await command("--last", "--url", url)

    printed = capsys.readouterr().out
    assert "refused: 0/3 endpoints are available: 1 removed by without-s0, 2 by without-any\n" in printed
    assert "s0" in printed.splitlines()[-3:][0]


async def test_a_clients_id_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    director = explained_director()
    ask(director, "\x1b[2Jevil")

    async with page_of(director) as url:
        await command("--last", "--url", url)

    assert "\x1b" not in capsys.readouterr().out


async def test_the_command_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    async with page_of(explained_director()) as url:
        missing = await command("nobody", "--url", url)
        none_yet = await command("--last", "--url", url)
    nobody_there = await command("--last", "--url", url)

    said = capsys.readouterr().err.splitlines()
    assert (missing, none_yet, nobody_there) == (1, 1, 1)
    assert said[0] == "epp explain: no decision about request 'nobody' is kept"
    assert said[1] == "epp explain: no request has been decided yet"
    assert said[2].startswith(f"epp explain: {url}/explain?last=1 does not answer: ")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (
            b"\0\0\x12\4\0\0\0\0\0",
            "does not answer: what listens there is no HTTP server; --url names the EPP's metrics port",
        ),
        (
            b'HTTP/1.1 404 Not Found\r\ncontent-length: 30\r\n\r\n{"error":{"type":"NotFound"}}  ',
            "answers with status 404; --url names the EPP's metrics port",
        ),
    ],
)
async def test_the_command_says_so_when_the_port_is_another_one(
    answer: bytes, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The ext_proc port, whose gRPC is no HTTP/1.1, and a model server."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        status = await command("--last", "--url", url)

    assert (status, capsys.readouterr().err) == (1, f"epp explain: {url}/explain?last=1 {said}\n")


class Changing:
    """The page of whichever director serves at the moment."""

    def __init__(self, director: Director) -> None:
        self.director = director

    def one(self, request_id: str) -> Mapping[str, Any] | None:
        return ExplainPage(self.director.decisions).one(request_id)

    def last(self, count: int) -> Iterator[Mapping[str, Any]]:
        return ExplainPage(self.director.decisions).last(count)

    def after(self, number: int, count: int) -> Iterator[Mapping[str, Any]]:
        return ExplainPage(self.director.decisions).after(number, count)


async def next_line(output: asyncio.StreamReader, director: Director, name: str) -> str:
    """Asks on and on until the command has printed a line about a request with such an id."""
    for number in range(450):
        ask(director, f"{name}-{number}")
        try:
            async with asyncio.timeout(0.2):
                while True:
                    line = (await output.readline()).decode()
                    assert line, "the command has ended"
                    if f"  {name}-" in line:
                        return line
        except TimeoutError:
            continue
    pytest.fail("no line came")


async def test_following_prints_a_line_for_each_new_decision_also_of_the_next_process() -> None:
    first, second = explained_director(), explained_director(waiting=(9, 1))
    page = Changing(first)
    async with page_of(page) as url:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "epp", "explain", "--follow", "--url", url), stdout=asyncio.subprocess.PIPE
        )
        try:
            assert process.stdout is not None
            for _ in range(200):
                ask(first, "before")
            early = await next_line(process.stdout, first, "early")
            page.director = second
            late = await next_line(process.stdout, second, "late")
        finally:
            process.kill()
            await process.wait()

    assert "-> s0  s2: −0.20, queue 4 vs 2" in early
    assert "-> s1  s0: −1.00, queue 9 vs 1" in late
