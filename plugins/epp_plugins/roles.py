"""Disaggregated serving: the role that an endpoint's label names."""

from __future__ import annotations

from typing import Final

from epp.api import Candidates

ROLE_LABEL: Final = "llm-d.ai/role"

ENCODE: Final = frozenset({"encode", "encode-prefill", "encode-prefill-decode"})
PREFILL: Final = frozenset({"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"})
DECODE: Final = frozenset({"decode", "prefill-decode", "both", "encode-prefill-decode"})


def with_role(candidates: Candidates, roles: frozenset[str], *, unlabelled: bool = False) -> list[bool]:
    """Per candidate: is its role one of `roles`; `unlabelled` is the answer for endpoints without the label."""
    answers = []
    for endpoint in candidates:
        role = endpoint.labels.get(ROLE_LABEL)
        answers.append(unlabelled if role is None else role in roles)
    return answers
