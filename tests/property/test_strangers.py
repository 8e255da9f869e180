"""Requests of others are told from our own by pages that are read at any moment, and never invented."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epp.api import IN_FLIGHT_REQUESTS, METRICS_UPDATED_S, RUNNING_REQUESTS, WAITING_REQUESTS
from epp_plugins.strangers import Strangers
from tests.support.plugins import make_fleet

STEPS = (
    "decide",
    "send",
    "arrives",
    "runs",
    "token",
    "ends",
    "ended",
    "other comes",
    "other runs",
    "other goes",
    "page",
)


class World:
    """One endpoint. Of our requests we know when they are sent, show a token and have ended; the endpoint is in between."""

    def __init__(self) -> None:
        self.fleet = make_fleet(1)
        self.strangers = Strangers(self.fleet.capacity)
        self.now_s = 0.0
        self.on_the_way = self.waits = self.runs = self.unseen = self.done = self.unread = 0
        self.others_wait = self.others_run = 0
        self.at_page = (0, 0)

    def step(self, name: str) -> None:
        self.now_s += 1.0
        columns = self.fleet.columns
        match name:
            case "decide":
                self.look()
            case "send":
                self.look()
                self.unread += 1
                self.strangers.sent(self.fleet, 0, self.unread)
                self.on_the_way += 1
                columns[IN_FLIGHT_REQUESTS][0] += 1
            case "arrives" if self.on_the_way:
                self.on_the_way -= 1
                self.waits += 1
            case "runs" if self.waits:
                self.waits -= 1
                self.runs += 1
                self.unseen += 1
            case "token" if self.unseen:
                self.unseen -= 1
                self.unread -= 1
            case "ends" if self.runs > self.unseen:
                self.runs -= 1
                self.done += 1
            case "ended" if self.done:
                self.done -= 1
                columns[IN_FLIGHT_REQUESTS][0] -= 1
            case "other comes":
                self.others_wait += 1
            case "other runs" if self.others_wait:
                self.others_wait -= 1
                self.others_run += 1
            case "other goes" if self.others_run:
                self.others_run -= 1
            case "page":
                columns[WAITING_REQUESTS][0] = self.waits + self.others_wait
                columns[RUNNING_REQUESTS][0] = self.runs + self.others_run
                columns[METRICS_UPDATED_S][0] = self.now_s
                self.at_page = (self.others_wait + self.others_run, self.others_wait)

    def look(self) -> None:
        own_waiting = self.fleet.columns[IN_FLIGHT_REQUESTS] * 0.0
        own_waiting[0] = self.unread
        self.strangers.look(self.fleet, own_waiting)


@given(steps=st.lists(st.sampled_from(STEPS), max_size=200))
@settings(max_examples=300)
def test_there_are_never_more_strangers_than_there_were_when_the_page_was_read(steps: list[str]) -> None:
    world = World()
    for step in steps:
        world.step(step)
        if step in ("decide", "send"):
            requests, waiting = world.at_page
            assert world.strangers.requests[0] <= requests
            assert world.strangers.waiting[0] <= waiting


@given(steps=st.lists(st.sampled_from([step for step in STEPS if "other" not in step]), max_size=200))
@settings(max_examples=200)
def test_a_picker_that_is_alone_sees_no_strangers(steps: list[str]) -> None:
    world = World()
    for step in steps:
        world.step(step)

    assert not world.strangers.any


@pytest.mark.parametrize("own", [0, 4])
def test_others_are_seen_where_we_have_been_quiet_for_two_pages(own: int) -> None:
    world = World()
    for step in ["send", "arrives", "runs", "token"] * own + ["other comes"] * 3 + ["other runs"]:
        world.step(step)
    for step in ["page", "decide"] * 3:
        world.step(step)

    assert (world.strangers.requests[0], world.strangers.waiting[0]) == (3, 2)


def test_what_a_page_does_not_tell_is_nobody() -> None:
    world = World()
    world.step("other comes")
    world.step("page")
    world.fleet.columns[WAITING_REQUESTS][0] = float("nan")
    world.step("decide")

    assert not world.strangers.any


def test_an_endpoint_that_takes_the_row_begins_without() -> None:
    world = World()
    for step in ("other comes", "page", "decide"):
        world.step(step)
    world.strangers.forget(0)

    assert world.strangers.requests[0] == 0


def test_there_is_room_for_a_fleet_that_has_grown() -> None:
    strangers = Strangers(4)
    strangers.fit(40)
    fleet = make_fleet(40)
    fleet.columns[RUNNING_REQUESTS][39], fleet.columns[METRICS_UPDATED_S][39] = 2, 1.0
    strangers.fit(fleet.capacity)
    strangers.look(fleet, fleet.columns[IN_FLIGHT_REQUESTS])

    assert strangers.requests[39] == 2
