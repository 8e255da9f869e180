"""Plugin parameters are decoded strictly at every level, and errors point at the value that does not fit."""

from __future__ import annotations

import pytest

from tests.support.configs import KeepAll, build_fake, report


def errors(parameters: str) -> list[str]:
    found = report(f"plugins:\n- type: keep-all\n  parameters: {parameters}\n- type: queue-scorer\n")
    return [line for line in found if "warning: " not in line]


def test_parameters_reach_the_plugin_by_their_configuration_names() -> None:
    pipeline = build_fake(
        "plugins:\n- type: keep-all\n  parameters:\n    rules: [{metric: queue, maxValue: 2}]\n    matchLabels: {a: b}\n"
    )

    plugin = pipeline.plugins["keep-all"]
    assert isinstance(plugin, KeepAll)
    assert plugin.params.rules[0].max_value == 2
    assert plugin.params.match_labels == {"a": "b"}


@pytest.mark.parametrize(
    ("parameters", "problem"),
    [
        ("{limmit: 1}", '5:16: plugins[0].parameters.limmit: unknown field; did you mean "limit"?'),
        (
            "{rules: [{metric: queue, maxvalue: 1}]}",
            '5:40: plugins[0].parameters.rules[0].maxvalue: unknown field; did you mean "maxValue"?',
        ),
        ("{rules: [{maxValue: 1}]}", "5:24: plugins[0].parameters.rules[0].metric: is missing"),
        ("{rules: [{metric: null}]}", "5:24: plugins[0].parameters.rules[0].metric: is missing"),
        (
            "{rules: [{metric: quue}]}",
            (
                '5:33: plugins[0].parameters.rules[0].metric: expected "queue" or "usage", got the text "quue"; '
                'did you mean "queue"?'
            ),
        ),
        (
            "{rules: [{metric: QUEUE}]}",
            (
                '5:33: plugins[0].parameters.rules[0].metric: expected "queue" or "usage", got the text "QUEUE"; '
                'did you mean "queue"?'
            ),
        ),
        ("{LIMIT: 1}", '5:16: plugins[0].parameters.LIMIT: unknown field; did you mean "limit"?'),
        ("{rules: {metric: queue}}", "5:23: plugins[0].parameters.rules: expected a list, got a mapping"),
        ("{limit: x}", '5:23: plugins[0].parameters.limit: expected a whole number or nothing, got the text "x"'),
        (
            "{limit: true}",
            "5:23: plugins[0].parameters.limit: expected a whole number or nothing, got the boolean true",
        ),
        ("{matchLabels: {a: 1}}", "5:29: plugins[0].parameters.matchLabels: expected text, got a whole number"),
        (
            "{rules: [{metric: queue, maxValue: 101}]}",
            "5:50: plugins[0].parameters.rules[0].maxValue: must be at most 100",
        ),
    ],
)
def test_each_kind_of_error_has_its_place(parameters: str, problem: str) -> None:
    assert errors(parameters) == [problem]


def test_all_parameters_that_do_not_fit_are_reported_at_once() -> None:
    found = errors("{limit: x, matchLabels: [], rules: [{a: 1}], extra: 2}")

    assert [line.split(" ")[1] for line in found] == [
        "plugins[0].parameters.limit:",
        "plugins[0].parameters.matchLabels:",
        "plugins[0].parameters.rules[0].metric:",
        "plugins[0].parameters.rules[0].a:",
        "plugins[0].parameters.extra:",
    ]


def test_a_plugin_without_parameters_takes_none() -> None:
    found = report("plugins:\n- type: queue-scorer\n  parameters: {threshold: 1}\n")

    assert found == ["5:16: plugins[0].parameters.threshold: unknown field; there are no parameters"]


def test_null_parameters_mean_the_defaults() -> None:
    assert errors("{limit: null, rules: null}") == []
