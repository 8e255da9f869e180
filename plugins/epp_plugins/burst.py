"""Assigns requests that came at the same time, so that prompts they share are read once. No clock, no waiting."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from epp.api import Endpoint


class Member:
    """One request: the hashes of its prompt's leading blocks, where it may go, and `assigned`, where it shall."""

    __slots__ = ("allowed", "assigned", "chain")

    def __init__(self, chain: Sequence[int], allowed: tuple[Endpoint, ...]) -> None:
        self.chain = tuple(chain)
        self.allowed = allowed
        self.assigned: Endpoint | None = None


class Rules(msgspec.Struct, frozen=True):
    """`max_per_replica`: requests of one group on one endpoint, None: all. `least_shared_blocks`: 0 is equal prompts only."""

    max_per_replica: int | None = None
    least_shared_blocks: int = 0
    balance_tokens: bool = False


class _Replica:
    __slots__ = ("blocks", "endpoint", "in_flight", "load")

    def __init__(self, endpoint: Endpoint, in_flight: float) -> None:
        self.endpoint = endpoint
        self.in_flight = in_flight
        self.load = 0.0  # requests, or blocks to be read, that this burst puts on it
        self.blocks: set[int] = set()

    def held(self, chain: Sequence[int]) -> int:
        """How many leading blocks of `chain` it is to hold."""
        count = 0
        for block in chain:
            if block not in self.blocks:
                break
            count += 1
        return count


def assign(members: Sequence[Member], in_flight: Mapping[Endpoint, float], rules: Rules) -> None:
    """Give each member that shares its prompt an endpoint; the others keep none.

    Groups of equal prompts go first, the longest first, then single requests that share `least_shared_blocks` with another.
    A group goes where such a beginning is to be read already, while that endpoint has less than its fair share of the burst;
    else to the one with the least of it, of equals the one with the fewest requests in flight.
    """
    groups = sorted(_groups(members, rules), key=lambda group: (len(group) == 1, -len(group[0].chain)))
    everyone = dict.fromkeys(endpoint for group in groups for member in group for endpoint in member.allowed)
    replicas = [_Replica(endpoint, in_flight.get(endpoint, 0.0)) for endpoint in everyone if endpoint.alive]
    if not replicas:
        return
    fair_share = math.ceil(sum(_weight(group, rules) for group in groups) / len(replicas))
    for group in groups:
        allowed = set(group[0].allowed).intersection(*(member.allowed for member in group[1:]))
        left = [replica for replica in replicas if replica.endpoint in allowed]
        used: list[_Replica] = []
        for part in _parts(group, rules.max_per_replica) if left else ():
            unused = [replica for replica in left if replica not in used] or left
            replica = _choose(part[0].chain, unused, fair_share, rules)
            used.append(replica)
            _place(part, replica, rules)


def _groups(members: Sequence[Member], rules: Rules) -> list[list[Member]]:
    by_prompt: dict[int, list[Member]] = {}
    for member in members:
        if member.chain:
            by_prompt.setdefault(member.chain[-1], []).append(member)  # the last hash covers all blocks before it
    shared = rules.least_shared_blocks
    beginnings = Counter(m.chain[shared - 1] for m in members if shared and len(m.chain) >= shared)
    return [
        group
        for group in by_prompt.values()
        if len(group) > 1 or (shared and len(group[0].chain) >= shared and beginnings[group[0].chain[shared - 1]] > 1)
    ]


def _parts(group: Sequence[Member], size: int | None) -> Iterator[Sequence[Member]]:
    for start in range(0, len(group), size or len(group)):
        yield group[start : start + (size or len(group))]


def _choose(chain: Sequence[int], replicas: Iterable[_Replica], fair_share: float, rules: Rules) -> _Replica:
    ranked = sorted(replicas, key=lambda replica: (replica.load, replica.in_flight))
    if rules.least_shared_blocks:
        for replica in ranked:
            if replica.load < fair_share and replica.held(chain) >= rules.least_shared_blocks:
                return replica
    return ranked[0]


def _place(part: Sequence[Member], replica: _Replica, rules: Rules) -> None:
    chain = part[0].chain
    replica.load += len(chain) - replica.held(chain) if rules.balance_tokens else len(part)
    replica.blocks.update(chain)
    for member in part:
        member.assigned = replica.endpoint


def _weight(group: Sequence[Member], rules: Rules) -> int:
    return len(group[0].chain) if rules.balance_tokens else len(group)
