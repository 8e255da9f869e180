from __future__ import annotations

from math import nan

import msgspec
import pytest

from epp.api import ConfigError, Fleet
from epp_plugins.filters.endpoint_attribute_filter import EndpointAttributeFilter
from tests.support.plugins import make_fleet, make_plugin
from tests.support.scheduling import make_request


def attribute_fleet(*values: object, key: str = "load") -> Fleet:
    """One endpoint per value; None: without the attribute."""
    fleet = make_fleet(len(values))
    for endpoint, value in zip(fleet.candidates(), values, strict=True):
        if value is not None:
            endpoint.attributes[key] = value
    return fleet


def kept(fleet: Fleet, operator: str = "LessThan", value: float = 2, **parameters: object) -> list[bool]:
    algorithm = {"type": "threshold", "threshold": {"operator": operator, "value": value}}
    plugin = make_plugin(EndpointAttributeFilter, fleet, **{"attribute": "load", "algorithm": algorithm} | parameters)
    return list(plugin.keep(make_request(), fleet.candidates()))


@pytest.mark.parametrize(
    ("operator", "expected"),
    [
        ("LessThan", [True, False, False]),
        ("LessThanOrEqual", [True, True, False]),
        ("GreaterThan", [False, False, True]),
        ("GreaterThanOrEqual", [False, True, True]),
        ("Equal", [False, True, False]),
        ("NotEqual", [True, False, True]),
    ],
)
def test_values_are_compared_with_the_threshold(operator: str, expected: list[bool]) -> None:
    assert kept(attribute_fleet(1, 2.0, 3), operator) == expected


@pytest.mark.parametrize(("policy", "stays"), [("Pass", True), ("Fail", False)])
@pytest.mark.parametrize("value", [None, nan, "text"])
def test_endpoints_without_a_number_stay_as_the_policy_says(policy: str, stays: bool, value: object) -> None:
    assert kept(attribute_fleet(value, 1), onMissing=policy) == [stays, True]
    assert kept(attribute_fleet(value, 1), "NotEqual", onMissing=policy) == [stays, True]


@pytest.mark.parametrize("fallback", [True, False])
def test_when_nobody_is_left_the_fallback_decides(fallback: bool) -> None:
    assert kept(attribute_fleet(5, 6), fallbackOnEmpty=fallback) == [fallback, fallback]
    assert kept(Fleet(), fallbackOnEmpty=fallback) == []


@pytest.mark.parametrize(
    ("producer", "key"),
    [("core-metrics-extractor", "load"), ("", "load"), ("dcgm-extractor", "load/dcgm-extractor")],
)
def test_the_attribute_of_another_producer_has_its_name_in_it(producer: str, key: str) -> None:
    assert kept(attribute_fleet(1, 3, key=key), producer=producer) == [True, False]


def test_a_slash_belongs_to_the_attribute_only_with_a_producer() -> None:
    assert kept(attribute_fleet(3, key="llm-d.ai/load"), attribute="llm-d.ai/load", producer="") == [False]
    with pytest.raises(ConfigError, match='write the producer apart, as attribute: "GPU" and producer: "dcgm"'):
        kept(attribute_fleet(1), attribute="GPU/dcgm")


def test_unknown_operators_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError):
        kept(attribute_fleet(1), "Around")
