from __future__ import annotations

from collections.abc import Sequence

import pytest

from epp.api import Endpoint, Fleet
from epp_plugins.burst import Member, Rules, assign
from epp_plugins.prefix_chain import block_chain
from tests.support.plugins import make_fleet


def burst(fleet: Fleet, *prompts: str, in_flight: Sequence[float] = (), rules: Rules | None = None) -> list[int | None]:
    """Rows of the endpoints assigned to prompts whose letters are blocks; None: none."""
    endpoints = fleet.candidates().endpoints
    members = [Member(block_chain(p.encode(), block_bytes=1, seed=0), endpoints) for p in prompts]
    assign(members, dict(zip(endpoints, in_flight, strict=False)), rules or Rules())
    return [None if m.assigned is None else m.assigned.row for m in members]


@pytest.mark.parametrize(
    ("prompts", "rows"),
    [
        ((), []),
        (("ab",), [None]),
        (("ab", "ac"), [None, None]),
        (("ab", "ab"), [0, 0]),
        (("ab", "x", "ab", "cd", "cd"), [0, None, 0, 1, 1]),
        (("", ""), [None, None]),
        # The longest group is placed first.
        (("ab", "ab", "cdef", "cdef"), [1, 1, 0, 0]),
    ],
)
def test_equal_prompts_go_to_one_endpoint_and_groups_are_spread(
    prompts: tuple[str, ...], rows: list[int | None]
) -> None:
    assert burst(make_fleet(3), *prompts) == rows


def test_of_equal_endpoints_the_one_with_the_fewest_requests_is_taken() -> None:
    assert burst(make_fleet(3), "ab", "ab", in_flight=[5, 4, 1]) == [2, 2]


@pytest.mark.parametrize(("most", "rows"), [(None, [0] * 5), (2, [0, 0, 1, 1, 0]), (1, [0, 1, 0, 1, 0])])
def test_a_group_is_split_over_endpoints_when_there_is_a_limit(most: int | None, rows: list[int]) -> None:
    assert burst(make_fleet(2), *["ab"] * 5, rules=Rules(max_per_replica=most)) == rows


@pytest.mark.parametrize(("least", "rows"), [(0, [0, 0, None]), (2, [0, 0, 0]), (3, [0, 0, None])])
def test_a_single_request_follows_one_that_begins_alike(least: int, rows: list[int | None]) -> None:
    # Its endpoint has 2 of the fair share ceil(3 / 1).
    assert burst(make_fleet(1), "abc", "abc", "abd", rules=Rules(least_shared_blocks=least)) == rows


def test_it_follows_to_a_busier_endpoint_while_that_has_less_than_its_fair_share() -> None:
    # A fair share of ceil(7 / 3); the third endpoint has nothing.
    prompts = ["zzzz"] * 4 + ["abc"] * 2 + ["abd"]

    assert burst(make_fleet(3), *prompts, rules=Rules(least_shared_blocks=2)) == [0, 0, 0, 0, 1, 1, 1]


def test_the_parts_of_a_group_go_to_different_endpoints_first_and_cost_nothing_where_it_is() -> None:
    rules = Rules(max_per_replica=2, balance_tokens=True)
    assert burst(make_fleet(2), *["abcdef"] * 2, *["xy"] * 4, rules=rules) == [0, 0, 1, 1, 0, 0]

    one_each = Rules(max_per_replica=1, balance_tokens=True)
    assert burst(make_fleet(2), *["abcd"] * 3, *["xy"] * 2, rules=one_each) == [0, 1, 0, 0, 1]


def test_an_endpoint_with_its_fair_share_gets_no_more_even_if_prompts_begin_alike() -> None:
    # Two endpoints, a fair share of 2: the third and the fourth request go to the other one.
    assert burst(make_fleet(2), "abc", "abc", "abd", "abe", rules=Rules(least_shared_blocks=2)) == [0, 0, 1, 1]


def test_balance_by_tokens_counts_a_prompt_once_and_not_what_is_shared() -> None:
    # 8 blocks for the first group; 2 each for the next ones, so three of those fit beside it.
    prompts = ["abcdefgh"] * 9 + ["ij"] * 2 + ["kl"] * 2 + ["mn"] * 2

    by_tokens = burst(make_fleet(2), *prompts, rules=Rules(balance_tokens=True))
    by_requests = burst(make_fleet(2), *prompts)

    assert by_tokens == [0] * 9 + [1] * 6
    assert by_requests == by_tokens
    assert burst(make_fleet(2), *["abcdefgh"] * 2, *["ij"] * 9, *["kl"] * 9, rules=Rules(balance_tokens=True)) == (
        [0] * 2 + [1] * 18
    )


def test_only_endpoints_that_all_of_a_group_may_use_are_taken() -> None:
    fleet = make_fleet(3)
    a, b, c = fleet.candidates().endpoints
    chain = block_chain(b"ab", block_bytes=1, seed=0)
    members = [Member(chain, (a, b)), Member(chain, (b, c))]
    apart = [Member(chain, (a,)), Member(chain, (c,))]
    assign(members, {}, Rules())
    assign(apart, {}, Rules())

    assert [member.assigned for member in members] == [b, b]
    assert [member.assigned for member in apart] == [None, None]


def test_endpoints_that_are_gone_get_nothing() -> None:
    fleet = make_fleet(2)
    endpoints: tuple[Endpoint, ...] = fleet.candidates().endpoints
    fleet.remove(endpoints[0])
    chain = block_chain(b"ab", block_bytes=1, seed=0)
    members = [Member(chain, endpoints), Member(chain, endpoints)]
    assign(members, {}, Rules())

    assert {member.assigned for member in members} == {endpoints[1]}
