"""What one metrics page says about one endpoint, by the rules of its engine. Pure.

A page may hold several series of one metric, for example one per data-parallel rank. Requests are summed, KV usage is the
mean, KV blocks are summed: together they say how full the address is that Envoy sends to, whose ranks share the work.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from epp.api.metric_spec import MetricSpec
from epp.api.scan import Sample, distinct, parse_labels
from epp.data.engines import Engine
from epp.data.follow import Follower

_MAX_LORA: Final = "max_lora"
_RUNNING_LORA: Final = "running_lora_adapters"
_WAITING_LORA: Final = "waiting_lora_adapters"
# Labels that tell data-parallel ranks apart (vLLM; SGLang).
_RANK_LABELS: Final = ("engine", "dp_rank")

_Found = dict[str, list[Sample] | None]


class LoraInfo(msgspec.Struct, frozen=True):
    """Adapters on the model server. `waiting` holds those that are not active too: vLLM lists each adapter in both."""

    active: frozenset[str] = frozenset()
    waiting: frozenset[str] = frozenset()
    capacity: int = 0


class CacheInfo(msgspec.Struct, frozen=True):
    """The KV cache's shape: tokens per block and blocks (of all ranks). None: not known."""

    block_size_tokens: int | None = None
    num_blocks: int | None = None


class Reading(msgspec.Struct, frozen=True):
    """One page's values. None: the page does not say, or what it says cannot be read; keep what was known before."""

    waiting_requests: float | None = None
    running_requests: float | None = None
    kv_cache_usage: float | None = None
    lora: LoraInfo | None = None
    cache: CacheInfo | None = None
    custom: tuple[tuple[str, float], ...] = ()

    @property
    def shows_load(self) -> bool:
        """At least one of the numbers that tell the load was read."""
        return not (self.waiting_requests is None and self.running_requests is None and self.kv_cache_usage is None)


_NO_LORA: Final = LoraInfo()
_NO_CACHE: Final = CacheInfo()
_NO_SAMPLES: Final[list[Sample]] = []
_MAX_REMEMBERED: Final = 256


class PageReader:
    """Reads the pages of one endpoint, and works out again only what has changed since the page before."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._follower = Follower(engine.families)
        self._remembered: dict[bytes, dict[str, str] | None] = {}
        self._found: _Found = {}
        self._reading: Reading | None = None

    def read(self, page: bytes) -> Reading:
        """The same object as before when the page says the same."""
        before, found = self._found, self._follower.scan(page)
        if self._reading is not None and found is before:
            return self._reading
        engine, last = self.engine, self._reading
        same_lora = last is not None and _same(found, before, engine.lora)
        same_cache = last is not None and all(
            _same(found, before, spec) for spec in (engine.cache_info, engine.cache_block_size, engine.cache_num_blocks)
        )
        cache = last.cache if last is not None and same_cache else self._cache(found)
        kv_usage = self._mean(engine.kv_usage, found)
        if kv_usage is None and cache is not None and cache.num_blocks:
            used = self._sum(engine.kv_used_blocks, found)
            kv_usage = None if used is None else used / cache.num_blocks
        self._found = found
        self._reading = Reading(
            waiting_requests=self._sum(engine.waiting, found),
            running_requests=self._sum(engine.running, found),
            kv_cache_usage=None if kv_usage is None else min(kv_usage, 1.0),
            lora=last.lora if last is not None and same_lora else self._lora(found),
            cache=cache,
            custom=self._custom(found) if engine.custom else (),
        )
        return self._reading

    def shows(self, spec: MetricSpec | None) -> bool:
        """The last page has a sample that `spec` selects, whether or not its value can be used."""
        if spec is None or spec.family not in self._found:
            return False
        samples = self._found[spec.family]
        if not samples:  # none that can be read, or none that is finite
            return True
        series = [self._labels(text) for text, _, _ in samples]
        return any(labels is None or spec.selects(labels) for labels in series)

    def _labels(self, text: bytes) -> dict[str, str] | None:
        if text in self._remembered:
            return self._remembered[text]
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        labels = self._remembered[text] = parse_labels(text)
        return labels

    def _values(self, spec: MetricSpec | None, found: _Found) -> list[float]:
        """The values of the series that `spec` selects; none at all when one of them cannot be read or is negative."""
        if spec is None:
            return []
        samples = found.get(spec.family)
        if not samples:
            return []
        if len(samples) == 1 and not spec.labels:
            values = [samples[0][1]]
        else:
            values = [value for labels, value in distinct(samples, self._labels) or () if spec.selects(labels)]
        # Nothing that is read here can be negative; such a number is a defect of the model server.
        return values if not values or min(values) >= 0 else []

    def _sum(self, spec: MetricSpec | None, found: _Found) -> float | None:
        values = self._values(spec, found)
        return sum(values) if values else None

    def _mean(self, spec: MetricSpec | None, found: _Found) -> float | None:
        values = self._values(spec, found)
        return sum(values) / len(values) if values else None

    def _custom(self, found: _Found) -> tuple[tuple[str, float], ...]:
        """Attributes and values. Of several series the first, since nobody says how to add them up."""
        numbers: list[tuple[str, float]] = []
        for key, spec in self.engine.custom:
            samples = found.get(spec.family) or []
            chosen = [value for labels, value in distinct(samples, self._labels) or () if spec.selects(labels)]
            if chosen:
                numbers.append((key, chosen[0]))
        return tuple(numbers)

    def _lora(self, found: _Found) -> LoraInfo | None:
        """The series with the largest value: vLLM leaves every past one on the page; values are the time of the last change."""
        spec = self.engine.lora
        if spec is None:
            return None
        samples = found.get(spec.family, [])
        if samples is None:
            return None
        if spec.labels:
            samples = [s for s in samples if (labels := self._labels(s[0])) is not None and spec.selects(labels)]
        if not samples:
            return _NO_LORA
        labels = self._labels(max(samples, key=lambda sample: sample[1])[0])
        return None if labels is None else _lora_info(labels)

    def _cache(self, found: _Found) -> CacheInfo:
        engine = self.engine
        if engine.cache_info is not None and (samples := found.get(engine.cache_info.family)):
            series = [self._labels(text) for text, _, _ in samples]
            selected = [labels for labels in series if labels is not None and engine.cache_info.selects(labels)]
            if None in series:
                return _NO_CACHE
            return _cache_info(selected, engine.block_size_label, engine.num_blocks_label)
        if engine.cache_block_size is None and engine.cache_num_blocks is None:
            return _NO_CACHE
        block_sizes = self._values(engine.cache_block_size, found)
        num_blocks = self._sum(engine.cache_num_blocks, found)
        return CacheInfo(
            _count(block_sizes[0]) if block_sizes else None, None if num_blocks is None else _count(num_blocks)
        )


def _same(found: _Found, before: _Found, spec: MetricSpec | None) -> bool:
    """Nothing about the family of `spec` has changed: a follower hands the same list out then."""
    return spec is None or found.get(spec.family, _NO_SAMPLES) is before.get(spec.family, _NO_SAMPLES)


def _lora_info(labels: Mapping[str, str]) -> LoraInfo:
    active = _names(labels.get(_RUNNING_LORA, ""))
    return LoraInfo(active, _names(labels.get(_WAITING_LORA, "")) - active, _positive(labels.get(_MAX_LORA)) or 0)


def _names(csv: str) -> frozenset[str]:
    return frozenset(name for part in csv.split(",") if (name := part.strip()))


def _cache_info(series: Iterable[Mapping[str, str]], block_size_label: str, num_blocks_label: str) -> CacheInfo:
    """Sums the ranks' blocks. vLLM writes num_gpu_blocks="None" while it starts: unknown until every rank has a number."""
    block_size: int | None = None
    blocks_by_rank: dict[str, int | None] = {}
    for labels in series:
        rank = next((labels[name] for name in _RANK_LABELS if name in labels), "")
        blocks_by_rank[rank] = _positive(labels.get(num_blocks_label)) or blocks_by_rank.get(rank)
        block_size = block_size or _positive(labels.get(block_size_label))
    known = [blocks for blocks in blocks_by_rank.values() if blocks is not None]
    return CacheInfo(block_size, sum(known) if known and len(known) == len(blocks_by_rank) else None)


def _positive(text: str | None) -> int | None:
    """The positive whole number that `text` is; None otherwise. Longer ones than any real count are none."""
    if text is None or not text.isascii() or not text.isdigit() or len(text) > 15:
        return None
    return int(text) or None


def _count(value: float) -> int | None:
    return int(value) if 1 <= value < 1e15 and value == int(value) else None
