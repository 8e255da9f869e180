"""A decision in words and numbers: plain data for the page, one line for the header, and why each endpoint was not chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
from msgspec import structs

from epp.api import Candidates, Endpoint, Floats, PrefixMatch
from epp.observability.explain import Decision, Detail
from epp.observability.plain import encode_json
from epp.scheduling.trace import Named, ProfileRun, Rule
from epp.scheduling.unavailable import why_none

EXPLAIN: Final = "x-llm-epp-explain"  # request: "1" asks for the next
EXPLAINED: Final = "x-llm-epp-explained"  # response
_LINE_BYTES: Final = 2048
_LINE_CHOSEN, _LINE_OTHERS, _NAME = 4, 64, 100  # endpoints, endpoints, characters

_SUBSET_HINT: Final = "the proxy's subset hint"
# The fact behind a scorer's score, by plugin type: the name it has in `facts`, and what to call it.
_BEHIND: Final[Mapping[str, tuple[str, str]]] = {
    "queue-scorer": ("waiting", "queue"),
    "multicluster-queue-scorer": ("waiting", "queue"),
    "load-aware-scorer": ("waiting", "queue"),
    "running-requests-size-scorer": ("running", "running"),
    "kv-cache-utilization-scorer": ("kv_cache_usage", "kv cache"),
    "multicluster-kv-cache-utilization-scorer": ("kv_cache_usage", "kv cache"),
    "active-request-scorer": ("in_flight", "in flight"),
    "prefix-cache-scorer": ("prefix_blocks", "prefix blocks"),
    "multicluster-prefix-cache-scorer": ("prefix_blocks", "prefix blocks"),
}
_LOADS: Final = frozenset(("waiting", "running", "kv_cache_usage"))  # None: unknown, which is behind a score of 0
# Rows of LatencyPrediction.levels_ms.
_LATENCIES: Final = ("ttft_ms", "ttft_low_ms", "ttft_high_ms", "tpot_ms", "tpot_low_ms", "tpot_high_ms")
_REASONS: Final = 2  # scorers that a "why not" names
_EQUAL: Final = 1e-9  # totals are sums of floats


def explanation(decision: Decision) -> dict[str, Any]:
    """All that is kept of a decision. Unknown values are None; without details `endpoints` and `profiles` are empty."""
    detail = decision.detail
    return {
        "number": decision.number,
        "id": decision.id,
        "timestamp": datetime.fromtimestamp(decision.at_s, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "Z"),
        "config_hash": decision.config_hash,
        "model": decision.model,
        "target_model": decision.target_model,
        "objective": decision.objective,
        "priority": decision.priority,
        "fairness_id": decision.fairness_id,
        "chosen": [_named(e) for e in decision.endpoints],
        "destination": decision.destination or ",".join(e.host_port for e in decision.endpoints),
        "primary": decision.primary,
        "scheduling_us": round(decision.took_s * 1e6, 1),
        "refusal": _refusal(decision),
        "outcome": _outcome(decision),
        "detail_kept": detail is not None or not (decision.primary or decision.took_s),
        "endpoints": [] if detail is None else _endpoints(decision, detail),
        "prefixes": [] if detail is None else _prefixes(detail),
        "profiles": [] if detail is None else [_profile(decision, detail, run) for run in detail.trace],
    }


def one_line(decision: Decision) -> str:
    """A short JSON object of ASCII, at most 2048 bytes: the winner, and why not the others, the nearest first."""
    line: dict[str, Any] = {"number": decision.number, "config": decision.config_hash}
    if decision.refusal:
        line["refused"] = _ascii(_reason(decision))[: _LINE_BYTES // 2]
    detail = decision.detail
    run = next((r for r in detail.trace if r.profile.name == decision.primary), None) if detail is not None else None
    if detail is not None and run is not None and run.totals is not None:
        line["chosen"] = [_ascii(e.name)[:_NAME] for e in decision.endpoints[:_LINE_CHOSEN]]
        line["total"] = round(max(run.totals.item(i) for i in _places(run)), 6)
        rated = [*_candidates(decision, detail, run, _ties(run), most=_LINE_OTHERS), *_filtered(run)]
        others: dict[str, str] = {}
        line["why_not"] = others
        size = len(encode_json(line)) + len(',"more":1000000')
        for endpoint in (e for e in rated if not e["chosen"]):
            name, why_not = _ascii(endpoint["name"])[:_NAME], _ascii(endpoint["why_not"])
            size += len(encode_json({name: why_not}))
            if size > _LINE_BYTES:
                break
            others[name] = why_not
        more = len(run.given) - len(run.picked) - len(others)
        if more > 0:
            line["more"] = more
    return encode_json(line).decode()


# --- parts ---------------------------------------------------------------------------------------------------------------


def _named(endpoint: Endpoint) -> dict[str, str]:
    return {"name": endpoint.name, "address": endpoint.host_port}


def _refusal(decision: Decision) -> dict[str, Any] | None:
    if not decision.refusal:
        return None
    return {"code": decision.refusal, "message": decision.message, "reason": _reason(decision)}


def _reason(decision: Decision) -> str:
    if decision.total is None:
        return decision.message
    if decision.detail is None:
        return why_none(decision.total, decision.removed)
    before = _removed_before(decision, decision.detail)
    counts: dict[str, int] = {}
    for name in before.values():
        counts[name] = counts.get(name, 0) + 1
    return why_none(len(decision.detail.pool), [*counts.items(), *decision.removed])


def _removed_before(decision: Decision, detail: Detail) -> dict[int, str]:
    """By row, who kept an endpoint of the pool from being scheduled: screeners, and what was never offered."""
    screening = decision.screening
    located = detail.given if screening is None else screening.seen
    offered = {*located.rows.tolist()}
    gone = {row: _SUBSET_HINT for row in detail.pool.rows.tolist() if row not in offered}
    for name, kept in screening.steps if screening is not None else ():
        left = {*kept.rows.tolist()}
        gone.update(dict.fromkeys(offered - left, name))
        offered = left
    return gone


def measured(decision: Decision) -> dict[str, float | int | None]:
    """Times in milliseconds, rounded to microseconds, and tokens; None for what is not known."""
    usage = decision.usage
    return {
        "ttft_ms": _ms(decision.ttft_s),
        "duration_ms": _ms(decision.duration_s),
        "prompt_tokens": None if usage is None else usage.prompt_tokens,
        "completion_tokens": None if usage is None else usage.completion_tokens,
        "cached_tokens": None if usage is None else usage.cached_tokens,
    }


def _outcome(decision: Decision) -> dict[str, Any] | None:
    """None while the request is under way."""
    if not decision.ended:
        return None
    return {
        "status": decision.status,
        "served": decision.served,
        **measured(decision),
        "predicted_cached_tokens": _predicted(decision),
        "latency": None if decision.latencies is None else _milliseconds(structs.asdict(decision.latencies)),
        "termination": "" if decision.termination is None else decision.termination.value,
    }


def _predicted(decision: Decision) -> int | None:
    """Tokens of the prompt that the chosen endpoint was believed to have cached, as its engine counts them."""
    usage, detail = decision.usage, decision.detail
    if usage is None or not usage.prompt_tokens or detail is None or not decision.endpoints:
        return None
    row = decision.endpoints[0].row
    for _, match in _readable(detail):
        if row < len(match.matched_blocks):
            tokens = match.cached_tokens(row, usage.prompt_tokens)
            return round(tokens) if np.isfinite(tokens) else None
        return None
    return None


def _endpoints(decision: Decision, detail: Detail) -> list[dict[str, Any]]:
    """Every endpoint of the pool as it was, in row order."""
    gone = _removed_before(decision, detail)
    return [
        _named(endpoint)
        | _facts(decision, detail, endpoint_row)
        | {"predicted": _latency(detail, endpoint_row), "removed_by": gone.get(endpoint_row)}
        for endpoint, endpoint_row in _with_rows(detail.pool)
    ]


def _facts(decision: Decision, detail: Detail, row: int) -> dict[str, Any]:
    reading = detail.reading
    updated_s = reading.updated_s.item(row)
    read = updated_s != -np.inf
    return {
        "waiting": _known(reading.waiting.item(row)),
        "running": _known(reading.running.item(row)),
        "kv_cache_usage": _known(round(reading.kv_cache_usage.item(row), 4)),
        "in_flight": detail.in_flight.item(row),
        "metrics_age_s": round(max(decision.decided_s - updated_s, 0.0), 3) if read else None,
        "prefix_blocks": _first_prefix(detail, row),
    }


def _latency(detail: Detail, row: int) -> dict[str, float | None] | None:
    """What was predicted for one endpoint; None where nothing was."""
    levels_ms: object = None if detail.latency is None else detail.latency.levels_ms
    # A plugin may have published anything.
    if (
        not isinstance(levels_ms, np.ndarray)
        or levels_ms.ndim != 2
        or levels_ms.dtype.kind not in "fiu"
        or len(levels_ms) != len(_LATENCIES)
        or row >= levels_ms.shape[1]
    ):
        return None
    values = dict(zip(_LATENCIES, map(float, levels_ms[:, row]), strict=True))
    known = _milliseconds(values)
    return known if any(value is not None for value in known.values()) else None


def _milliseconds(values: Mapping[str, float]) -> dict[str, float | None]:
    """Rounded to microseconds; None for what is not known."""
    return {name: round(value, 3) if math.isfinite(value) else None for name, value in values.items()}


def _first_prefix(detail: Detail, row: int) -> float | None:
    for _, match in _readable(detail):
        return match.matched_blocks.item(row) if row < len(match.matched_blocks) else None
    return None


def _prefixes(detail: Detail) -> list[dict[str, Any]]:
    return [
        {
            "key": key,
            "total_blocks": match.total_blocks,
            "block_size_tokens": match.block_size_tokens,
            "matched_blocks": {
                endpoint.name: match.matched_blocks.item(row)
                for endpoint, row in _with_rows(detail.given)
                if row < len(match.matched_blocks) and match.matched_blocks.item(row)
            },
            "confidence": {
                endpoint.name: round(match.confidence.item(row), 4)
                for endpoint, row in _with_rows(detail.given)
                if match.confidence is not None and row < len(match.confidence) and not np.isnan(match.confidence[row])
            },
            # None: this producer only guesses.
            "told_by": None
            if match.told is None
            else [e.name for e, row in _with_rows(detail.given) if row < len(match.told) and match.told.item(row)],
        }
        for key, match in _readable(detail)
    ]


def _readable(detail: Detail) -> Iterator[tuple[str, PrefixMatch]]:
    """A plugin may have published anything."""
    for key, match in detail.prefixes:
        blocks = match.matched_blocks
        vector = isinstance(blocks, np.ndarray) and blocks.ndim == 1 and blocks.dtype.kind in "fiu"
        if vector and isinstance(match.total_blocks, int) and isinstance(match.block_size_tokens, int):
            yield key, match


def _profile(decision: Decision, detail: Detail, run: ProfileRun) -> dict[str, Any]:
    ties = _ties(run)
    return {
        "name": run.profile.name,
        "primary": run.profile.name == decision.primary,
        "result": f"chose {', '.join(e.name for e in run.picked)}" if run.picked else _nobody(run),
        "picked": [e.name for e in run.picked],
        "picker": run.profile.picker.name,
        "filters": [
            {"name": name, "type": rule.type, "parameters": rule.parameters, "removed": removed}
            for name, removed in _removals(run)
            for rule in [_rule(run, name)]
        ],
        "scorers": [
            {"name": scorer.name, "type": scorer.type, "weight": weight, "failed": bool(run.picked) and scores is None}
            for (scorer, weight), scores in _by_scorer(run)
        ],
        "tied": ties,
        "endpoints": [*_candidates(decision, detail, run, ties), *_filtered(run)],
    }


def _nobody(run: ProfileRun) -> str:
    return why_none(len(run.given), [(name, len(removed)) for name, removed in _removals(run)])


def _removals(run: ProfileRun) -> Iterator[tuple[str, list[str]]]:
    """Each filter that removed somebody, with their names."""
    names = {row: endpoint.name for endpoint, row in _with_rows(run.given)}
    before = run.given.rows.tolist()
    for name, left in run.steps:
        kept = {*left.rows.tolist()}
        yield name, [names[row] for row in before if row not in kept]
        before = left.rows.tolist()


def _by_scorer(run: ProfileRun) -> list[tuple[tuple[Named, float], Floats | None]]:
    scores: Sequence[Floats | None] = run.scores or [None] * len(run.profile.scorers)
    return list(zip(run.profile.scorers, scores, strict=True))


def _ties(run: ProfileRun) -> list[str]:
    """Endpoints whose total equals the first pick's, itself included; empty where it stands alone."""
    if run.totals is None:
        return []
    close = np.abs(run.totals - run.totals[_places(run)[0]]) <= _EQUAL
    tied = [e.name for e, same in zip(run.left.endpoints, close.tolist(), strict=True) if same]
    return tied if len(tied) > 1 else []


def _places(run: ProfileRun) -> list[int]:
    """The positions in `left` of those that were picked, in the picker's order."""
    positions = {endpoint: position for position, endpoint in enumerate(run.left.endpoints)}
    return [positions[endpoint] for endpoint in run.picked if endpoint in positions]


def _candidates(
    decision: Decision, detail: Detail, run: ProfileRun, ties: Sequence[str], *, most: int | None = None
) -> list[dict[str, Any]]:
    """Those that were scored: the picked ones, then the best total first."""
    totals, picked = run.totals, _places(run)
    if totals is None or not picked:
        return []
    endpoints = run.left.endpoints
    best = _facts(decision, detail, run.left.rows.item(picked[0]))
    order = [*picked, *(i for i in np.argsort(-totals, kind="stable").tolist() if i not in picked)]
    return [
        {
            "name": endpoints[i].name,
            "chosen": i in picked,
            "total": round(totals.item(i), 6),
            "scores": _scores(run, i),
            "why_not": ""
            if i in picked
            else _why_not(decision, detail, run, i, picked[0], best, tied=endpoints[i].name in ties),
        }
        for i in order[:most]
    ]


def _scores(run: ProfileRun, position: int) -> dict[str, dict[str, float]]:
    return {
        scorer.name: {"raw": round(s.item(position), 6), "weighted": round(s.item(position) * weight, 6)}
        for (scorer, weight), s in _by_scorer(run)
        if s is not None
    }


def _filtered(run: ProfileRun) -> list[dict[str, Any]]:
    return [
        {"name": name, "chosen": False, "total": None, "scores": {}, "why_not": why_not}
        for plugin, removed in _removals(run)
        for why_not in [f"removed by {plugin}{_by_which_rule(_rule(run, plugin))}"]
        for name in removed
    ]


def _rule(run: ProfileRun, name: str) -> Rule:
    return next(rule for rule in run.profile.filters if rule.name == name)


def _by_which_rule(rule: Rule) -> str:
    """` (by-label: label=role, validValues=["decode"])`; nothing for one that its name says all of."""
    parameters = ", ".join(
        f"{k}={v if isinstance(v, str) else encode_json(v).decode()}" for k, v in rule.parameters.items()
    )
    kind = rule.type if rule.type != rule.name else ""
    told = ": ".join(part for part in (kind, parameters) if part)
    return f" ({told})" if told else ""


def _why_not(
    decision: Decision,
    detail: Detail,
    run: ProfileRun,
    position: int,
    winner: int,
    best: Mapping[str, Any],
    *,
    tied: bool,
) -> str:
    """`−0.41, queue 12 vs 2`: the distance from the winner's total, and what speaks most against this endpoint.

    `best` are the winner's facts.
    """
    assert run.totals is not None
    mine = _facts(decision, detail, run.left.rows.item(position))
    picker = run.profile.picker
    if tied:
        return _why_tied(picker.type, picker.name, mine["in_flight"], best["in_flight"])
    difference = run.totals.item(position) - run.totals.item(winner)
    if difference > 0:
        return f"{_signed(difference)}, but {picker.name} chose another"
    against = sorted(
        (
            ((s.item(position) - s.item(winner)) * weight, scorer.type, scorer.name, s)
            for (scorer, weight), s in _by_scorer(run)
            if s is not None
        ),
        key=lambda entry: entry[0],
    )
    reasons = [_signed(difference)]
    for lost, kind, name, scores in against[:_REASONS]:
        if lost >= -_EQUAL:
            break
        fact, word = _BEHIND.get(kind, ("", ""))
        if fact and mine[fact] != best[fact] and (fact in _LOADS or mine[fact] is not None):
            reasons.append(f"{word} {_shown(fact, mine[fact])} vs {_shown(fact, best[fact])}")
        else:
            reasons.append(f"{name} {scores.item(position):.2f} vs {scores.item(winner):.2f}")
    return ", ".join(reasons)


def _why_tied(picker_type: str, picker: str, mine: float, best: float) -> str:
    if picker_type != "max-score-picker":
        return f"tied, {picker} chose another"
    return f"tied, in flight {mine:g} vs {best:g}" if best < mine else "tied, drawn by lot"


def _known(value: float) -> float | None:
    """None for a load that is not known, which is NaN in the columns."""
    return None if math.isnan(value) else value


def _shown(fact: str, value: float | None) -> str:
    if value is None:
        return "unknown"
    return f"{value:.0%}" if fact == "kv_cache_usage" else f"{value:g}"


def _signed(value: float) -> str:
    digits = 2 if abs(value) >= 0.005 else 4
    return f"{'−' if value < 0 else '+'}{abs(value):.{digits}f}"


def _with_rows(candidates: Candidates) -> Iterator[tuple[Endpoint, int]]:
    return zip(candidates.endpoints, candidates.rows.tolist(), strict=False)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1e3, 3)


def _ascii(text: str) -> str:
    """For a header: no control characters, no bytes above 127."""
    return "".join(c if " " <= c <= "~" else "-" if c == "−" else "?" for c in text)
