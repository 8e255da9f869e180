from __future__ import annotations

from typing import Any

import msgspec
import pytest

from epp.api import ConfigError, Usage
from epp_plugins.hooks.request_attribute_reporter import RequestAttributeReporter
from tests.support.plugins import make_plugin
from tests.support.scheduling import ended, make_request


def report(expression: str, usage: Usage | None, condition: str = "", **key: str) -> dict[str, Any]:
    attribute = {"key": {"name": "cost", **key}, "expression": expression, "condition": condition}
    plugin = make_plugin(RequestAttributeReporter, attributes=[attribute])
    response = ended()
    response.usage = usage
    response.dynamic_metadata["envoy.lb"] = {"other": 1}
    plugin.response_ending(make_request(), response)
    assert response.dynamic_metadata["envoy.lb"].pop("other") == 1
    return {namespace: values for namespace, values in response.dynamic_metadata.items() if values}


USAGE = Usage(prompt_tokens=10, completion_tokens=4, total_tokens=14, cached_tokens=6)


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("usage.completion_tokens", 4),
        ("usage.prompt_tokens + 3 * usage.completion_tokens", 22),
        ("usage.total_tokens - usage.prompt_tokens_details.cached_tokens", 8),
        ("double(usage.completion_tokens) * 0.5", 2.0),
        ("usage.prompt_tokens > 9 ? 1 : 2", 1),
    ],
)
def test_the_expression_is_computed_from_token_counts(expression: str, value: float) -> None:
    assert report(expression, USAGE) == {"envoy.lb": {"cost": value}}


def test_the_namespace_can_be_another_one() -> None:
    assert report("usage.total_tokens", USAGE, namespace="mine") == {"mine": {"cost": 14}}


@pytest.mark.parametrize(
    "expression",
    [
        "0",
        "-1",
        "usage.nothing",
        "usage.prompt_tokens / 0",
        "usage.prompt_tokens * 1.5",
        "'text'",
        "true",
        "[1]",
        "1.0 / 0.0",
    ],
)
def test_what_is_no_positive_number_is_not_reported(expression: str) -> None:
    assert report(expression, USAGE) == {}


@pytest.mark.parametrize(
    ("condition", "reported"),
    [("usage.prompt_tokens > 5", True), ("usage.prompt_tokens > 50", False), ("1", False), ("usage.nothing", False)],
)
def test_the_condition_must_be_true(condition: str, reported: bool) -> None:
    assert bool(report("usage.total_tokens", USAGE, condition)) is reported


def test_without_token_counts_nothing_is_reported() -> None:
    assert report("1", None) == {}


def test_counts_that_were_not_reported_are_zero_and_the_total_is_their_sum() -> None:
    assert report("usage.total_tokens", Usage(completion_tokens=3)) == {"envoy.lb": {"cost": 3}}


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("usage.completion_tokens +", r"attributes\[0\]\.expression: Failed to parse"),
        ("", r"attributes\[0\]\.expression: "),
        ("request.tokens", r"attributes\[0\]\.expression: there is no variable request, only usage"),
    ],
)
def test_expressions_that_cannot_work_are_refused(expression: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        report(expression, USAGE)


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_attribute_is_taken(count: int) -> None:
    attribute = {"key": {"name": "cost"}, "expression": "1"}

    with pytest.raises(msgspec.ValidationError):
        make_plugin(RequestAttributeReporter, attributes=[attribute] * count)
