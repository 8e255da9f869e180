"""Counters, gauges and histograms that cost next to nothing to write. How they are shown is in `exposition.py`.

Written by the event loop's thread only, hence without locks. A family has one child per combination of label values; it
is recorded once and shown under each of its views, which may leave labels and bucket bounds out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, Generic, Literal, TypeVar

import msgspec

Kind = Literal["counter", "gauge", "histogram"]

OTHER: Final = "other"


class Child:
    """One series. What its kind cannot do raises TypeError."""

    __slots__ = ()

    def labels(self, *values: str) -> Child:
        raise TypeError("this metric has no labels, or has its label values already")

    def inc(self, amount: float = 1) -> None:
        raise TypeError("only a counter or a gauge can be increased; a metric with labels needs labels(...) first")

    def dec(self, amount: float = 1) -> None:
        raise TypeError("only a gauge can be decreased; a metric with labels needs labels(...) first")

    def set(self, value: float) -> None:
        raise TypeError("only a gauge can be set; a metric with labels needs labels(...) first")

    def observe(self, amount: float) -> None:
        raise TypeError("only a histogram observes; a metric with labels needs labels(...) first")


class Counter(Child):
    """A number that grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        if amount < 0:
            raise ValueError(f"a counter cannot be increased by {amount}")
        self.value += amount


class Gauge(Child):
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value: float = 0

    def inc(self, amount: float = 1) -> None:
        self.value += amount

    def dec(self, amount: float = 1) -> None:
        self.value -= amount

    def set(self, value: float) -> None:
        self.value = value


class Histogram(Child):
    """Counts per bucket, not cumulative: `counts[i]` holds values up to `bounds[i]` included, the last one the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total: float = 0.0

    def observe(self, amount: float) -> None:
        self.counts[bisect_left(self.bounds, amount)] += 1
        self.total += amount

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Several values at once."""
        counts, bounds = self.counts, self.bounds
        for amount in amounts:
            counts[bisect_left(bounds, amount)] += 1
        self.total += sum(amounts)

    def observe_many(self, amount: float, *, count: int) -> None:
        """One value that stands for `count`."""
        self.counts[bisect_left(self.bounds, amount)] += count
        self.total += amount * count


class View(msgspec.Struct, frozen=True):
    """One name under which a family is shown.

    `labels` are some of the family's labels: children that differ in others are summed. `bounds` are some of the family's
    bounds; empty means all of them. Series whose label `needs` is empty are left out.
    """

    name: str
    documentation: str
    labels: tuple[str, ...]
    bounds: tuple[float, ...] = ()
    needs: str = ""


class Names:
    """Values of one label: the first `limit` different ones keep their name, later ones become `other`, for good."""

    __slots__ = ("_kept", "_limit", "_seen")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._seen: set[str] = set()
        self._kept: set[str] = {"", OTHER}

    def keep(self, names: Iterable[str]) -> None:
        """Names that never become `other` and do not count (they come from configuration, not from clients)."""
        self._kept.update(names)

    def fold(self, name: str) -> str:
        if name in self._seen or name in self._kept:
            return name
        if len(self._seen) >= self._limit:
            return OTHER
        self._seen.add(name)
        return name


C = TypeVar("C", bound=Child)


class Family(Child, Generic[C]):
    """All children of one metric. `folds`: by label name, the names it may have."""

    __slots__ = ("_fold_at", "_make", "bounds", "children", "kind", "label_names", "views")

    def __init__(
        self,
        kind: Kind,
        make: Callable[[], C],
        label_names: tuple[str, ...],
        views: tuple[View, ...],
        *,
        bounds: tuple[float, ...] = (),
        folds: Mapping[str, Names] | None = None,
    ) -> None:
        self.kind = kind
        self.label_names = label_names
        self.views = views
        self.bounds = bounds
        self.children: dict[tuple[str, ...], C] = {}
        self._make = make
        self._fold_at = [(i, folds[n]) for i, n in enumerate(label_names) if folds and n in folds]
        for view in views:
            if not set(view.labels) <= set(label_names) or not set(view.bounds) <= set(bounds):
                raise ValueError(f"{view.name}: a view can only leave labels and bounds out")

    def labels(self, *values: str) -> C:
        """The child for these label values, in the order of the label names."""
        child = self.children.get(values)
        return child if child is not None else self._child(values)

    def drop(self, *values: str) -> None:
        """Show the child for these label values no more. One that is asked for later begins anew."""
        self.children.pop(self._key(values), None)

    def _child(self, values: tuple[str, ...]) -> C:
        key = self._key(values)
        child = self.children.get(key)
        if child is None:
            child = self.children[key] = self._make()
        return child

    def _key(self, values: tuple[str, ...]) -> tuple[str, ...]:
        if len(values) != len(self.label_names):
            raise ValueError(f"{self.views[0].name}: {len(values)} label values for labels {self.label_names}")
        # Bytes of a header that are not UTF-8 arrive as surrogates, which no page can show.
        folded = [str(v).encode("utf-8", "backslashreplace").decode() for v in values]
        for position, names in self._fold_at:
            folded[position] = names.fold(folded[position])
        return tuple(folded)


def counter_family(
    label_names: tuple[str, ...], *views: View, folds: Mapping[str, Names] | None = None
) -> Family[Counter]:
    return Family("counter", Counter, label_names, views, folds=folds)


def gauge_family(label_names: tuple[str, ...], *views: View, folds: Mapping[str, Names] | None = None) -> Family[Gauge]:
    return Family("gauge", Gauge, label_names, views, folds=folds)


def histogram_family(
    label_names: tuple[str, ...],
    *views: View,
    bounds: Iterable[float],
    folds: Mapping[str, Names] | None = None,
) -> Family[Histogram]:
    """`bounds`: every bound that a view shows, in any order."""
    ordered = tuple(sorted({float(b) for b in bounds}))
    return Family("histogram", lambda: Histogram(ordered), label_names, views, bounds=ordered, folds=folds)
