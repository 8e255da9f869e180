"""Whether two outcomes are the same, and if not, in what they differ."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Final

from tests.differential.pair import Both
from tests.differential.talk import DESTINATION, Outcome

SESSION_TOKEN: Final = "x-session-token"
_SAME_SCORE: Final = 1e-9  # the Go EPP adds up a profile's scores in an order that changes


def differences(
    both: Both,
    *,
    picks_at_random: bool = False,
    body_rewritten: bool = False,
    without: Collection[str] = (),
) -> list[str]:
    """What differs in words; nothing when the two agree wherever the rules decide. Equal totals leave the pick open.

    `without`: fields that are known to differ.
    """
    go, ours = both.go, both.ours
    found = [
        f"{name}: Go {getattr(go, name)!r}, ours {getattr(ours, name)!r}"
        for name in ("immediate", "failure", "kinds", "answer", "answer_ends")
        if getattr(go, name) != getattr(ours, name) and name not in without
    ]
    answered = [_without_session(o, told=go.destination == ours.destination) for o in (go, ours)]
    if answered[0] != answered[1]:
        found.append(f"response headers: Go {answered[0]}, ours {answered[1]}")
    if not _same_body(go, ours, rewritten=body_rewritten):
        found.append(f"body: Go {go.body[:200]!r}, ours {ours.body[:200]!r}")
    if "scores" not in without and not _same_scores(go.scores, ours.scores):
        found.append(f"scores: Go {in_order(go.scores)}, ours {in_order(ours.scores)}")
    found += _picks(go, ours, at_random=picks_at_random)
    left_out = {DESTINATION, "content-length"} if body_rewritten else {DESTINATION}
    sent_on = [{k: v for k, v in o.request_headers.items() if k not in left_out} for o in (go, ours)]
    if sent_on[0] != sent_on[1]:
        found.append(f"request headers: Go {sent_on[0]}, ours {sent_on[1]}")
    metadata = [json.dumps(o.metadata, sort_keys=True).replace(o.destination or "-", "-") for o in (go, ours)]
    if metadata[0] != metadata[1]:
        found.append(f"metadata: Go {metadata[0]}, ours {metadata[1]}")
    return found


def best(scores: Mapping[str, float]) -> set[str]:
    """The endpoints with the highest total."""
    highest = max(scores.values(), default=0.0)
    return {name for name, score in scores.items() if score >= highest - _SAME_SCORE}


def in_order(scores: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(scores.items()))


def _without_session(outcome: Outcome, *, told: bool) -> dict[str, str]:
    """The response's headers; unless `told`, without the value of the one that names the endpoint."""
    return {k: v if told or k != SESSION_TOKEN else "" for k, v in outcome.response_headers.items()}


def _picks(go: Outcome, ours: Outcome, *, at_random: bool) -> list[str]:
    found = []
    for name, outcome in (("Go", go), ("ours", ours)):
        told = outcome.metadata.get("envoy.lb", {}).get(DESTINATION, "")
        if told != outcome.destination:
            found.append(f"{name}: the header names {outcome.destination!r}, the metadata {told!r}")
    if bool(go.destination) != bool(ours.destination):
        found.append(f"destination: Go {go.destination!r}, ours {ours.destination!r}")
    if at_random or go.destination == ours.destination:
        return found
    allowed = best(ours.scores)
    if not {go.destination, ours.destination} <= allowed:
        found.append(f"pick: Go {go.destination}, ours {ours.destination}, scores {in_order(ours.scores)}")
    return found


def _same_scores(go: Mapping[str, float], ours: Mapping[str, float]) -> bool:
    return go.keys() == ours.keys() and all(abs(go[k] - ours[k]) <= _SAME_SCORE for k in go)


def _same_body(go: Outcome, ours: Outcome, *, rewritten: bool) -> bool:
    return bool(json.loads(go.body) == json.loads(ours.body)) if rewritten else go.body == ours.body
