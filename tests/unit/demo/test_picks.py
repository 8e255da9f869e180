"""Reading the EPP's log while it grows, and bringing each pick together with its answer."""

from __future__ import annotations

from pathlib import Path

from epp.demo.client import Answer
from epp.demo.picks import Joiner, LogTail, Pick, Serving, parse_line

REQUEST = (
    b'{"level":"verbose","ts":"2026-11-21T16:02:52.535Z","logger":"epp.request","msg":"request","id":"epp-0-0",'
    b'"model":"m","target_model":"m","status":200,"endpoint":"127.0.0.1:41787","priority":0,"ttft_ms":33.302,'
    b'"duration_ms":39.043,"prompt_tokens":251,"completion_tokens":4,"cached_tokens":0,"termination":"complete",'
    b'"candidates":2,"queue":0,"in_flight":1,"prefix_blocks":3,"prefix_total":4}'
)
SERVING = b'{"level":"info","msg":"serving","ext_proc_port":45571,"health_port":44557,"metrics_port":36869,"tls":"off"}'


def answer(request_id: str) -> Answer:
    return Answer(request_id, "chat 1, turn 1", True, 0.0)


def joined() -> tuple[Joiner, list[tuple[str, str]]]:
    pairs: list[tuple[str, str]] = []
    return Joiner(lambda answer, pick: pairs.append((answer.id, pick.endpoint))), pairs


def test_a_request_line_tells_the_pick() -> None:
    assert parse_line(REQUEST) == Pick(
        "epp-0-0",
        endpoint="127.0.0.1:41787",
        queue=0,
        in_flight=1,
        prefix_blocks=3,
        prefix_total=4,
        candidates=2,
        ttft_ms=33.302,
        termination="complete",
    )


def test_a_request_without_an_endpoint_is_a_pick_of_none() -> None:
    assert parse_line(b'{"msg":"request","id":"a","status":503,"endpoint":""}') == Pick("a")


def test_the_serving_line_tells_the_ports() -> None:
    assert parse_line(SERVING) == Serving(45571, 36869)


def test_other_lines_tell_nothing() -> None:
    lines = (b'{"msg":"stopped"}', b"Traceback (most recent call last):", b"", b'{"msg":"request"}', b"[]")

    assert [parse_line(line) for line in lines] == [None] * 5


def test_a_line_is_read_once_and_only_when_it_is_complete(tmp_path: Path) -> None:
    log = tmp_path / "log"
    tail = LogTail(log)
    log.write_bytes(b"one\ntw")
    first = tail.read()
    with log.open("ab") as file:
        file.write(b"o\nthree\n")

    assert (first, tail.read(), tail.read()) == ([b"one"], [b"two", b"three"], [])


def test_answer_and_pick_are_paired_whichever_comes_first() -> None:
    joiner, pairs = joined()
    joiner.add_answer(answer("a"))
    joiner.add_pick(Pick("b", endpoint="two"))
    joiner.add_pick(Pick("a", endpoint="one"))
    joiner.add_answer(answer("b"))

    assert pairs == [("a", "one"), ("b", "two")]
    assert set(joiner.picks) == {"a", "b"}


def test_an_answer_without_a_pick_stays_unpaired() -> None:
    joiner, pairs = joined()
    joiner.add_pick(Pick("warm-up"))
    joiner.add_answer(answer("a"))

    assert ([left.id for left in joiner.unpaired], pairs) == (["a"], [])
