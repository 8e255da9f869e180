"""A configuration may change at any moment: no request ever meets two pipelines, and nothing is counted for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tests.support.reloading import ALL_POINTS, Reloading, Stamp, Steps, stamped
from tests.support.service import in_flight

OPERATIONS = st.lists(st.integers(min_value=-3, max_value=8), max_size=60)


def run(operations: list[int]) -> None:
    """Below 0: change the configuration. 0: a request comes. Else: the oldest but so many goes a step on."""
    everything = Reloading(stamped(0))
    generation = 0
    begun: list[tuple[Steps, int]] = []
    under_way: list[Steps] = []
    changes: dict[int, Callable[[], bool]] = {
        -1: lambda: everything.reload(stamped(generation + 1)),
        -2: lambda: everything.reload(stamped(generation + 1, "- {type: no-such-type}\n")),
        -3: lambda: everything.reload("plugins: ["),
    }
    for operation in operations:
        if operation < 0:
            applied = changes[operation]()
            assert applied == (operation == -1)
            generation += applied
        elif operation == 0:
            steps = Steps(everything.director)
            begun.append((steps, generation))
            under_way.append(steps)
        elif under_way:
            steps = under_way[(operation - 1) % len(under_way)]
            if not steps.step():
                under_way.remove(steps)
    for steps in under_way:
        steps.run()

    for steps, since in begun:
        assert steps.stamps == [(point, since) for point in ALL_POINTS]
    assert in_flight(everything.director) == 0


@given(OPERATIONS)
def test_a_request_ends_on_the_pipeline_that_it_began_with(operations: list[int]) -> None:
    async def inside_a_loop() -> None:
        run(operations)

    asyncio.run(inside_a_loop())


async def test_plugins_know_the_same_endpoints_whenever_they_came() -> None:
    everything = Reloading(stamped(0))

    for generation in range(1, 4):
        everything.reload(stamped(generation))

        stamp = everything.plugin("stamp")
        assert isinstance(stamp, Stamp)
        assert stamp.known == ["s0", "s1"]
