"""The part of this replica in a leader election: whether it is ready, and for how long, hangs on it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Coroutine, Iterator
from typing import Any, Final

from epp.cli.options import RunOptions
from epp.discovery.kubernetes.api import Api
from epp.discovery.kubernetes.election import Election
from epp.discovery.kubernetes.elector import Elector
from epp.discovery.kubernetes.lease_object import LeaseObject, lease_name, make_identity
from epp.observability.logs import INFO, log_event

_log: Final = logging.getLogger("epp")
_RESIGN_S: Final = 3.0


class Leadership:
    """This replica's part in an election. `leads` is right at any moment."""

    def __init__(self, options: RunOptions, rng: random.Random) -> None:
        self._namespace = options.pool_namespace
        self.lease = lease_name(
            namespace=options.pool_namespace, pool_name=options.pool_name, pod_name=options.pod_name
        )
        self._identity = make_identity(options.pod_name)
        self._random = rng
        self._elector: Elector | None = None
        self._running: asyncio.Task[None] | None = None
        self._once = asyncio.Event()

    def start(self, api: Api) -> None:
        """Stand for election."""
        election = Election(self._identity, rng=self._random)
        leases = LeaseObject(api, namespace=self._namespace, name=self.lease)
        self._elector = Elector(election, leases, changed=self._changed)
        self._running = asyncio.get_running_loop().create_task(self._elector.run(), name="leader election")

    async def then(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work` once this replica has led for the first time."""
        try:
            await self._once.wait()
        except BaseException:
            work.close()
            raise
        await work

    def leads(self) -> bool:
        return self._elector is not None and self._elector.leads()

    def resign(self) -> None:
        """Lead no more from now on; the Lease is given up as soon as the API server hears of it."""
        if self._elector is not None:
            self._elector.resign()

    async def close(self) -> None:
        """Resign, and wait a moment for the Lease to be given up."""
        self.resign()
        if self._running is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_RESIGN_S):
                    await self._running

    def notes(self) -> Iterator[str]:
        """Who leads, and why the Lease cannot be renewed, for people."""
        elector = self._elector
        if elector is None:
            return
        if not elector.leads():
            yield f"leader election: Lease {self.lease} is held by {elector.holder or 'nobody'}"
        if elector.problem:
            yield f"leader election: Lease {self.lease} cannot be read or renewed: {elector.problem}"

    def _changed(self, leads: bool) -> None:
        if leads:
            self._once.set()
        log_event(_log, INFO, "leading" if leads else "not leading", lease=self.lease, identity=self._identity)
