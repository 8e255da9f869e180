"""The command `epp-predictor`."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from epp_predictor.cli import main
from epp_predictor.servers.variables import PREDICTION, TRAINING, Variable
from tests.support.predictor_servers import ROW
from tests.support.processes import children

COMMAND = Path(sys.executable).with_name("epp-predictor")


@contextmanager
def running(*arguments: str, folder: Path, **variables: str) -> Iterator[tuple[str, int]]:
    """The URL of a server that the command has started, and its process."""
    paths = {f"{p}_{t}_MODEL_PATH": str(folder / f"{p}-{t}") for p in ("LATENCY", "LOCAL") for t in ("TTFT", "TPOT")}
    process = subprocess.Popen(
        [COMMAND, *arguments, "--host", "127.0.0.1", "--port", "0"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **paths, **variables},
    )
    try:
        assert process.stdout is not None
        found = re.fullmatch(
            r"(?:training|prediction) server on (http://127\.0\.0\.1:\d+)\n", process.stdout.readline()
        )
        assert found is not None
        yield found[1], process.pid
        process.send_signal(signal.SIGTERM)
        assert process.wait(100) in (0, -signal.SIGTERM)
    finally:
        process.kill()
        process.communicate()


def ask(url: str, body: object = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=100) as response:
        answer: dict[str, object] = json.loads(response.read())
        return answer


@pytest.mark.timeout(400)
def test_a_prediction_server_with_two_processes_follows_a_training_server(tmp_path: Path) -> None:
    with running("train", folder=tmp_path) as (trainer, _):
        url = {"TRAINING_SERVER_URL": trainer, "MODEL_SYNC_INTERVAL_SEC": "0.05"}
        with running("serve", "--workers", "2", folder=tmp_path, **url) as (predictor, _):
            asks = [ask(f"{trainer}/predict", ROW)["ttft_ms"]]
            while not ask(f"{predictor}/status")["is_ready"]:
                time.sleep(0.02)
            asks.append(ask(f"{predictor}/reload", {})["loaded"])

    assert asks == [10.0, True]


def test_a_process_that_is_busy_for_some_seconds_is_not_replaced(tmp_path: Path) -> None:
    with running("serve", "--workers", "2", folder=tmp_path) as (url, pid):
        ask(f"{url}/status")
        before = children(pid)
        for worker in before:
            os.kill(worker, signal.SIGSTOP)
        time.sleep(7)  # longer than uvicorn waits unless told otherwise
        for worker in before:
            os.kill(worker, signal.SIGCONT)
        ask(f"{url}/status")

        assert sorted(children(pid)) == sorted(before)


@pytest.mark.parametrize("table", [TRAINING, PREDICTION], ids=["train", "serve"])
def test_help_lists_every_variable(table: tuple[Variable, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train" if table is TRAINING else "serve", "--help"])

    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert [v.name for v in table if f"  {v.name}\n" not in text] == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("LATENCY_QUANTILE_ALPHA", "1", "expected a number from 0 to 1, both exclusive, got '1'"),
        ("LATENCY_MODEL_TYPE", "lightgbm", "expected one of xgboost, bayesian_ridge, got 'lightgbm'"),
        ("LATENCY_ENABLE_ENCODER_FEATURES", "maybe", "expected true or false, got 'maybe'"),
        ("PREDICT_PORT", "99999", "expected a whole number from 0 to 65535, got '99999'"),
        ("HTTP_TIMEOUT", "soon", "expected a number, got 'soon'"),
        ("TRAINING_SERVER_URL", "training", "expected a URL that begins with http:// or https://, got 'training'"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, value)

    assert main(["serve"]) == 2
    assert capsys.readouterr().err == f"epp-predictor: {name}: {message}\n"


def test_a_port_in_use_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    from epp_predictor.servers.listening import listen

    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]

        status = main(["train", "--host", "127.0.0.1", "--port", str(port)])

    assert status == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [[], ["predict"], ["serve", "--workers", "0"], ["train", "--port", "x"]], ids=str)
def test_a_wrong_command_line_is_status_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(wrong)

    assert stopped.value.code == 2
    assert "usage: epp-predictor" in capsys.readouterr().err
