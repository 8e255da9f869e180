"""The gate before the metrics port, with an authority that answers when the test says."""

from __future__ import annotations

import asyncio

import pytest

from epp.discovery.kubernetes.reviews import User
from epp.server import access
from epp.server.access import AccessGate, Verdict, bearer_token
from tests.support.plugins import Clock


class Authority:
    """Knows `users` by token, and who of them has the right. `hold`: answers wait for `release`."""

    def __init__(self) -> None:
        self.users = {"scraper": User("prometheus"), "guest": User("guest")}
        self.allowed = {"prometheus"}
        self.asked: list[str] = []
        self.down = False
        self.release = asyncio.Event()
        self.release.set()

    async def authenticate(self, token: str) -> User | None:
        self.asked.append(token)
        await self.release.wait()
        if self.down:
            raise ConnectionError("down")
        return self.users.get(token)

    async def allows(self, user: User, path: str) -> bool:
        self.asked.append(f"{user.name} {path}")
        if self.down:
            raise ConnectionError("down")
        return user.name in self.allowed


class Gate:
    def __init__(self) -> None:
        self.clock = Clock()
        self.authority = Authority()
        self.gate = AccessGate(self.authority, clock=self.clock)

    async def check(self, token: str) -> Verdict:
        return (await self.gate.check(f"Bearer {token}"))[0]


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.mark.parametrize(
    ("header", "token"),
    [("Bearer abc", "abc"), ("bearer  abc", ""), ("BEARER abc d", "abc"), ("Basic abc", ""), ("", ""), ("Bearer", "")],
)
def test_the_token_is_read_as_kubernetes_reads_it(header: str, token: str) -> None:
    assert bearer_token(header) == token


async def test_who_has_the_right_is_let_in_and_the_others_are_told_apart(gate: Gate) -> None:
    assert [await gate.check(token) for token in ("scraper", "guest", "random", "")] == [
        Verdict.ALLOWED,
        Verdict.FORBIDDEN,
        Verdict.UNAUTHORIZED,
        Verdict.UNAUTHORIZED,
    ]


async def test_answers_are_remembered_each_for_its_time(gate: Gate) -> None:
    for token in ("scraper", "guest", "random"):
        await gate.check(token)
    gate.authority.asked.clear()

    gate.clock.now += 29.0
    for token in ("scraper", "guest", "random"):
        await gate.check(token)
    assert gate.authority.asked == []

    gate.clock.now += 2.0  # the denial is over, who they are is known still
    for token in ("scraper", "guest", "random"):
        await gate.check(token)
    assert gate.authority.asked == ["guest /metrics"]

    gate.authority.asked.clear()
    gate.clock.now += 30.0  # who they are is asked again, what the scraper may is known still
    for token in ("scraper", "guest", "random"):
        await gate.check(token)
    assert gate.authority.asked == ["scraper", "guest", "guest /metrics", "random"]


async def test_a_token_that_is_revoked_is_refused_within_a_minute(gate: Gate) -> None:
    await gate.check("scraper")
    del gate.authority.users["scraper"]

    gate.clock.now += 60.0

    assert await gate.check("scraper") is Verdict.UNAUTHORIZED


async def test_failures_are_not_remembered(gate: Gate) -> None:
    gate.authority.down = True
    assert await gate.check("scraper") is Verdict.NOT_AUTHENTICATED

    gate.authority.down = False

    assert await gate.check("scraper") is Verdict.ALLOWED


async def test_without_the_authority_those_who_were_let_in_stay_so_for_a_minute(gate: Gate) -> None:
    await gate.check("scraper")
    gate.authority.down = True

    assert await gate.check("scraper") is Verdict.ALLOWED
    gate.clock.now += 61.0
    assert await gate.check("scraper") is Verdict.NOT_AUTHENTICATED


async def test_the_same_token_is_asked_about_once(gate: Gate) -> None:
    gate.authority.release.clear()
    checks = [asyncio.ensure_future(gate.check("scraper")) for _ in range(50)]
    await asyncio.sleep(0)
    checks[0].cancel()  # that one has gone; the others still want to know
    gate.authority.release.set()

    verdicts = await asyncio.gather(*checks[1:])

    assert set(verdicts) == {Verdict.ALLOWED}
    assert gate.authority.asked == ["scraper", "prometheus /metrics"]


async def test_a_flood_of_random_tokens_is_bounded_and_keeps_no_scraper_out(gate: Gate) -> None:
    await gate.check("scraper")
    gate.clock.now += 61.0  # so that it has to be asked about again
    gate.authority.asked.clear()
    gate.authority.release.clear()

    flood = [asyncio.ensure_future(gate.check(f"random-{i}")) for i in range(1000)]
    scraper = asyncio.ensure_future(gate.check("scraper"))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    asked = len(gate.authority.asked)
    gate.authority.release.set()

    assert await scraper is Verdict.ALLOWED
    verdicts = await asyncio.gather(*flood)
    assert asked == access.MOST_ASKING + 1
    assert verdicts.count(Verdict.UNAUTHORIZED) == access.MOST_ASKING
    assert verdicts.count(Verdict.BUSY) == 1000 - access.MOST_ASKING


async def test_what_is_remembered_of_strangers_is_bounded_and_pushes_nobody_out(gate: Gate) -> None:
    await gate.check("scraper")

    for i in range(access.MOST_KNOWN + 100):
        await gate.check(f"random-{i}")
    gate.authority.asked.clear()

    assert await gate.check("scraper") is Verdict.ALLOWED
    assert gate.authority.asked == []
    assert len(gate.gate._strangers) == access.MOST_KNOWN


async def test_nothing_is_left_when_it_is_closed_while_it_asks(gate: Gate) -> None:
    gate.authority.release.clear()
    waiting = asyncio.ensure_future(gate.check("scraper"))
    await asyncio.sleep(0)

    await gate.gate.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(asyncio.all_tasks()) == 1
