"""`epp predictor`: state, observations, figures and pictures of predictions, from a metrics port or a file."""

from __future__ import annotations

import asyncio
import csv
import json
import re
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from epp.cli.predictor import predictor
from epp.server.http import HttpServer, Pages
from epp_predictor import Predictor
from epp_predictor.evaluation import as_served, trained_again
from epp_predictor.history import History, read
from epp_predictor.trainer import Trainer
from tests.support.latency_world import draw
from tests.unit.predictor.test_trainer import drawn


def history(count: int = 1500, *, trained: bool = True, slowed_from: int | None = None) -> History:
    """Observations of a predictor in a world whose truth is known; from a number on everything takes three times as long."""
    serving = Predictor()
    if trained:
        trainer = Trainer()
        rows = drawn(3000, 0)
        rows[:, 0] = 1000.0
        trainer.add(rows, 1000.0)
        snapshot = trainer.train(1000.0).snapshot
        assert snapshot is not None
        serving.publish(snapshot)
    requests = draw(count, np.random.default_rng(1))
    kept = History()
    numbers = [serving.endpoint(f"s{n}") for n in range(1, 9)]
    for i in range(count):
        number = numbers[int(requests.endpoints[i]) - 1]
        decision = serving.predict(requests.features[i : i + 1], np.array([number])).keep(0)
        factor = 3.0 if slowed_from is not None and i >= slowed_from else 1.0
        for target, ms in (("ttft", requests.ttft_ms[i]), ("tpot", requests.tpot_ms[i])):
            observed = float(ms) * factor
            latency: dict[str, Any] = {f"{target}_ms": observed}
            serving.observe(decision, **latency)
            kept.add(decision, target, observed, endpoint=f"s{number}", time_s=1000.0 + i, is_censored=False)
    return kept


@asynccontextmanager
async def metrics_port(state: object, kept: History | None) -> AsyncIterator[str]:
    def export(name: str) -> tuple[Iterator[bytes], str] | None:
        return (kept.csv(), "text/csv") if kept is not None and name == "predicted-latency-producer" else None

    pages = Pages(
        metrics=lambda accept: (iter(()), "text/plain"),
        problems=lambda: (),
        endpoints=dict,
        config=lambda: ("", ""),
        plugins=lambda: {"plugins": {"predicted-latency-producer": state} if state else {}},
        export=export,
        requests=lambda: (),
    )
    server = await HttpServer.start(pages, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.port}"
    finally:
        await server.close()


@pytest.fixture(scope="module")
def observed() -> History:
    return history()


@pytest.fixture
def exported(observed: History, tmp_path: Path) -> Path:
    path = tmp_path / "observations.csv"
    path.write_bytes(b"".join(observed.csv()))
    return path


def test_what_is_written_is_read(observed: History) -> None:
    records = read(b"".join(observed.csv()).decode().splitlines())

    assert (len(records["ttft"]), len(records["tpot"])) == (1500, 1500)
    assert (np.diff(records["ttft"].time_s) >= 0).all()
    assert np.isfinite(records["ttft"].low_ms).all()
    assert set(records["ttft"].endpoint.tolist()) == {f"s{n}" for n in range(1, 9)}


def test_only_the_newest_are_kept() -> None:
    kept = History(10)
    decision = Predictor().predict(draw(1, np.random.default_rng(0)).features, np.array([1])).keep(0)
    for number in range(25):
        kept.add(decision, "ttft", 1.0 + number, endpoint='a "b", c', time_s=float(number), is_censored=False)

    found = read(b"".join(kept.csv()).decode().splitlines())["ttft"]

    assert len(kept) == 10
    assert found.observed_ms.tolist() == [16.0 + n for n in range(10)]
    assert found.endpoint[0] == "a 'b', c"
    assert np.isnan(found.predicted_ms).all()


def test_coverage_and_error_are_what_the_world_allows(observed: History) -> None:
    """Noise alone is 13 %: a median error of about 9 %."""
    found = as_served(read(b"".join(observed.csv()).decode().splitlines())["ttft"])

    assert found is not None
    assert 0.85 < found.overall.coverage < 0.95
    assert found.overall.median_error < 0.13
    assert found.overall.line_error > 1.5 * found.overall.median_error
    assert sum(part.quality.count for part in found.by_load) == found.overall.count == 1500
    assert {part.name for part in found.by_endpoint} == {f"s{n}" for n in range(1, 9)}


def test_a_world_that_slows_down_shows_over_time() -> None:
    found = as_served(read(b"".join(history(1200, slowed_from=600).csv()).decode().splitlines())["ttft"])

    assert found is not None
    errors = [error for _, _, error in found.over_time]
    assert max(errors) > 3 * min(errors)


def test_a_model_trained_on_the_first_part_predicts_the_rest() -> None:
    records = read(b"".join(history(1600, trained=False).csv()).decode().splitlines())

    assert as_served(records["ttft"]) is None
    for target in ("ttft", "tpot"):
        found = trained_again(records[target])
        assert found is not None
        assert found.overall.count == 800
        assert found.overall.median_error < 0.15
        assert 0.82 < found.overall.coverage < 0.97
        few = records[target].where(np.arange(len(records[target])) < 30)
        assert trained_again(few) is None


async def status_of(state: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    """What `epp predictor status` prints of it."""
    async with metrics_port({"state": state}, None) as url:
        assert await asyncio.to_thread(predictor, ["status", "--url", url]) == 0
    return capsys.readouterr().out


async def test_status_says_how_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    targets = {"ttft": {"version": 3, "samples": 900, "age_s": 12.0, "observations": 700}}
    predictions = {"ttft": {"count": 500, "coverage": 0.91, "median_error": 0.123}}
    last = {"ttft": "published: version 3", "tpot": "rejected: says no more than a constant"}
    training = {"is_running": True, "outcomes": {"published": 3, "rejected": 1}, "last": last}
    state = {"trained": True, "problem": "", "servers": None, "targets": targets, "predictions": predictions}

    assert await status_of(state | {"training": training}, capsys) == (
        "trained\n"
        "ttft: model 3 of 900 samples, 12 s old; "
        "of the last 500 predictions 91.0% within the interval, median error 12.3%\n"
        "tpot: no model; the last fit was rejected: says no more than a constant\n"
        "training process: runs; fits: 3 published, 1 rejected\n"
    )


async def test_status_says_which_servers_predict_and_how_well(capsys: pytest.CaptureFixture[str]) -> None:
    servers = {"http://a:8001": True, "http://b:8001": False}
    predictions = {"tpot": {"count": 81, "coverage": 0.9, "median_error": 0.1}}
    state = {"trained": False, "problem": "", "servers": servers, "targets": {}, "predictions": predictions}

    assert await status_of(state | {"training": None}, capsys) == (
        "http://a:8001: predicts\n"
        "http://b:8001: does not predict\n"
        "tpot: of the last 81 predictions 90.0% within the interval, median error 10.0%\n"
    )


async def test_a_plugin_that_predicts_nothing_has_no_such_status(capsys: pytest.CaptureFixture[str]) -> None:
    async with metrics_port({"state": {"endpoints": {}}}, None) as url:
        assert await asyncio.to_thread(predictor, ["status", "--url", url]) == 1

    assert "there is no predicted-latency-producer" in capsys.readouterr().err


async def test_observations_are_exported_and_judged(
    observed: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "out.csv"
    async with metrics_port(None, observed) as url:
        assert await asyncio.to_thread(predictor, ["export", "--url", url, "-o", str(path)]) == 0
        assert await asyncio.to_thread(predictor, ["eval", "--url", url, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)

    with path.open() as lines:
        assert len(list(csv.reader(lines))) == 3001
    assert [section["what"][:7] for section in told] == ["As serv", "Trained"]
    assert [[t["target"] for t in section["targets"]] for section in told] == [["ttft", "tpot"]] * 2


def test_figures_come_as_a_table(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predictor(["eval", str(exported), "--train-share", "0"]) == 0
    out = capsys.readouterr().out

    assert re.search(r"TTFT  all +1500 +\d+\.\d%", out)
    assert "Trained again" not in out
    assert all(f"s{n}" in out for n in range(1, 9))


def test_a_report_is_a_page_with_pictures(exported: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"

    assert predictor(["report", str(exported), "-o", str(page)]) == 0

    text = page.read_text()
    pictures = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(pictures) == 12  # three of each target, as served and trained again
    assert all(list(ET.fromstring(picture)) for picture in pictures)
    assert "nan" not in text.lower()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: expected a header"),
        ("a,b\n1,2\n", "missing: censored, endpoint"),
        ("HEAD\n1,2\n", "line 2: expected 8 fields, got 2"),
        ("HEAD\n1,e,other,1,1,1,1,0\n", "line 2: target: expected one of ttft, tpot, got 'other'"),
        ("HEAD\n1,e,ttft,x,1,1,1,0\n", "line 2: could not convert string to float: 'x'"),
        ("HEAD\ninf,e,ttft,1,1,1,1,0\n", "line 2: time_s: expected a finite number, got inf"),
        ("HEAD\n1,e,ttft,nan,1,1,1,0\n", "line 2: observed_ms: expected a number from 0.001 to 3.6e+06, got nan"),
        ("HEAD\n1,e,tpot,1e300,1,1,1,0\n", "line 2: observed_ms: expected a number from 0.001 to 600000, got 1e+300"),
        ("HEAD\n1,e,ttft,1,0,1,1,0\n", "line 2: predicted_ms: expected a number above 0, or nan, got 0"),
        ("HEAD\n" + 200_000 * "1", "line 2: field larger than field limit"),
        ("HEAD\n\udcff", "can't decode byte 0xff"),
        ("HEAD\n", "no latency has been observed"),
    ],
)
def test_files_that_cannot_be_used(text: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "in.csv"
    text = text.replace("HEAD", "time_s,endpoint,target,observed_ms,predicted_ms,low_ms,high_ms,censored")
    path.write_text(text, errors="surrogateescape")

    assert predictor(["eval", str(path)]) == 1
    assert message in capsys.readouterr().err


def test_what_is_not_known_of_predictions_is_null_in_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Intervals are unknown where a server predicts and was not yet compared with what happens; features, where a column is."""
    path = tmp_path / "in.csv"
    head = "time_s,endpoint,target,observed_ms,predicted_ms,low_ms,high_ms,censored,input_token_length\n"
    path.write_text(head + "".join(f"{n},e,ttft,{20 + n},25,nan,nan,0,nan\n" for n in range(50)))

    assert predictor(["eval", str(path), "--json", "--train-share", "0"]) == 0

    overall = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)[0]["targets"][0]["overall"]
    assert (overall["count"], overall["coverage"]) == (50, None)
    assert overall["median_error"] > 0


def test_a_file_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predictor(["report", str(tmp_path / "none.csv")]) == 1
    assert "none.csv" in capsys.readouterr().err


async def test_an_epp_without_a_predictor_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    async with metrics_port(None, None) as url:
        for command in ("status", "export", "eval"):
            assert await asyncio.to_thread(predictor, [command, "--url", url]) == 1
    err = capsys.readouterr().err

    assert "there is no predicted-latency-producer 'predicted-latency-producer'" in err
    assert "no plugin 'predicted-latency-producer' hands out a file" in err
    assert await asyncio.to_thread(predictor, ["status", "--url", url]) == 1
    assert "does not answer" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["other"], ["eval", "--train-share", "1"], ["status", "--url", "localhost"]])
def test_mistakes_on_the_command_line_have_status_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        predictor(arguments)

    assert caught.value.code == 2
