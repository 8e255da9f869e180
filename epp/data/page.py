"""What one metrics page says about one endpoint, by the rules of its engine. Pure.

A page may hold several series of one metric, for example one per data-parallel rank. Requests are summed, KV usage is the
mean, KV blocks are summed: together they say how full the address is that Envoy sends to, whose ranks share the work.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from epp.data.engines import Engine
from epp.data.metric_spec import MetricSpec
from epp.data.scan import Sample, Scanner, distinct, parse_labels

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


class Reading(msgspec.Struct):
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


class PageReader:
    """Reads the pages of one endpoint. Keeps the last LoRA and cache lines, because they are long and seldom change."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._scanner = Scanner(engine.families)
        self._lora_text: bytes | None = None
        self._lora: LoraInfo | None = None
        self._cache_texts: tuple[bytes, ...] | None = None
        self._cache = _NO_CACHE

    def read(self, page: bytes) -> Reading:
        found = self._scanner.scan(page)
        engine = self.engine
        kv_usage = _mean(engine.kv_usage, found)
        return Reading(
            waiting_requests=_sum(engine.waiting, found),
            running_requests=_sum(engine.running, found),
            kv_cache_usage=None if kv_usage is None else min(kv_usage, 1.0),
            lora=self._read_lora(found),
            cache=self._read_cache(found),
            custom=_read_custom(engine.custom, found) if engine.custom else (),
        )

    def _read_lora(self, found: _Found) -> LoraInfo | None:
        """The series with the largest value: vLLM leaves every past one on the page; values are the time of the last change."""
        spec = self.engine.lora
        if spec is None:
            return None
        samples = found.get(spec.family, [])
        if samples is None:
            return None
        if spec.labels:
            samples = [s for s in samples if (labels := parse_labels(s[0])) is not None and spec.selects(labels)]
        if not samples:
            return _NO_LORA
        text = max(samples, key=lambda sample: sample[1])[0]
        if text != self._lora_text:
            self._lora_text, self._lora = text, _parse_lora(text)
        return self._lora

    def _read_cache(self, found: _Found) -> CacheInfo:
        engine = self.engine
        if engine.cache_info is not None and (samples := found.get(engine.cache_info.family)):
            texts = tuple([text for text, _, _ in samples])
            if texts != self._cache_texts:
                self._cache_texts = texts
                self._cache = _parse_cache(texts, engine.cache_info, engine.block_size_label, engine.num_blocks_label)
            return self._cache
        if engine.cache_block_size is None and engine.cache_num_blocks is None:
            return _NO_CACHE
        block_sizes = _values(engine.cache_block_size, found)
        num_blocks = _sum(engine.cache_num_blocks, found)
        return CacheInfo(
            _count(block_sizes[0]) if block_sizes else None, None if num_blocks is None else _count(num_blocks)
        )


def _values(spec: MetricSpec | None, found: _Found) -> list[float] | None:
    """The values of the series that `spec` selects; None when one of them cannot be read or is negative."""
    if spec is None:
        return None
    samples = found.get(spec.family)
    if not samples:
        return None
    if len(samples) == 1 and not spec.labels:
        values = [samples[0][1]]
    else:
        series = distinct(samples)
        if series is None:
            return None
        values = [value for labels, value in series if spec.selects(labels)]
    # Nothing that is read here can be negative; such a number is a defect of the model server.
    return values if not values or min(values) >= 0 else None


def _sum(spec: MetricSpec | None, found: _Found) -> float | None:
    values = _values(spec, found)
    return sum(values) if values else None


def _mean(spec: MetricSpec | None, found: _Found) -> float | None:
    values = _values(spec, found)
    return sum(values) / len(values) if values else None


def _read_custom(custom: Iterable[tuple[str, MetricSpec]], found: _Found) -> tuple[tuple[str, float], ...]:
    """Attributes and values. Of several series the first, since nobody says how to add them up."""
    numbers: list[tuple[str, float]] = []
    for key, spec in custom:
        samples = found.get(spec.family)
        series = distinct(samples) if samples else None
        chosen = [value for labels, value in series or () if spec.selects(labels)]
        if chosen:
            numbers.append((key, chosen[0]))
    return tuple(numbers)


def _parse_lora(text: bytes) -> LoraInfo | None:
    labels = parse_labels(text)
    if labels is None:
        return None
    capacity = _positive(labels.get(_MAX_LORA))
    active = _names(labels.get(_RUNNING_LORA, ""))
    return LoraInfo(active, _names(labels.get(_WAITING_LORA, "")) - active, capacity or 0)


def _names(csv: str) -> frozenset[str]:
    return frozenset(name for part in csv.split(",") if (name := part.strip()))


def _parse_cache(texts: Iterable[bytes], spec: MetricSpec, block_size_label: str, num_blocks_label: str) -> CacheInfo:
    """Sums the ranks' blocks. vLLM writes num_gpu_blocks="None" while it starts: unknown until every rank has a number."""
    block_size: int | None = None
    blocks_by_rank: dict[str, int | None] = {}
    for text in texts:
        labels = parse_labels(text)
        if labels is None:
            return _NO_CACHE
        if not spec.selects(labels):
            continue
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
