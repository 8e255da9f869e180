"""Disaggregated serving: the role that an endpoint's label names."""

from __future__ import annotations

from typing import Final

from epp.api import Candidates, Endpoint, SchedulingResult

ROLE_LABEL: Final = "llm-d.ai/role"

ENCODE: Final = frozenset({"encode", "encode-prefill", "encode-prefill-decode"})
PREFILL: Final = frozenset({"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"})
DECODE: Final = frozenset({"decode", "prefill-decode", "both", "encode-prefill-decode"})


PREFILL_PROFILE: Final = "prefill"  # whose endpoint reads the prompt, where there is one


def prefill_endpoint(result: SchedulingResult) -> Endpoint | None:
    """The endpoint that reads the prompt; None where no profile picked one for that, and the destination does."""
    prefill = result.profiles.get(PREFILL_PROFILE)
    return prefill.endpoints[0] if prefill is not None and prefill.endpoints else None


def with_role(candidates: Candidates, roles: frozenset[str], *, unlabelled: bool = False) -> list[bool]:
    """Per candidate: is its role one of `roles`; `unlabelled` is the answer for endpoints without the label."""
    answers = []
    for endpoint in candidates:
        role = endpoint.labels.get(ROLE_LABEL)
        answers.append(unlabelled if role is None else role in roles)
    return answers
