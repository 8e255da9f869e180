from __future__ import annotations

import asyncio
from pathlib import Path

from epp.discovery.watching import DEBOUNCE_MS, follow


async def test_a_directory_that_takes_anothers_name_and_number_is_watched(tmp_path: Path) -> None:
    directory = tmp_path / "followed"
    directory.mkdir()
    looks: asyncio.Queue[None] = asyncio.Queue()
    problems: list[str] = []
    replace = [directory.rmdir, directory.mkdir]  # file systems give numbers that are free again

    async def look() -> None:
        while replace:
            replace.pop(0)()
        looks.put_nowait(None)

    following = asyncio.create_task(follow(directory, look, unwatched=problems.append, poll_ms=600_000))
    try:
        async with asyncio.timeout(60):
            await looks.get()
            await looks.get()
            await asyncio.sleep(10 * DEBOUNCE_MS / 1000)  # what has been seen so far is over
            while not looks.empty():
                looks.get_nowait()

            (directory / "file").touch()
            await looks.get()
    finally:
        following.cancel()
        await asyncio.wait([following])

    assert problems == []
