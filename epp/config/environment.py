"""What the service lends to the plugins of a pipeline."""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from epp.api import Fleet, Handle, Metrics, Nowhere, Outside, Plugin
from epp.api.plugin import no_waiting
from epp.scheduling.observer import Observer, Unobserved


class Environment(msgspec.Struct, frozen=True):
    """One for the life of the process: plugins that a reload keeps hold on to it. `clock` gives seconds, monotonic.

    `always` are plugin types that are added to every configuration that has none of them.
    """

    fleet: Fleet
    clock: Callable[[], float]
    random: random.Random
    log: logging.Logger
    metrics: Metrics
    pool_name: str = ""
    observer: Observer = Unobserved()
    allow_experimental: bool = False
    sleep: Callable[[float], Awaitable[None]] = no_waiting
    outside: Outside = Nowhere()
    always: tuple[str, ...] = ()

    def handle(self, name: str, *, plugins: Mapping[str, Plugin] | None = None) -> Handle:
        """The handle of the plugin instance `name`, which refers to `plugins`; its logger is a child of that name."""
        return Handle(
            name=name,
            fleet=self.fleet,
            clock=self.clock,
            random=self.random,
            log=self.log.getChild(name),
            metrics=self.metrics,
            pool_name=self.pool_name,
            sleep=self.sleep,
            outside=self.outside,
            plugins=plugins or {},
        )
