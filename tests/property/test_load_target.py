"""Pages of every engine, damaged at random, one after another: no exception, and no number that no recent page has shown."""

from __future__ import annotations

import math
import re
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from epp.api import KV_CACHE_USAGE, METRICS_UPDATED_S, RUNNING_REQUESTS, WAITING_REQUESTS, Endpoint, Fleet
from epp.api.metric_spec import MetricSpec
from epp.data.engines import Engine, Engines, load_engines
from epp.data.load_target import LoadTarget
from epp.data.metrics_source import MetricsSource
from epp.data.page import PageReader
from epp.data.source_errors import SourceErrors
from tests.support.plugins import Clock

ENGINES = load_engines()
STALE_S = 2.0
LABEL = "llm-d.ai/engine-type"
PAGES = {
    path.stem: path.read_bytes() for path in sorted((Path(__file__).parents[1] / "fixtures" / "metrics").glob("*.txt"))
}
COLUMNS = (WAITING_REQUESTS, RUNNING_REQUESTS, KV_CACHE_USAGE)
DAMAGE = st.sampled_from(
    [
        b"",
        b"\n",
        b"\r\n",
        b" ",
        b'"',
        b"{",
        b"}",
        b"\\",
        b"NaN",
        b"-",
        b"e9",
        b"+Inf ",
        b"1e400",
        b"# ",
        b"0",
        b"\x00",
        b"\xff",
    ]
)


def engine_of(page: bytes) -> str:
    engine = ENGINES.detect(page)
    assert engine is not None
    return engine.name


def _wanted_part(page: bytes, engines: Engines) -> bytes:
    """The lines that are read, and their neighbours: damage elsewhere does nothing."""
    engine = engines.detect(page)
    assert engine is not None
    lines = page.splitlines(keepends=True)
    at = [i for i, line in enumerate(lines) if any(family.encode() in line for family in engine.families)]
    return b"".join(line for i, line in enumerate(lines) if any(abs(i - j) <= 1 for j in at))


PARTS = {name: _wanted_part(page, ENGINES) for name, page in PAGES.items()}


@st.composite
def damaged(draw: st.DrawFn, name: str) -> bytes:
    page = PARTS[name]
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(page)))
        page = page[:at] + draw(DAMAGE) + page[at + draw(st.sampled_from([0, 0, 1, 5, 60, len(page)])) :]
    return page


class Case:
    def __init__(self, **labels: str) -> None:
        self.clock = Clock()
        self.fleet = Fleet()
        self.endpoint = Endpoint("a", "10.0.0.1", 8000, labels=labels)
        self.fleet.add(self.endpoint)
        self.target = LoadTarget(
            self.endpoint,
            self.fleet,
            ENGINES,
            MetricsSource(),
            clock=self.clock,
            token=str,
            errors=SourceErrors(),
            stale_after_s=STALE_S,
        )

    def value(self, column: str) -> float:
        return float(self.fleet.columns[column][self.endpoint.row])


@given(st.data())
@settings(max_examples=400)
def test_what_is_known_is_what_the_last_pages_have_shown(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(PARTS)))
    engine = ENGINES.of_labels({LABEL: engine_of(PAGES[name])})
    assert engine is not None
    case = Case(**{LABEL: engine.name})
    shown: dict[str, tuple[float, float]] = {}  # the last value that a page had, and when
    there: set[str] = set()  # columns whose metric has been on a page, readable or not
    read = False

    for _ in range(data.draw(st.integers(1, 6))):
        case.clock.now += data.draw(st.sampled_from([0.05, 0.05, 1.0, 3.0]))
        page = data.draw(damaged(name))
        wrong = case.target.take(page)

        # A reader of its own for each page, which remembers nothing.
        reading = PageReader(engine).read(page)
        assert (not wrong) is reading.shows_load
        if reading.shows_load:
            read = True
            there |= {column for column in COLUMNS if _has(page, _spec(engine, column))}
            values = (reading.waiting_requests, reading.running_requests, reading.kv_cache_usage)
            for column, value in zip(COLUMNS, values, strict=True):
                if value is not None:
                    shown[column] = (value, case.clock.now)
            assert case.value(METRICS_UPDATED_S) == case.clock.now
        else:
            assert case.value(METRICS_UPDATED_S) < case.clock.now
        for column in COLUMNS if read else ():
            if column in there or column in shown:
                _check(case.value(column), shown.get(column), case.clock.now, fresh=reading.shows_load)
            else:
                assert not case.value(column) > 0

        if data.draw(st.integers(0, 9)) == 0:
            case.target.forget()  # as the scraper does when nothing could be read for too long
            shown.clear()
            there.clear()
            read = False
            assert all(math.isnan(case.value(column)) for column in COLUMNS)


def _spec(engine: Engine, column: str) -> MetricSpec | None:
    return {WAITING_REQUESTS: engine.waiting, RUNNING_REQUESTS: engine.running, KV_CACHE_USAGE: engine.kv_usage}[column]


def _has(page: bytes, spec: MetricSpec | None) -> bool:
    """A line of the metric; not where labels, which may be damaged, tell it from others."""
    return (
        spec is not None
        and not spec.labels
        and bool(re.search(rb"(?m)^[ \t]*%b(?![\w:])" % spec.family.encode(), page))
    )


def _check(value: float, shown: tuple[float, float] | None, now: float, *, fresh: bool) -> None:
    """`fresh`: a page has just been read, so that nothing that is too old may be left."""
    if shown is None:
        assert math.isnan(value)  # pages have had it, and no number that can be used
    elif math.isnan(value):
        assert now - shown[1] >= STALE_S
    else:
        assert value == shown[0]
        assert not fresh or now - shown[1] < STALE_S


@given(st.lists(st.sampled_from(sorted(PARTS)).flatmap(damaged) | st.binary(max_size=80), min_size=1, max_size=6))
@settings(max_examples=300)
def test_a_server_that_changes_its_engine_and_its_mind_is_followed_without_an_exception(pages: list[bytes]) -> None:
    case = Case()

    for page in pages:
        case.clock.now += 0.05
        wrong = case.target.take(page)

        values = [case.value(column) for column in COLUMNS]
        assert not any(value < 0 for value in values)
        assert not values[2] > 1
        if not wrong:
            assert case.value(METRICS_UPDATED_S) == case.clock.now
