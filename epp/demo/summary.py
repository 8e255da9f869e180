"""Numbers of a run, and what two runs come to beside each other. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from epp.demo.client import Answer

# Two runs on a busy small machine differ by this much without any cause.
_NOTABLE: Final = 0.05


class Summary(msgspec.Struct, frozen=True):
    """One run. Times in milliseconds, None where there was no such request; shares in 0..1."""

    requests: int
    errors: int
    ttft_mean_ms: float | None
    ttft_p50_ms: float | None
    ttft_p90_ms: float | None
    """ttft_*: the first token of streamed answers."""
    whole_mean_ms: float | None
    """The whole of the answers that were not streamed."""
    prompt_tokens: int
    cached_tokens: int
    per_server: dict[str, int]
    """Requests that each server got, in the order of the servers."""

    @property
    def cached_share(self) -> float:
        return self.cached_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    @property
    def busiest_share(self) -> float:
        """The share of all requests that went to the server with the most."""
        total = sum(self.per_server.values())
        return max(self.per_server.values()) / total if total else 0.0


def summarize(answers: Sequence[Answer], per_server: Mapping[str, int]) -> Summary:
    """Failed requests count as errors and nowhere else."""
    good = [answer for answer in answers if not answer.error]
    firsts = [answer.ttft_ms for answer in good if answer.ttft_ms is not None]
    wholes = [answer.total_ms for answer in good if not answer.streamed and answer.total_ms is not None]
    return Summary(
        requests=len(answers),
        errors=len(answers) - len(good),
        ttft_mean_ms=mean(firsts),
        ttft_p50_ms=percentile(firsts, 0.5),
        ttft_p90_ms=percentile(firsts, 0.9),
        whole_mean_ms=mean(wholes),
        prompt_tokens=sum(answer.prompt_tokens for answer in good),
        cached_tokens=sum(answer.cached_tokens for answer in good),
        per_server=dict(per_server),
    )


def mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return sum(values) / len(values) if values else None


def percentile(values: Iterable[float], share: float) -> float | None:
    """Between the two nearest values in proportion, as numpy's default; `share` in 0..1."""
    ranked = sorted(values)
    if not ranked:
        return None
    position = share * (len(ranked) - 1)
    below = int(position)
    above = min(below + 1, len(ranked) - 1)
    return ranked[below] + (ranked[above] - ranked[below]) * (position - below)


def change(value: float | None, base: float | None) -> float | None:
    """How much `value` is above `base`, as a share of it; None where that cannot be said."""
    return value / base - 1 if value is not None and base else None


def outcome(epp: Summary, other: Summary) -> str:
    """One sentence on which run was better, from its numbers alone."""
    parts = [_speed(epp, other)]
    parts.append(
        f"{epp.cached_share:.0%} of the prompt tokens came from the servers' caches instead of {other.cached_share:.0%}"
    )
    parts.append(f"the busiest server got {epp.busiest_share:.0%} of the requests instead of {other.busiest_share:.0%}")
    if epp.errors or other.errors:
        parts.append(f"{epp.errors} requests failed, with round robin {other.errors}")
    return "; ".join(parts) + "."


def _speed(epp: Summary, other: Summary) -> str:
    difference = change(epp.ttft_mean_ms, other.ttft_mean_ms)
    if difference is None or epp.ttft_mean_ms is None or other.ttft_mean_ms is None:
        return "Too few streamed answers came to compare their first tokens"
    times = f"{epp.ttft_mean_ms:.0f} ms on average against {other.ttft_mean_ms:.0f} ms"
    if abs(difference) < _NOTABLE:
        return f"The EPP and round robin were about equally fast to the first token ({times})"
    if difference < 0:
        return f"With the EPP the first token came {-difference:.0%} sooner than with round robin ({times})"
    return f"Round robin won: with the EPP the first token came {difference:.0%} later ({times})"
