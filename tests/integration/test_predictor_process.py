"""The training process: learns beside its owner, and survives crash, kill -9, hanging and poison."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from epp_predictor import Predictor, ProcessSettings, Snapshot, TrainerSettings, TrainingProcess
from epp_predictor.fitting import Recipe
from epp_predictor.messages import put_snapshot
from epp_predictor.samples import OBSERVED
from tests.support.latency_world import draw
from tests.support.processes import has_ended
from tests.unit.predictor.test_trainer import drawn

# Another process imports XGBoost, which takes a second, or twenty on a busy machine; here and there one after the other.
pytestmark = pytest.mark.timeout(400)

QUICK = ProcessSettings(
    trainer=TrainerSettings(interval_s=0.05, fewest_new=1, recipe=Recipe(trees=10)), tick_s=0.02, capacity=4096
)


class Clock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def training(clock: Clock) -> Iterator[TrainingProcess]:
    made = TrainingProcess(QUICK, clock=clock)
    yield made
    made.close()


def until(condition: Callable[[], bool], training: TrainingProcess, *, limit_s: float = 200.0) -> list[Snapshot]:
    """Poll as an owner does until the condition holds. Returns what was published meanwhile."""
    published = []
    end_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < end_s, training.status
        if (snapshot := training.poll()) is not None:
            published.append(snapshot)
        time.sleep(0.01)
    return published


def has_fitted(training: TrainingProcess, before: int) -> Callable[[], bool]:
    return lambda: training.status.fits > before


def has_fitted_as_asked(training: TrainingProcess, before: int) -> Callable[[], bool]:
    return lambda: training.status.fits > before and training.status.last_reason == "asked"


def send(training: TrainingProcess, rows: np.ndarray) -> None:
    now_s = time.time()
    for number, row in enumerate(rows):
        row[0] = now_s - 0.001 * (len(rows) - number)
        training.send(row)


def test_samples_go_in_and_a_model_comes_out(training: TrainingProcess) -> None:
    predictor = Predictor(on_sample=training.send)
    requests = draw(1500, np.random.default_rng(0))
    prediction = predictor.predict(requests.features, requests.endpoints)
    for i in range(1500):
        predictor.observe(prediction.keep(i), ttft_ms=requests.ttft_ms[i], tpot_ms=requests.tpot_ms[i])
    training.start()  # not before: it would fit as soon as some of them have come

    first, *_ = until(lambda: training.status.outcomes.get("published", 0) >= 2, training)
    predictor.publish(first)

    asked = draw(500, np.random.default_rng(1))
    ttft = predictor.predict(asked.features, asked.endpoints).ttft
    assert ttft is not None
    assert np.median(np.abs(ttft.ms / asked.true_ttft_ms - 1)) < 0.15


def test_it_runs_nicely_and_on_one_thread(training: TrainingProcess) -> None:
    training.start()
    send(training, drawn(600, 0))
    until(lambda: training.status.fits > 0, training)

    stat = Path(f"/proc/{training.status.pid}/stat").read_text().rsplit(")", 1)[1].split()
    assert int(stat[16]) == os.nice(0) + 10  # proc(5): field 19, niceness
    assert int(stat[17]) == 1  # field 20, threads


def test_its_owner_never_imports_xgboost() -> None:
    code = "import sys, epp_predictor; sys.exit('xgboost' in sys.modules or 'scipy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV], ids=lambda s: s.name)
def test_a_killed_process_comes_back_with_the_samples(
    training: TrainingProcess, clock: Clock, how: signal.Signals
) -> None:
    training.start()
    send(training, drawn(800, 0))
    until(lambda: training.status.fits > 0, training)
    first = training.status.pid

    os.kill(first, how)
    until(lambda: not training.status.is_running, training)
    clock.now_s += 1
    send(training, drawn(1, 1))
    fits = training.status.fits
    until(lambda: training.status.fits > fits, training)

    assert training.status.pid != first
    assert (training.status.restarts, training.status.outcomes["died"]) == (1, 1)
    assert training.status.samples >= 800


def test_samples_that_were_flushed_do_not_come_back_with_the_next_process(
    training: TrainingProcess, clock: Clock
) -> None:
    """They are still in the memory that it reads."""
    training.start()
    send(training, drawn(800, 0))
    until(lambda: training.status.fits > 0, training)

    training.flush()
    os.kill(training.status.pid, signal.SIGKILL)
    until(lambda: not training.status.is_running, training)
    clock.now_s += 1
    send(training, drawn(150, 1))
    fits = training.status.fits
    until(lambda: training.status.fits > fits, training)

    assert training.status.samples <= 150


def test_a_restarted_process_still_has_to_beat_the_model_in_use(training: TrainingProcess, clock: Clock) -> None:
    send(training, drawn(2000, 0))
    training.start()
    (published,) = until(lambda: training.status.fits > 0, training)
    os.kill(training.status.pid, signal.SIGKILL)
    until(lambda: not training.status.is_running, training)
    clock.now_s += 1

    send(training, drawn(1, 1))
    fits = training.status.fits
    later = until(lambda: training.status.fits > fits, training)

    # The same samples again: either nothing beats the model, or it counts on from its version.
    assert all(s.targets["ttft"].version >= published.targets["ttft"].version for s in later)
    error_in_use = training.status.last["ttft"].error_in_use
    assert error_in_use is not None
    assert error_in_use < 0.3


def test_dying_again_and_again_waits_longer_and_leaves_the_samples_out(training: TrainingProcess, clock: Clock) -> None:
    training.start()
    send(training, drawn(500, 0))
    waits = []
    for _ in range(3):
        os.kill(training.status.pid, signal.SIGKILL)
        until(lambda: not training.status.is_running, training)
        before_s = clock.now_s

        def restarted() -> bool:
            clock.now_s += 0.05
            return training.status.is_running

        until(restarted, training)
        waits.append(clock.now_s - before_s)

    assert waits[0] < waits[1] < waits[2]
    # Two early deaths: what was sent before the third start is not read again.
    fits = training.status.fits  # of a process that was quicker than its end
    send(training, drawn(150, 1))
    until(has_fitted(training, fits), training)
    assert training.status.samples <= 150


def test_a_fit_that_never_ends_is_ended(clock: Clock) -> None:
    endless = ProcessSettings(trainer=TrainerSettings(recipe=Recipe(trees=10_000_000)), tick_s=0.02, fit_limit_s=5.0)
    training = TrainingProcess(endless, clock=clock)
    try:
        training.start()
        send(training, drawn(3000, 0))
        until(lambda: training._fitting_since_s is not None, training)
        pid = training.status.pid
        clock.now_s += 6

        until(lambda: not training.status.is_running, training)

        assert training.status.outcomes == {"died": 1}
        assert not Path(f"/proc/{pid}").exists()
    finally:
        training.close()


def test_poison_keeps_the_model(training: TrainingProcess) -> None:
    predictor = Predictor()
    send(training, drawn(2000, 0))
    training.start()
    for snapshot in until(lambda: training.status.outcomes.get("published", 0) >= 2, training):
        predictor.publish(snapshot)

    for value in (np.nan, -5.0, 1e300, 10.0):
        rows = drawn(900, 2)
        rows[:, [OBSERVED["ttft"], OBSERVED["tpot"]]] = value
        fits = training.status.fits
        send(training, rows)
        training.fit_now()
        # A fit that sees few of the bad rows yet may well learn from the good ones; the one that was asked for sees all.
        for snapshot in until(has_fitted_as_asked(training, fits), training):
            predictor.publish(snapshot)

    asked = draw(500, np.random.default_rng(1))
    prediction = predictor.predict(asked.features, asked.endpoints)
    assert prediction.ttft is not None
    assert prediction.tpot is not None
    assert np.median(np.abs(prediction.ttft.ms / asked.true_ttft_ms - 1)) < 0.15
    assert np.median(np.abs(prediction.tpot.ms / asked.true_tpot_ms - 1)) < 0.15
    assert training.status.refused == 2700
    assert training.status.is_running


def test_garbage_in_the_outbox_is_not_published(training: TrainingProcess, caplog: pytest.LogCaptureFixture) -> None:
    send(training, drawn(600, 0))
    training.start()
    # What the process has published is damaged in the memory before its owner, which hears of it, looks there.
    process = training._process
    assert process is not None
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    os.set_blocking(pipe, True)
    while b'"fitted"' not in training._said or not training._said.endswith(b"\n"):
        said = os.read(pipe, 65536)
        assert said, "it has ended"
        training._said += said
    os.set_blocking(pipe, False)
    put_snapshot(training._memory, b"garbage")

    assert training.poll() is None
    assert "cannot be used" in caplog.text


def test_when_its_owner_is_killed_it_ends(tmp_path: Path) -> None:
    code = (
        "import time; from epp_predictor import TrainingProcess\n"
        "t = TrainingProcess(); t.start(); print(t.status.pid, flush=True); time.sleep(600)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())

    owner.kill()
    owner.wait()

    end_s = time.monotonic() + 200
    while not has_ended(pid):
        assert time.monotonic() < end_s
        time.sleep(0.01)
    owner.stdout.close()


def test_closing_ends_it_and_may_be_done_twice(training: TrainingProcess) -> None:
    training.start()
    pid = training.status.pid

    training.close()
    training.close()

    assert not Path(f"/proc/{pid}").exists()
    assert training.poll() is None
    training.send(drawn(1, 0)[0])  # late samples harm nobody


def test_it_is_started_once(training: TrainingProcess) -> None:
    training.start()

    with pytest.raises(RuntimeError, match="started once"):
        training.start()
