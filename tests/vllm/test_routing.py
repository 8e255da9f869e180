"""The comparison of policies on four real vLLM servers works, and says what it should; times are for `make bench-vllm`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vllm.routing import PRECISE, ROUND_ROBIN, SIZES, busiest, compare, table

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]


async def test_picks_find_what_is_cached_and_do_not_crowd_one_server(tmp_path: Path) -> None:
    results = await compare((ROUND_ROBIN, "default", PRECISE), SIZES["small"], 1, tmp_path)
    print(f"\n{table(results)}")
    (plain,) = results[ROUND_ROBIN]

    for policy in ("default", PRECISE):
        (summary,) = results[policy]
        assert summary.errors == 0
        assert summary.cached_share > plain.cached_share + 0.2
        # Eight conversations that stay where they are: five of them on one server are 2.3, all of them 4.
        assert busiest(summary) <= 2.5
