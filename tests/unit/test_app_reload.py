"""What a changed configuration keeps, changes, and says."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator

import msgspec
import pytest

from epp.api import Background, Handle
from epp.data.endpoint_spec import EndpointSpec
from tests.support.configs import HEAD
from tests.support.reloading import Reloading, Stamp, Steps, stamped
from tests.support.service import in_flight


def counted(made: Reloading, result: str) -> str:
    page, _ = made.director.recorder.render()
    start = f'llm_epp_config_reloads_total{{result="{result}"}} '
    (line,) = [line for line in page.decode().splitlines() if line.startswith(start)]
    return line.removeprefix(start)


def stamp(made: Reloading) -> Stamp:
    found = made.plugin("stamp")
    assert isinstance(found, Stamp)
    return found


async def test_unchanged_plugins_go_on_and_changed_ones_are_made_anew() -> None:
    made = Reloading(stamped(1))
    before = dict(made.director.pipeline.plugins)

    assert made.reload(stamped(2))

    after = made.director.pipeline.plugins
    assert {name for name in after if after[name] is not before.get(name)} == {"stamp", "inflight-load-producer"}
    assert counted(made, "applied") == "1.0"


async def test_the_prefix_index_survives() -> None:
    made = Reloading(stamped(1))
    prompt = "the same words again " * 100
    Steps(made.director, prompt).run()

    made.reload(stamped(2))

    again = Steps(made.director, prompt)
    again.ask()
    again.decide()
    again.end()
    record, *_ = made.director.request_log.recent()
    assert record["prefix_blocks"]


@pytest.mark.parametrize(
    ("config", "problem"),
    [
        ("plugins: [", "epp.yaml:2:1: not valid YAML"),
        (stamped(2, "- {type: no-such-type}\n"), "epp.yaml:8:10: plugins[4].type: "),
        (f"{HEAD}plugins:\n- {{type: stamp, parameters: {{generation: x}}}}\n", "epp.yaml:4:42: plugins[0].parameters"),
        ("", "the file is empty"),
        ("# nothing\n", "the file is empty"),
    ],
)
async def test_a_bad_configuration_changes_nothing_and_is_told(
    config: str, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = Reloading(stamped(1))
    before = made.director.pipeline

    assert not made.reload(config)

    assert made.director.pipeline is before
    assert counted(made, "refused") == "1.0"
    assert made.reloader.notes()[0].startswith(f"configuration: {problem}")
    assert made.reloader.notes()[-1] == f"configuration: in force is the one with hash {made.config_hash}"
    assert problem in str(caplog.records[-1].fields)  # type: ignore[attr-defined]


async def test_a_good_configuration_after_a_bad_one_takes_the_notes_away() -> None:
    made = Reloading(stamped(1))
    made.reload("plugins: [")

    made.reload(stamped(1) + "# the same\n")

    assert made.reloader.notes() == []
    assert counted(made, "unchanged") == "1.0"


async def test_another_data_source_needs_a_restart() -> None:
    made = Reloading(stamped(1))
    models = "- {type: models-data-source}\n- {type: models-data-extractor}\n"
    source = "{pluginRef: models-data-source, extractors: [{pluginRef: models-data-extractor}]}"

    made.reload(f"{stamped(1, models)}dataLayer: {{sources: [{source}]}}\n")

    assert made.reloader.notes() == ["configuration: dataLayer.sources needs a restart to change"]


async def test_what_only_a_restart_changes_is_told_until_it_is_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    made = Reloading(stamped(1))

    made.reload(stamped(1, "- {type: metrics-data-source, parameters: {path: /other}}\n"))
    waiting = made.reloader.notes()
    made.reload(stamped(2, "- {type: metrics-data-source, parameters: {path: /other}}\n"))
    told = [r.getMessage() for r in caplog.records if "restart" in r.getMessage()]
    made.reload(stamped(3))

    assert waiting == ["configuration: metrics-data-source needs a restart to change"]
    assert told == ["the configuration changes metrics-data-source, which needs a restart"]
    assert made.reloader.notes() == []


async def test_a_new_plugin_is_told_of_endpoints_and_a_kept_one_not_again() -> None:
    made = Reloading(stamped(1))
    kept = stamp(made)

    made.reload(stamped(1, "- {type: stamp, name: second}\n"))

    assert stamp(made) is kept
    assert kept.known == ["s0", "s1"]
    assert made.plugin("second").known == ["s0", "s1"]  # type: ignore[attr-defined]


async def test_a_plugin_that_is_gone_hears_of_endpoints_until_its_last_request_has_ended() -> None:
    made = Reloading(stamped(1))
    old = stamp(made)
    last = Steps(made.director)
    last.ask()

    made.reload(stamped(2))
    await asyncio.sleep(0)  # what follows from a pipeline's end happens
    made.director.datastore.upsert(EndpointSpec("s2", "10.0.0.3", 8000))
    meanwhile = list(old.known)
    last.run()
    del last
    await asyncio.sleep(0)  # what follows from a pipeline's end happens
    made.director.datastore.upsert(EndpointSpec("s3", "10.0.0.4", 8000))

    assert meanwhile == ["s0", "s1", "s2"]
    assert old.known == meanwhile
    assert stamp(made).known == ["s0", "s1", "s2", "s3"]


class Worker(Background):
    """Notes when its work begins and ends."""

    type = "worker"

    class Params(msgspec.Struct, frozen=True):
        fails: bool = False

    def __init__(self, params: Params, handle: Handle) -> None:
        super().__init__(params, handle)
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")
        if self.params.fails:
            raise ValueError("broken")

    def stop(self) -> None:
        self.calls.append("stop")
        if self.params.fails:
            raise ValueError("broken")


def worker(made: Reloading) -> Worker:
    found = made.plugin("worker")
    assert isinstance(found, Worker)
    return found


async def test_background_work_goes_on_over_a_reload_and_ends_with_the_last_request_that_may_use_it() -> None:
    made = Reloading(stamped(1, "- {type: worker}\n"), Worker)
    made.reloader.start_background()
    work = worker(made)
    made.reload(stamped(2, "- {type: worker}\n"))
    kept = worker(made) is work
    last = Steps(made.director)
    last.ask()
    last.decide()

    made.reload(stamped(2))
    while_used = list(work.calls)
    last.end()
    del last
    gc.collect()
    await asyncio.sleep(0)

    assert (kept, while_used, work.calls) == (True, ["start"], ["start", "stop"])


async def test_background_work_of_a_new_plugin_begins_and_all_of_it_stops_with_the_service() -> None:
    made = Reloading(stamped(1), Worker)
    made.reloader.start_background()
    made.reload(stamped(1, "- {type: worker}\n"))
    work = worker(made)
    before = list(work.calls)

    made.reloader.stop_background()
    made.reloader.stop_background()

    assert (before, work.calls) == (["start"], ["start", "stop"])


async def test_background_work_that_fails_is_told_and_leaves_the_rest_alone(caplog: pytest.LogCaptureFixture) -> None:
    made = Reloading(stamped(1, "- {type: worker, parameters: {fails: true}}\n"), Worker)

    made.reloader.start_background()
    made.reloader.stop_background()

    assert worker(made).calls == ["start", "stop"]
    assert "does not start" in caplog.text
    assert "does not stop" in caplog.text


async def test_counts_of_a_request_end_on_the_producer_that_is_gone() -> None:
    made = Reloading(stamped(1))
    steps = Steps(made.director)
    steps.ask()
    steps.decide()
    during = in_flight(made.director)

    made.reload(f"{HEAD}plugins:\n- {{type: queue-scorer}}\n")
    steps.answer()
    steps.piece()
    steps.end()

    assert during > 1
    assert in_flight(made.director) == 0


async def test_the_record_of_a_request_names_the_configuration_that_decided() -> None:
    made = Reloading(stamped(1))
    before = made.config_hash
    first = Steps(made.director)
    first.ask()

    made.reload(stamped(2))
    first.run()
    Steps(made.director).run()

    assert [record["config"] for record in made.director.request_log.recent()] == [made.config_hash, before]
    assert before != made.config_hash


async def until(condition: Callable[[], bool]) -> None:
    for _ in range(5000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it did not come about")


async def test_a_plugin_that_is_gone_is_retired_after_its_last_request_and_a_kept_one_never() -> None:
    made = Reloading(stamped(1, "- {type: stamp, name: second}\n"))
    old, kept = stamp(made), made.plugin("second")
    last = Steps(made.director)
    last.ask()

    made.reload(stamped(2, "- {type: stamp, name: second}\n"))
    await asyncio.sleep(0)  # what follows from a pipeline's end happens
    before_the_end = old.given_up
    last.run()
    del last
    await until(lambda: old.given_up == 3)

    assert before_the_end == 0
    assert isinstance(kept, Stamp)
    assert (kept.given_up, stamp(made).given_up) == (0, 0)


class FailsToRetire(Stamp):
    type = "fails-to-retire"

    def retire(self) -> Iterator[None]:
        yield
        raise RuntimeError("no")


class HasNothingToRetire(Stamp):
    type = "has-nothing-to-retire"

    def retire(self) -> Iterator[None]:
        return None  # type: ignore[return-value]


async def test_a_plugin_that_fails_to_retire_is_told_and_holds_nothing_up() -> None:
    kinds = (FailsToRetire, HasNothingToRetire)
    made = Reloading(stamped(1, "".join(f"- {{type: {kind.type}}}\n" for kind in kinds)), *kinds)

    made.reload(stamped(2))

    def failures() -> int:
        page = made.director.recorder.render()[0].decode()
        return sum('llm_epp_plugin_errors_total{extension_point="Retire"' in line for line in page.splitlines())

    await until(lambda: failures() == 2)
    assert made.reload(stamped(3))
