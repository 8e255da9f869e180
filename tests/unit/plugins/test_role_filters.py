from __future__ import annotations

import pytest

from epp.api import Filter
from epp_plugins.filters.decode_filter import DecodeFilter
from epp_plugins.filters.encode_filter import EncodeFilter
from epp_plugins.filters.prefill_filter import PrefillFilter
from tests.support.plugins import label_fleet, make_plugin
from tests.support.scheduling import make_request

ROLES = ("encode", "prefill", "decode", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode", "other")


@pytest.mark.parametrize(
    ("kind", "kept"),
    [
        (EncodeFilter, {"encode", "encode-prefill", "encode-prefill-decode"}),
        (PrefillFilter, {"prefill", "encode-prefill", "prefill-decode", "both", "encode-prefill-decode"}),
        (DecodeFilter, {"decode", "prefill-decode", "both", "encode-prefill-decode"}),
    ],
)
def test_roles_that_can_do_the_work_stay(kind: type[Filter], kept: set[str]) -> None:
    fleet = label_fleet(*({"llm-d.ai/role": role} for role in ROLES))

    answers = make_plugin(kind, fleet).keep(make_request(), fleet.candidates())

    assert {role for role, answer in zip(ROLES, answers, strict=True) if answer} == kept


@pytest.mark.parametrize(("kind", "stays"), [(EncodeFilter, False), (PrefillFilter, False), (DecodeFilter, True)])
def test_endpoints_without_a_role_decode_only(kind: type[Filter], stays: bool) -> None:
    fleet = label_fleet({}, {"app": "vllm"})

    assert make_plugin(kind, fleet).keep(make_request(), fleet.candidates()) == [stays, stays]
