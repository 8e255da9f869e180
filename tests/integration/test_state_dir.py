"""What plugins have learned is on disk when the process comes back, and whatever else lies there does no harm."""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from epp.api import PREFIX_MATCH, DataProducer, Handle, Plugin, PrefixMatch, StateKeeper, data_key
from epp.app import Service, StartError
from epp.config import Loaded, load_default, load_text
from epp.state import StateDir
from epp.state.file import Header, Writer
from tests.support.configs import HEAD
from tests.support.http_fakes import eventually, page, serving
from tests.support.loopback import loopback_options
from tests.support.plugins import make_handle
from tests.support.reloading import Steps

PROMPT = "the same words again " * 100
IDLE = b'vllm:num_requests_waiting{model_name="m"} 0\n'


class Notebook(StateKeeper):
    """Keeps the pieces it is given."""

    type = "notebook"
    state_version = 2

    def __init__(self, params: Any, handle: Handle) -> None:
        super().__init__(params, handle)
        self.pieces: list[bytes] = []
        self.loaded: tuple[bytes, int] | None = None

    def save_state(self) -> Iterator[bytes]:
        yield from self.pieces

    def load_state(self, state: memoryview, *, version: int) -> None:
        if bytes(state) == b"nonsense":
            raise ValueError("nonsense")
        self.loaded = (bytes(state), version)


def notebook(*pieces: bytes, name: str = "it") -> Notebook:
    made = Notebook(None, make_handle(name=name))
    made.pieces = list(pieces)
    return made


def modes(directory: Path) -> dict[str, int]:
    """Its files with their permissions."""
    return {file.name: file.stat().st_mode & 0o777 for file in directory.iterdir()}


async def loaded(directory: Path, plugin: Notebook) -> StateDir:
    state_dir = StateDir(directory)
    await state_dir.load([plugin])
    return state_dir


async def test_what_was_saved_is_loaded_in_one(tmp_path: Path) -> None:
    pieces = [random.Random(i).randbytes(700_000) for i in range(4)]
    await StateDir(tmp_path).save([notebook(*pieces, name="a/b")])
    after = notebook(name="a/b")

    state_dir = await loaded(tmp_path, after)

    assert after.loaded == (b"".join(pieces), 2)
    assert state_dir.problems == ()
    assert modes(tmp_path) == {"a%2Fb.state": 0o600}


async def test_the_loop_runs_between_the_pieces(tmp_path: Path) -> None:
    turns = 0

    class Watching(Notebook):
        def save_state(self) -> Iterator[bytes]:
            for _ in range(50):
                self.seen = turns
                yield b"x"

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    plugin = Watching(None, make_handle())
    task = asyncio.get_running_loop().create_task(turn())
    await StateDir(tmp_path).save([plugin])
    task.cancel()

    assert plugin.seen >= 49


def file_of(header: Header, state: bytes) -> bytes:
    writer = Writer()
    return b"".join([writer.begin(header), writer.add(state), writer.end()])


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"not ours", "is no state file of llm-epp; it is ignored"),
        (file_of(Header("it", "other", 1), b""), "is the state of a other, not of a notebook"),
        (file_of(Header("it", "notebook", 3), b""), "is of version 3; this notebook reads versions up to 2"),
        (file_of(Header("it", "notebook", 1), b"nonsense"), "is not understood by it: ValueError: nonsense"),
        (file_of(Header("it", "notebook", 1), b"fine")[:-3], "is damaged"),
    ],
)
async def test_a_file_that_cannot_be_used_is_told_once_and_written_anew(
    tmp_path: Path, content: bytes, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "it.state").write_bytes(content)
    plugin = notebook(b"fresh")

    state_dir = await loaded(tmp_path, plugin)

    assert plugin.loaded is None
    assert why in state_dir.problems[0]
    assert why in caplog.text
    await state_dir.save([plugin])
    assert state_dir.problems == ()
    await state_dir.load([plugin])
    assert plugin.loaded == (b"fresh", 2)


async def test_a_plugin_that_cannot_save_leaves_the_last_file_alone(tmp_path: Path) -> None:
    class Broken(Notebook):
        def save_state(self) -> Iterator[bytes]:
            yield b"half"
            raise RuntimeError("out of ink")

    await StateDir(tmp_path).save([notebook(b"good")])
    state_dir = StateDir(tmp_path)
    await state_dir.save([Broken(None, make_handle())])

    after = notebook()
    assert state_dir.problems == ("the state of it cannot be saved: RuntimeError: out of ink",)
    await state_dir.load([after])
    assert after.loaded == (b"good", 2)
    assert len(modes(tmp_path)) == 1


async def test_a_directory_that_went_away_is_told_and_forgiven(tmp_path: Path) -> None:
    state_dir = StateDir(tmp_path / "there")
    await state_dir.save([notebook(b"x")])
    assert "cannot be written: No such file or directory" in state_dir.problems[0]

    state_dir.prepare()
    await state_dir.save([notebook(b"x")])

    assert state_dir.problems == ()


def test_what_a_killed_process_left_half_written_is_cleared_away(tmp_path: Path) -> None:
    old, fresh = tmp_path / ".it.state.1", tmp_path / ".it.state.2"
    for file in (old, fresh):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))

    StateDir(tmp_path).prepare()

    assert list(tmp_path.iterdir()) == [fresh]


# --- the service -----------------------------------------------------------------------------------------------------------


NOBODY = ("127.0.0.1:8000", "127.0.0.1:8001")


def service(
    state_dir: Path, *, config: Loaded | None = None, every_s: float = 60.0, endpoints: tuple[str, ...] = NOBODY
) -> Service:
    options = loopback_options(
        endpoints=endpoints,
        state_dir=str(state_dir),
        state_save_interval_s=every_s,
    )
    return Service(options, config or load_default())


def ask(made: Service) -> tuple[str, int]:
    """Who gets the prompt, and how many of its blocks he is believed to hold."""
    steps = Steps(made.director, PROMPT)
    steps.ask()
    steps.decide()
    request = steps.exchange.request
    assert request is not None
    assert request.result is not None
    target = request.result.target
    match: PrefixMatch = request.data[data_key(PREFIX_MATCH)]
    steps.end()
    return target.host_port, int(match.matched_blocks[target.row])


async def pages_are_read(made: Service) -> None:
    """Return when something is known of every server: one of which nothing is known is avoided, prefix or not."""
    [collector] = made._collecting.collectors
    await eventually(lambda: all(status.scrapes for status in collector.statuses()))


async def test_a_restart_keeps_the_affinity(tmp_path: Path) -> None:
    # Servers that answer: one that does not is left out as soon as that has been found.
    async with serving(page(IDLE)) as one, serving(page(IDLE)) as other:
        endpoints = tuple(f"127.0.0.1:{server.port}" for server in (one, other))
        before = service(tmp_path / "state", endpoints=endpoints)
        await before.start()
        chosen, first = ask(before)
        await before.stop()
        after = service(tmp_path / "state", endpoints=endpoints)
        await after.start()
        try:
            await pages_are_read(after)
            assert first == 0
            assert ask(after) == (chosen, 8)
        finally:
            await after.stop()


async def test_it_is_saved_now_and_then(tmp_path: Path) -> None:
    made = service(tmp_path, every_s=0.01)
    await made.start()
    try:
        await eventually(lambda: (tmp_path / "approx-prefix-cache-producer.state").exists())
        empty = (tmp_path / "approx-prefix-cache-producer.state").stat().st_size
        ask(made)
        await eventually(lambda: (tmp_path / "approx-prefix-cache-producer.state").stat().st_size > empty)
    finally:
        await made.stop()


async def test_a_damaged_file_is_on_the_readiness_page_and_the_service_starts(tmp_path: Path) -> None:
    (tmp_path / "approx-prefix-cache-producer.state").write_bytes(b"llm-epp state 1\n{}\n")
    made = service(tmp_path)
    await made.start()
    try:
        assert "state: " in made.notes()[0]
        assert "is damaged" in made.notes()[0]
        assert ask(made)[1] == 0
    finally:
        await made.stop()


async def test_a_place_where_nothing_can_be_written_stops_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    made = service(tmp_path / "file" / "state")
    with pytest.raises(StartError, match=r"--state-dir .*: cannot write there: Not a directory"):
        await made.start()
    await made.stop()


async def test_other_parameters_take_over_what_was_learned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def config(parameters: str) -> Loaded:
        return load_text(
            f"{HEAD}plugins:\n- {{type: approx-prefix-cache-producer, parameters: {{{parameters}}}}}\n"
            "- {type: prefix-cache-scorer}\n",
            "epp.yaml",
        )

    caplog.set_level(logging.INFO)
    made = service(tmp_path, config=config(""))
    await made.start()
    try:
        chosen, _ = ask(made)
        producer = made.director.pipeline.plugins["approx-prefix-cache-producer"]
        assert isinstance(producer, DataProducer)

        assert made._reloader.apply(config("lruCapacityPerServer: 100"))

        changed: Plugin = made.director.pipeline.plugins["approx-prefix-cache-producer"]
        assert changed is not producer
        assert ask(made) == (chosen, 8)
    finally:
        await made.stop()
