from __future__ import annotations

import msgspec
import pytest

from epp_plugins.kv_events.cache import Told
from epp_plugins.kv_events.events import Batch, Cleared
from epp_plugins.kv_events.feed import Counts, Feed, Trust
from tests.support.plugins import Clock


class Log:
    """Notes which messages were applied, by their time; `clear` begins a new list."""

    def __init__(self) -> None:
        self.applied: list[float] = []
        self.clears = 0

    def apply(self, batch: Batch) -> Told:
        self.applied.append(batch.sent_s)
        if any(isinstance(event, Cleared) for event in batch.events):
            return Told.ALL
        return Told.THIS

    def clear(self) -> None:
        self.applied = []
        self.clears += 1


def payload(sent_s: float, *events: object) -> bytes:
    return msgspec.msgpack.encode([sent_s, list(events)])


class Bench:
    def __init__(self, *, can_replay: bool) -> None:
        self.log = Log()
        self.counts = Counts()
        self.clock = Clock()
        self.feed = Feed(self.log, can_replay=can_replay, clock=self.clock, counts=self.counts)

    def live(self, *numbers: int, epoch: int = 0) -> None:
        for number in numbers:
            self.feed.message(number, payload(epoch * 1000 + number))

    def replay(self, *numbers: int, epoch: int = 0) -> list[bool]:
        """Whether each message was taken; the replay stops at the first that is not, and else ends."""
        taken = []
        for number in numbers:
            taken.append(self.feed.replayed(number, payload(epoch * 1000 + number)))
            if not taken[-1]:
                return taken
        self.feed.replay_ended()
        return taken

    @property
    def state(self) -> tuple[Trust, int | None, list[float]]:
        return self.feed.trust, self.feed.wanted, self.log.applied


@pytest.fixture
def bench() -> Bench:
    bench = Bench(can_replay=True)
    bench.feed.connected()
    return bench


@pytest.fixture
def deaf() -> Bench:
    bench = Bench(can_replay=False)
    bench.feed.connected()
    return bench


def test_nothing_is_believed_without_a_connection() -> None:
    assert Bench(can_replay=True).state == (Trust.NONE, None, [])


def test_at_first_everything_is_asked_for(bench: Bench) -> None:
    assert bench.state == (Trust.NONE, 0, [])
    bench.replay(0, 1, 2)
    assert bench.state == (Trust.ALL, None, [0, 1, 2])


def test_an_engine_that_has_told_nothing_holds_nothing(bench: Bench) -> None:
    bench.replay()
    assert bench.state == (Trust.ALL, None, [])
    bench.live(0, 1)
    assert bench.state == (Trust.ALL, None, [0, 1])


def test_what_comes_during_a_replay_is_applied_after_it_and_once(bench: Bench) -> None:
    bench.live(2, 3, 4)
    bench.replay(0, 1, 2, 3)

    assert bench.state == (Trust.ALL, None, [0, 1, 2, 3, 4])
    assert bench.counts.duplicates == 2


def test_a_replay_whose_beginning_is_gone_is_a_part_of_the_truth(bench: Bench) -> None:
    """The engine keeps 10,000 messages; the Go EPP then never believes it again."""
    bench.replay(500, 501)

    assert bench.state == (Trust.SOME, None, [500, 501])
    bench.live(502)
    assert bench.state == (Trust.SOME, None, [500, 501, 502])


def test_a_cache_that_was_cleared_is_known_from_then_on(bench: Bench) -> None:
    bench.replay(500)
    bench.feed.message(501, payload(501, ["AllBlocksCleared"]))

    assert bench.feed.trust is Trust.ALL


def test_a_gap_is_asked_for_from_the_last_message_on(bench: Bench) -> None:
    bench.replay(0, 1)
    bench.live(4)
    asked = bench.feed.wanted, bench.feed.trust
    bench.replay(1, 2, 3, 4)

    assert asked == (1, Trust.NONE)
    assert bench.state == (Trust.ALL, None, [0, 1, 2, 3, 4])
    assert bench.counts.gaps == 1


def test_a_gap_that_the_engine_no_longer_keeps_costs_what_was_known(bench: Bench) -> None:
    bench.replay(0, 1)
    bench.live(40)
    bench.replay(38, 39, 40)

    assert bench.state == (Trust.SOME, None, [38, 39, 40])


def test_a_connection_that_is_gone_and_back_is_checked(bench: Bench) -> None:
    bench.replay(0, 1)
    bench.feed.disconnected()
    gone = bench.feed.trust
    bench.feed.connected()
    bench.replay(1, 2)

    assert gone is Trust.NONE
    assert bench.state == (Trust.ALL, None, [0, 1, 2])
    assert bench.log.clears == 0


def test_a_restart_is_found_where_the_numbers_go_on(bench: Bench) -> None:
    """The new engine's message has the number of the last one applied, and is another."""
    bench.replay(0, 1)
    bench.feed.disconnected()
    bench.feed.connected()

    assert bench.replay(1, 2, epoch=1)[0] is False
    assert bench.state == (Trust.NONE, 0, [])
    bench.replay(0, 1, 2, epoch=1)
    assert bench.state == (Trust.ALL, None, [1000, 1001, 1002])
    assert bench.counts.restarts == 1


def test_a_restart_is_found_where_the_new_engine_has_told_less(bench: Bench) -> None:
    bench.replay(0, 1, 2)
    bench.feed.disconnected()
    bench.feed.connected()
    bench.feed.replay_ended()

    assert bench.state == (Trust.NONE, 0, [])
    bench.replay(0, epoch=1)
    assert bench.state == (Trust.ALL, None, [1000])


def test_a_restart_is_found_by_a_number_that_comes_again_later(bench: Bench) -> None:
    bench.replay(0, 1, 2)
    bench.live(0, epoch=1)

    assert bench.state == (Trust.ALL, None, [1000])
    assert bench.counts.restarts == 1


def test_a_late_number_of_a_new_engine_asks_for_its_beginning(bench: Bench) -> None:
    bench.replay(0, 1, 2)
    bench.live(1, epoch=1)
    assert bench.feed.wanted == 0
    bench.replay(0, 1, epoch=1)

    assert bench.state == (Trust.ALL, None, [1000, 1001])


def test_a_replay_that_fails_at_first_leaves_what_comes_live(bench: Bench) -> None:
    bench.live(7)
    bench.feed.replay_failed()

    assert bench.state == (Trust.SOME, None, [7])


def test_a_replay_that_fails_after_a_gap_costs_what_was_known(bench: Bench) -> None:
    bench.replay(0, 1)
    bench.live(5)
    bench.feed.replay_failed()

    assert bench.state == (Trust.SOME, None, [5])


def test_a_replay_that_breaks_off_after_it_was_checked_keeps_what_it_brought(bench: Bench) -> None:
    bench.replay(0, 1)
    bench.live(4)
    bench.feed.replayed(1, payload(1))
    bench.feed.replayed(2, payload(2))
    bench.feed.replayed(3, payload(3))
    bench.feed.replay_failed()

    assert bench.state == (Trust.ALL, None, [0, 1, 2, 3, 4])


def test_without_replays_the_beginning_is_known_only_from_number_0(deaf: Bench) -> None:
    deaf.live(3)
    late = deaf.feed.trust
    fresh = Bench(can_replay=False)
    fresh.feed.connected()
    fresh.live(0)

    assert (late, fresh.feed.trust) == (Trust.SOME, Trust.ALL)


def test_without_replays_a_gap_costs_what_was_known(deaf: Bench) -> None:
    deaf.live(0, 1, 5)

    assert deaf.state == (Trust.SOME, None, [5])


def test_without_replays_a_new_connection_is_believed_when_the_numbers_go_on(deaf: Bench) -> None:
    deaf.live(0, 1)
    deaf.feed.disconnected()
    deaf.feed.connected()
    before = deaf.feed.trust
    deaf.live(2)

    assert before is Trust.NONE
    assert deaf.state == (Trust.ALL, None, [0, 1, 2])


def test_without_replays_a_number_that_comes_again_after_a_new_connection_is_a_restart(deaf: Bench) -> None:
    """Whatever its time is: the new engine's clock may be behind."""
    deaf.live(0, 1)
    deaf.feed.disconnected()
    deaf.feed.connected()
    deaf.feed.message(0, payload(-5.0))

    assert deaf.state == (Trust.ALL, None, [-5.0])


def test_a_message_that_cannot_be_read_costs_what_was_known(deaf: Bench) -> None:
    """Nobody knows which blocks it said were dropped."""
    deaf.live(0, 1)
    deaf.feed.message(2, b"\xc1")
    deaf.live(3)

    assert deaf.state == (Trust.SOME, None, [3])
    assert deaf.counts.malformed == 1


def test_too_many_messages_during_a_replay_become_a_gap(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epp_plugins.kv_events.feed.MOST_KEPT", 2)
    bench.live(1, 2, 3, 4)
    bench.replay(0)
    bench.live(5)
    assert bench.feed.wanted == 2
    bench.replay(2, 3, 4, 5)

    assert bench.state == (Trust.ALL, None, [0, 1, 2, 3, 4, 5])


def test_delay_is_what_messages_take_beyond_the_quickest_of_late(deaf: Bench) -> None:
    """Clocks of two machines need not agree."""
    deaf.clock.now = 1000.0
    deaf.feed.message(0, payload(5_000.0))
    deaf.clock.now = 1003.5
    deaf.feed.message(1, payload(5_001.0))

    assert deaf.feed.delay_s == pytest.approx(2.5)


def test_a_clock_that_was_set_back_is_forgiven_within_two_minutes(deaf: Bench) -> None:
    delays = []
    for i, back_s in enumerate((0.0, 0.0, 3600.0, 3600.0, 3600.0)):
        deaf.clock.now = 1000.0 + 61.0 * i
        deaf.feed.message(i, payload(deaf.clock.now - back_s))
        delays.append(deaf.feed.delay_s)

    assert delays == [0, 0, 3600, 0, 0]
