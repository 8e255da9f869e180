"""Builds plugins and fleets for tests: a handle with a clock that stands still, a seeded random source, no metrics."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import msgspec

from epp.api import Endpoint, Fleet, Handle, Metric, Plugin

P = TypeVar("P", bound=Plugin)


class NoMetric:
    """Takes every call of a metric and keeps nothing."""

    def labels(self, *values: str) -> Metric:
        return self

    def inc(self, amount: float = 1) -> None: ...
    def dec(self, amount: float = 1) -> None: ...
    def set(self, value: float) -> None: ...
    def observe(self, amount: float) -> None: ...


class NoMetrics:
    """A metrics factory whose metrics keep nothing."""

    def counter(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Metric:
        return NoMetric()

    def gauge(self, name: str, documentation: str, labels: Sequence[str] = ()) -> Metric:
        return NoMetric()

    def histogram(
        self, name: str, documentation: str, labels: Sequence[str] = (), *, buckets: Sequence[float] = ()
    ) -> Metric:
        return NoMetric()


class Clock:
    """A clock that a test moves by hand; seconds."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def make_handle(
    fleet: Fleet | None = None, *, name: str = "it", clock: Callable[[], float] | None = None, seed: int = 0
) -> Handle:
    return Handle(
        name=name,
        fleet=fleet if fleet is not None else Fleet(),
        clock=clock or Clock(),
        random=random.Random(seed),
        log=logging.getLogger("test"),
        metrics=NoMetrics(),
    )


def make_plugin(cls: type[P], fleet: Fleet | None = None, *, handle: Handle | None = None, **parameters: object) -> P:
    """A plugin with `parameters` given under their configuration names."""
    params = msgspec.convert(parameters, cls.Params)
    return cls(params, handle or make_handle(fleet, name=cls.type))


def make_fleet(count: int, **columns: Sequence[float]) -> Fleet:
    """`count` endpoints named s0, s1, ... at 10.0.0.1:8000, 10.0.0.2:8000, ...; `columns` by name, one value each."""
    fleet = Fleet()
    for i in range(count):
        fleet.add(Endpoint(f"s{i}", f"10.0.{i // 250}.{i % 250 + 1}", 8000))
    rows = fleet.candidates().rows
    for name, values in columns.items():
        fleet.columns[name][rows] = values
    return fleet


def label_fleet(*labels: Mapping[str, str]) -> Fleet:
    """One endpoint per mapping of labels."""
    fleet = Fleet()
    for i, of_one in enumerate(labels):
        fleet.add(Endpoint(f"s{i}", f"10.0.0.{i + 1}", 8000, labels=of_one))
    return fleet
