"""What is accepted but does not do what its author may believe."""
# ruff: noqa: E501 (whole messages, to be read as users see them)

from __future__ import annotations

import pytest

from tests.support.configs import build_fake, report


@pytest.mark.parametrize(
    ("body", "warning"),
    [
        (
            (
                "plugins: [{type: queue-scorer}, {type: openai-parser}]\n"
                "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}, {pluginRef: openai-parser}]}]\n"
            ),
            '4:81: warning: schedulingProfiles[0].plugins[1].pluginRef: "openai-parser" is a parser: it runs, but it is ignored in a profile',
        ),
        (
            (
                "plugins: [{type: queue-scorer}, {type: keep-all}]\n"
                "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}, {pluginRef: keep-all, weight: 2}]}]\n"
            ),
            '4:99: warning: schedulingProfiles[0].plugins[1].weight: is ignored: "keep-all" is a filter, only scorers have a weight',
        ),
        (
            "plugins: [{type: queue-scorer}, {type: keep-all}]\nschedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]\n",
            '3:33: warning: plugins[1]: no profile lists "keep-all": it does nothing',
        ),
        (
            "plugins: [{type: old-queue-scorer}]\n",
            '3:18: warning: plugins[0].type: plugin type "old-queue-scorer" is deprecated: use "queue-scorer", which takes the same parameters',
        ),
        (
            "plugins: [{type: queue-scorer}, {type: random-picker}]\n",
            '3:40: warning: plugins[1].type: plugin type "random-picker" is deprecated: use "max-score-picker"',
        ),
        (
            "plugins: [{type: keep-all}]\n",
            'warning: profile "default" has no scorer: all endpoints that pass its filters are equal',
        ),
        (
            (
                "plugins: [{type: queue-scorer}, {type: passthrough-parser}, {type: openai-parser}]\n"
                "requestHandler: {parsers: [{pluginRef: passthrough-parser}, {pluginRef: openai-parser}]}\n"
            ),
            '3:61: warning: plugins[2]: "openai-parser" is never asked: "passthrough-parser" before it takes every path; put that one last',
        ),
        (
            (
                "plugins: [{type: queue-scorer}, {type: passthrough-parser}, {type: openai-parser}]\n"
                "requestHandler: {parsers: [{pluginRef: passthrough-parser}]}\n"
            ),
            '3:61: warning: plugins[2]: requestHandler.parsers does not list "openai-parser": it does nothing',
        ),
        (
            "plugins: [{type: queue-scorer}, {type: metrics-data-source}]\ndataLayer: {sources: [{pluginRef: metrics-data-source}]}\n",
            '4:35: warning: dataLayer.sources[0].pluginRef: "metrics-data-source" has no extractor: "core-metrics-extractor" reads what it fetches',
        ),
        (
            "plugins: [{type: queue-scorer}]\ndataLayer: {crossReplicaSyncerPluginRef: x}\n",
            "4:42: warning: dataLayer.crossReplicaSyncerPluginRef: has no effect: replicas do not exchange state in this version",
        ),
        (
            "plugins: [{type: queue-scorer}]\nfeatureGates: [flowControl]\n",
            "4:15: warning: featureGates: flow control is not part of this version: requests are admitted as without the gate",
        ),
        (
            "plugins: [{type: queue-scorer}]\nflowControl: {maxRequests: 5}\n",
            "4:14: warning: flowControl: is checked and, but for saturationDetector, not applied: the feature gate flowControl is off",
        ),
        (
            (
                "plugins: [{type: queue-scorer}, {name: rr, type: round-robin-fairness-policy, parameters: {a: 1}}]\n"
                "flowControl: {defaultPriorityBand: {fairnessPolicyRef: rr}}\n"
            ),
            '3:50: warning: plugins[1].type: "round-robin-fairness-policy" belongs to flow control, which is not part of this version: the plugin is left out',
        ),
    ],
)
def test_it_is_said(body: str, warning: str) -> None:
    found = report(body)

    assert any(line.endswith(warning) for line in found), found
    assert all("warning: " in line for line in found)


def test_a_data_layer_without_sources_is_said_to_be_blind() -> None:
    found = report("plugins: [{type: queue-scorer}]\ndataLayer: {injectDefaults: false}\n")

    assert found == ["warning: dataLayer.sources: there is no data source: scorers see no metrics of model servers"]


def test_a_plain_configuration_has_no_warnings() -> None:
    assert report("plugins: [{type: queue-scorer}]\n") == []


def test_a_policy_of_flow_control_is_not_made() -> None:
    pipeline = build_fake(
        "plugins: [{type: queue-scorer}, {type: round-robin-fairness-policy}]\n"
        "featureGates: [flowControl]\n"
        "flowControl: {priorityBands: [{priority: 3, fairnessPolicyRef: round-robin-fairness-policy}]}\n"
    )

    assert "round-robin-fairness-policy" not in pipeline.plugins


def test_experimental_types_are_accepted_where_they_are_allowed() -> None:
    assert report("plugins: [{type: experimental-scorer}]\n", allow_experimental=True) == []


def test_an_alias_is_the_type_that_it_stands_for() -> None:
    plugin = build_fake("plugins: [{type: old-queue-scorer}]\n").plugins["old-queue-scorer"]

    assert plugin.type == "queue-scorer"
