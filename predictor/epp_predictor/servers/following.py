"""How a prediction service keeps up with its training service: by ETag, into memory and a file of its own.

Each process follows for itself, so that none of them serves an old model because another one fetched the new file.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, field

import aiohttp

from epp_predictor.codec import LARGEST_BYTES, BadSnapshot
from epp_predictor.prior import TARGETS
from epp_predictor.servers.files import read_model, write_model
from epp_predictor.servers.serving import ServedTarget, decode
from epp_predictor.servers.variables import PredictionSettings

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.2


@dataclass(slots=True)
class Followed:
    """The models in use. Replaced one by one; each is immutable."""

    models: dict[str, ServedTarget] = field(default_factory=dict)
    etags: dict[str, str] = field(default_factory=dict)
    last_load_s: float | None = None
    """Wall-clock time of the last new model."""
    problem: str = ""
    """Why the last look failed; empty when it did not."""

    @property
    def is_ready(self) -> bool:
        return len(self.models) == len(TARGETS)


class Follower:
    def __init__(self, settings: PredictionSettings, followed: Followed, session: aiohttp.ClientSession) -> None:
        self._settings = settings
        self._followed = followed
        self._session = session
        self._one_at_a_time = asyncio.Lock()

    async def run(self) -> None:
        """Look at the training service every interval, for ever."""
        while True:
            await self.look()
            # Until it has models it asks more often: the training service may just be starting.
            is_ready = self._followed.is_ready
            await asyncio.sleep(
                self._settings.sync_interval_s if is_ready else min(1.0, self._settings.sync_interval_s)
            )

    async def look(self) -> bool:
        """Whether a new model came."""
        async with self._one_at_a_time:
            news = [await self._fetch(target) for target in TARGETS]
        return any(news)

    async def _fetch(self, target: str) -> bool:
        pause_s = _FIRST_PAUSE_S
        for left in reversed(range(self._settings.tries)):
            try:
                return await self._fetch_once(target)
            except (aiohttp.ClientError, TimeoutError, BadSnapshot, OSError) as error:
                self._note(f"{target}: {error or type(error).__name__}")
                if left:
                    await asyncio.sleep(pause_s)
                    pause_s *= 2
        return False

    async def _fetch_once(self, target: str) -> bool:
        url = f"{self._settings.training_url}/model/{target}/download"
        known = self._followed.etags.get(target)
        headers = {"if-none-match": known} if known else {}
        timeout = aiohttp.ClientTimeout(total=self._settings.timeout_s)
        async with self._session.get(url, headers=headers, timeout=timeout) as response:
            if response.status == 304:
                self._followed.problem = ""
                return False
            response.raise_for_status()
            data = await response.content.read(LARGEST_BYTES + 1)
            while len(data) <= LARGEST_BYTES and (more := await response.content.read(LARGEST_BYTES + 1)):
                data += more
            etag = response.headers.get("etag", "")
        if len(data) > LARGEST_BYTES:
            raise BadSnapshot(f"expected a model of at most {LARGEST_BYTES} bytes")
        model = decode(data, target)
        self._followed.models[target] = model
        self._followed.etags[target] = etag
        self._followed.last_load_s = time.time()
        self._followed.problem = ""
        await asyncio.to_thread(write_model, data, self._settings.paths[target])
        return True

    def _note(self, problem: str) -> None:
        if problem != self._followed.problem:
            logger.warning("no model from %s: %s", self._settings.training_url, problem)
        self._followed.problem = problem

    async def load_copies(self) -> None:
        """Models that an earlier process has left in files."""
        for target in TARGETS:
            found = await asyncio.to_thread(read_model, self._settings.paths[target], target)
            if found is not None:
                self._followed.models[target] = found[0]
                self._followed.last_load_s = time.time()
