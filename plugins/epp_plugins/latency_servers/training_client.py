"""Sends samples to a training server, in batches. What it does not take is sent again, as much of it as is kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from epp.api import Floats, Handle, Job, OutsideError
from epp_plugins.latency_servers.wire import training_entries

_PATH: Final = "/add_training_data_bulk"
_JSON: Final = {"content-type": "application/json"}


class TrainingClient:
    """Sends every `interval_s`. At most `most` entries are kept in between; of more, others are left out at random."""

    def __init__(
        self, handle: Handle, url: str, *, interval_s: float = 1.0, most: int = 1000, timeout_s: float = 10.0
    ) -> None:
        self._handle = handle
        self._url = url.rstrip("/") + _PATH
        self._interval_s = interval_s
        self._most = most
        self._timeout_s = timeout_s
        self._entries: list[dict[str, Any]] = []
        self._seen = 0  # entries since the last sending
        self._job: Job | None = None
        self._failing = False
        self.sent = self.left_out = self.failures = 0

    def start(self) -> None:
        """Begin to send. Again: nothing happens."""
        if self._job is None:
            self._job = self._handle.outside.spawn(self._work(), name="sending of samples")

    def close(self) -> None:
        """Stop at once; what has not been sent is lost."""
        if self._job is not None:
            self._job.cancel()
            self._job = None

    def add(self, sample: Floats) -> None:
        """A finished request, as a row of `epp_predictor.samples`."""
        for entry in training_entries(sample, datetime.now(UTC).isoformat()):
            self._seen += 1
            if len(self._entries) < self._most:
                self._entries.append(entry)
                continue
            # Every entry since the last sending has the same chance to stay, so the mix of latencies does, too.
            self.left_out += 1
            at = self._handle.random.randrange(self._seen)
            if at < self._most:
                self._entries[at] = entry

    async def _work(self) -> None:
        while True:
            await self._handle.sleep(self._interval_s)
            await self.flush()

    async def flush(self) -> None:
        """Send what there is."""
        if not self._entries:
            return
        entries, self._entries, self._seen = self._entries, [], 0
        problem = await self._send(entries)
        if not problem:
            self.sent += len(entries)
            if self._failing:
                self._handle.log.info("plugin %s: %s takes samples again", self._handle.name, self._url)
            self._failing = False
            return
        self.failures += 1
        if not self._failing:
            self._handle.log.warning("plugin %s: samples cannot be sent: %s", self._handle.name, problem)
        self._failing = True

    async def _send(self, entries: Sequence[dict[str, Any]]) -> str:
        """What went wrong. A batch that is refused is lost: it would be refused again."""
        try:
            reply = await self._handle.outside.http(
                "POST",
                self._url,
                body=msgspec.json.encode({"entries": entries}),
                headers=_JSON,
                timeout_s=self._timeout_s,
            )
        except (OutsideError, TimeoutError) as error:
            kept = [*entries, *self._entries][-self._most :]
            self.left_out += len(entries) + len(self._entries) - len(kept)
            self._entries, self._seen = kept, max(self._seen, len(kept))
            return str(error) or "no answer in time"
        if 200 <= reply.status < 300:
            return ""
        self.left_out += len(entries)
        return f"{self._url} answers with status {reply.status}"
