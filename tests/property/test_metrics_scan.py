"""Whatever a metrics page holds, the scan never raises, and never reads another number than a straightforward parser."""

from __future__ import annotations

import math
import re
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from epp.api.metric_spec import MetricSpecError, parse_spec
from epp.api.scan import Scanner, distinct, parse_labels
from epp.data.engines import load_engines
from epp.data.follow import Follower
from epp.data.http_response import HttpError, ResponseReader
from epp.data.page import PageReader

PAGES = Path(__file__).parents[1] / "fixtures" / "metrics"
# Gauges only: the reference parser renames counters.
FAMILIES = (
    "vllm:num_requests_waiting",
    "vllm:num_requests_running",
    "vllm:kv_cache_usage_perc",
    "vllm:lora_requests_info",
    "llamacpp:requests_deferred",
    "llamacpp:requests_processing",
    "nv_inference_pending_request_count",
    "nv_trt_llm_request_metrics",
    "sglang:num_queue_reqs",
    "sglang:num_running_reqs",
    "sglang:token_usage",
    "trtllm_num_requests_waiting",
    "trtllm_kv_cache_utilization",
)


def _short(page: bytes) -> bytes:
    """The lines of our families and a few more around them, so that mutations hit what matters."""
    lines = page.splitlines(keepends=True)
    wanted = [i for i, line in enumerate(lines) if any(family.encode() in line for family in FAMILIES)]
    return b"".join(line for i, line in enumerate(lines) if any(abs(i - w) <= 2 for w in wanted))


SEEDS = [_short(path.read_bytes()) for path in sorted(PAGES.glob("*.txt"))]
# What a wrong or another server might write; no other blanks than the format's own, which the reference parser strips too.
PIECES = st.one_of(
    st.sampled_from(
        [b"\n", b"\r\n", b" ", b"\t", b'"', b"\\", b"{", b"}", b",", b"=", b"#", b"-", b".", b"e5", b"NaN"]
    ),
    st.sampled_from(
        [b"+Inf ", b"_created", b"_total", b" 1700000000000", b' # {a="b"} 1', b"0", b"9", b"\n\n", b"1e400"]
    ),
    st.sampled_from([f.encode() for f in FAMILIES]),
    st.text(alphabet=st.characters(min_codepoint=0x21, max_codepoint=0x7E), max_size=4).map(str.encode),
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A page with a few places deleted, overwritten, inserted into, or whole lines repeated."""
    page = draw(st.sampled_from(SEEDS))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(page)))
        match draw(st.integers(0, 3)):
            case 0:
                page = page[:at] + page[at + draw(st.integers(1, 6)) :]
            case 1:
                page = page[:at] + draw(PIECES) + page[at:]
            case 2:
                piece = draw(PIECES)
                page = page[:at] + piece + page[at + len(piece) :]
            case _:
                lines = page.splitlines(keepends=True)
                if lines:
                    line = lines[draw(st.integers(0, len(lines) - 1))]
                    page += line if line.endswith(b"\n") else b"\n" + line
    return page


def reference(page: bytes) -> dict[str, dict[frozenset[tuple[str, str]], float]] | None:
    """Finite values by family and series, of repeated series the one that `distinct` takes; None for an invalid page."""
    found: dict[str, dict[frozenset[tuple[str, str]], tuple[float, float]]] = {}
    try:
        for family in text_string_to_metric_families(page.decode()):
            for sample in family.samples:
                value, series = float(sample.value), frozenset(sample.labels.items())
                if not math.isfinite(value) or sample.name not in FAMILIES:
                    continue
                timestamp = float(sample.timestamp or 0) * 1000
                known = found.setdefault(sample.name, {}).get(series)
                if known is None or timestamp > known[1]:
                    found[sample.name][series] = (value, timestamp)
    except (ValueError, OverflowError, IndexError, KeyError):
        return None
    return {name: {key: value for key, (value, _) in series.items()} for name, series in found.items()}


@given(mutated())
@settings(max_examples=600)
@example(b'vllm:num_requests_waiting{a="1"} 1\nvllm:num_requests_waiting{a="1"} 2')
@example(b'vllm:num_requests_waiting{a="}"}1 5\r\n \tvllm:num_requests_waiting 2 7')
def test_no_number_differs_from_the_reference_parsers(page: bytes) -> None:
    expected = reference(page)
    found = Scanner(FAMILIES).scan(page)

    if expected is None:
        return
    for family, samples in found.items():
        series = None if samples is None else distinct(samples)
        if series is not None:
            assert {frozenset(labels.items()): value for labels, value in series} == expected.get(family, {})


@given(st.lists(st.one_of(mutated(), st.sampled_from(SEEDS), st.binary(max_size=40)), min_size=2, max_size=6))
@settings(max_examples=400)
@example([b"f_x 1\nvllm:num_requests_waiting 1\n", b"f_x 1\nvllm:num_requests_waiting_by_reason 1\n"])
@example([b"vllm:num_requests_waiting 1", b"\nvllm:num_requests_waiting 1", b" vllm:num_requests_waiting 1 2"])
def test_following_a_server_finds_what_scanning_each_page_finds(pages: list[bytes]) -> None:
    follower, scanner = Follower(FAMILIES), Scanner(FAMILIES)

    for page in pages:
        found = follower.scan(page)

        assert found == scanner.scan(page)
        assert follower.scan(page) is found


@given(st.data())
@settings(max_examples=300)
def test_following_small_changes_finds_what_scanning_finds(data: st.DataObject) -> None:
    """As a server goes on: the same page with another number here, a series more or fewer there."""
    page = data.draw(st.sampled_from(SEEDS))
    follower, scanner = Follower(FAMILIES), Scanner(FAMILIES)
    follower.scan(page)
    for _ in range(data.draw(st.integers(1, 5))):
        lines = page.splitlines(keepends=True)
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.integers(0, 3)):
            case 0:
                lines[at] = re.sub(rb"[0-9.]+(?=\r?\n?$)", b"%d" % data.draw(st.integers(0, 999)), lines[at])
            case 1:
                del lines[at]
            case 2:
                lines.insert(at, lines[data.draw(st.integers(0, len(lines) - 1))])
            case _:
                lines[at] = data.draw(PIECES) + lines[at]
        page = b"".join(lines) or b"\n"

        assert follower.scan(page) == scanner.scan(page)


def test_the_unchanged_pages_are_read_completely() -> None:
    for page in SEEDS:
        found = Scanner(FAMILIES).scan(page)
        expected = reference(page)

        assert expected is not None
        assert {family: len(samples or ()) for family, samples in found.items()} == {
            f: len(s) for f, s in expected.items()
        }


@given(st.one_of(st.binary(max_size=300), mutated(), st.lists(PIECES, max_size=40).map(b"".join)))
@settings(max_examples=300)
def test_no_bytes_make_reading_raise(page: bytes) -> None:
    engines = load_engines()

    for engine in (
        engines.default,
        engines.of_labels({"llm-d.ai/engine-type": "triton-tensorrt-llm"}),
        engines.detect(page),
    ):
        reading = PageReader(engine or engines.default).read(page)
        for value in (reading.waiting_requests, reading.running_requests, reading.kv_cache_usage):
            assert value is None or (value >= 0 and not math.isnan(value))


@given(st.binary(max_size=60))
def test_no_bytes_make_label_parsing_raise(text: bytes) -> None:
    labels = parse_labels(text)

    assert labels is None or all(name.isidentifier() for name in labels)


@given(st.text(max_size=40))
def test_a_spec_is_read_or_refused_with_a_position(text: str) -> None:
    position, spec = 0, None
    try:
        spec = parse_spec(text)
    except MetricSpecError as error:
        position = error.position
        refused = True
    else:
        refused = False

    assert 0 <= position <= len(text)
    assert refused or (spec is None) == (not text.strip())


@given(
    st.lists(
        st.sampled_from([b"HTTP/1.1 200 OK\r\n", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n"])
        | st.sampled_from([b"3\r\n", b"abc", b"0\r\n", b"Content-Encoding: gzip\r\n", b"Connection: close\r\n"])
        | st.binary(max_size=4),
        max_size=12,
    ).map(b"".join),
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
)
@settings(max_examples=300)
def test_http_is_read_the_same_in_any_split_or_refused(data: bytes, sizes: list[int]) -> None:
    def outcome(pieces: list[bytes]) -> object:
        reader = ResponseReader(max_body_bytes=50)
        answers = []
        try:
            for piece in pieces:
                answers.append(reader.feed(piece))
                if answers[-1] is not None:
                    break
            answers.append(reader.end())
        except HttpError:
            return "refused"
        return [answer for answer in answers if answer is not None]

    pieces, at = [], 0
    while at < len(data):
        size = sizes[len(pieces) % len(sizes)]
        pieces.append(data[at : at + size])
        at += size
    whole = outcome([data])

    # What follows a response is refused, unless it has not arrived yet.
    assert outcome(pieces) == whole or whole == "refused"
