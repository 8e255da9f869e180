"""Each thing that can be wrong with a configuration gives one line: where, what, what was expected."""
# ruff: noqa: E501 (whole messages, to be read as users see them)

from __future__ import annotations

import pytest

from epp.config import load_text
from tests.support.configs import HEAD, build_fake, report

PROFILE = "schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]\n"
SCORER = "plugins: [{type: queue-scorer}]\n"


def errors(body: str) -> list[str]:
    return [line for line in report(body) if "warning: " not in line]


def warnings(body: str) -> list[str]:
    return [line for line in report(body) if "warning: " in line]


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ("kind: EndpointPickerConfig\n", "1:1: apiVersion: is missing"),
        ("apiVersion: llm-d.ai/v1alpha1\n", "1:1: kind: is missing"),
        (
            "apiVersion: llm-d.ai/v1alpha3\nkind: EndpointPickerConfig\n",
            '1:13: apiVersion: expected "llm-d.ai/v1alpha1", got "llm-d.ai/v1alpha3"; did you mean "llm-d.ai/v1alpha1"?',
        ),
        (
            "apiVersion: llm-d.ai/v1alpha1\nkind: InferencePool\n",
            '2:7: kind: expected "EndpointPickerConfig", got "InferencePool"',
        ),
        ("apiVersion: 1\nkind: EndpointPickerConfig\n", "1:13: apiVersion: expected text, got the number 1"),
    ],
)
def test_version_and_kind_are_required(head: str, problem: str) -> None:
    assert [line for line in report(SCORER, head=head) if "warning: " not in line] == [problem]


def test_the_group_of_the_gateway_api_extension_is_accepted_with_a_warning() -> None:
    head = HEAD.replace("llm-d.ai", "inference.networking.x-k8s.io")

    assert report(SCORER, head=head) == [
        '1:13: warning: apiVersion: "inference.networking.x-k8s.io/v1alpha1" is deprecated: use "llm-d.ai/v1alpha1"'
    ]


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("plugin: []\n", '3:1: plugin: unknown field; did you mean "plugins"?'),
        ("plugins: {}\n", "3:10: plugins: expected a list, got a mapping"),
        ("plugins: [x]\n", '3:11: plugins[0]: expected a mapping, got the text "x"'),
        ("plugins:\n-\n", "4:2: plugins[0]: expected a mapping, got nothing"),
        ("plugins: [{name: x}]\n", "3:11: plugins[0].type: is missing"),
        ("plugins: [{type: ''}]\n", "3:18: plugins[0].type: is empty"),
        ("plugins: [{type: 5}]\n", "3:18: plugins[0].type: expected text, got the number 5"),
        ("plugins: [{type: queue-scorer, weight: 1}]\n", "3:32: plugins[0].weight: unknown field"),
        (
            "plugins: [{type: queue-scorer, parameters: [1]}]\n",
            "3:44: plugins[0].parameters: expected a mapping, got a list",
        ),
        (
            "plugins: [{type: queue-scorr}]\n",
            '3:18: plugins[0].type: unknown plugin type "queue-scorr"; did you mean "queue-scorer"?',
        ),
        (
            "plugins: [{type: queue-scorer}, {type: queue-scorer}]\n",
            '3:40: plugins[1].type: another plugin is named "queue-scorer" (line 3); give this one a name of its own',
        ),
        (
            "plugins: [{type: queue-scorer}, {type: keep-all, name: queue-scorer}]\n",
            '3:56: plugins[1].name: another plugin is named "queue-scorer" (line 3); give this one a name of its own',
        ),
        (
            "plugins: [{type: gone-scorer}]\n",
            '3:18: plugins[0].type: unknown plugin type "gone-scorer"; it is no longer there, use "queue-scorer"',
        ),
        (
            "plugins: [{type: experimental-scorer}]\n",
            '3:18: plugins[0].type: plugin type "experimental-scorer" is experimental: allow it with --allow-experimental-plugins',
        ),
        (
            "plugins: [{type: failing-scorer}]\n",
            "3:11: plugins[0]: the plugin does not start: KeyError: 'no such thing'",
        ),
        (
            "plugins: [{type: queue-scorer}, {type: max-score-picker}, {type: random-picker}]\n",
            '3:59: plugins[2]: expected one picker in a profile: "max-score-picker" is one already',
        ),
        (
            "plugins: [{type: queue-scorer}, {type: single-profile-handler}, {type: any-profiles-handler}]\n",
            '3:65: plugins[2]: expected one profile handler: "single-profile-handler" is one already',
        ),
        (
            "plugins: [{type: queue-scorer}, {name: max-score-picker, type: keep-all}]\n",
            '3:40: plugins[1].name: the name "max-score-picker" is needed for a default plugin of that type; choose another one',
        ),
    ],
)
def test_plugins(body: str, problem: str) -> None:
    assert errors(body) == [problem]


@pytest.mark.parametrize(
    ("profiles", "problem"),
    [
        ("[{plugins: []}]", "4:22: schedulingProfiles[0].name: is missing"),
        (
            "[{name: a, plugins: [{pluginRef: queue-scorr}]}]",
            '4:54: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named "queue-scorr"; did you mean "queue-scorer"?',
        ),
        (
            "[{name: a, plugins: [{pluginRef: random-picker}]}]",
            '4:54: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named "random-picker"; add it to plugins, as {type: random-picker}',
        ),
        (
            "[{name: a, plugins: [{pluginRef: keep-all}]}]",
            '4:54: schedulingProfiles[0].plugins[0].pluginRef: no plugin is named "keep-all"; the plugin of that type is named "mine"',
        ),
        ("[{name: a, plugins: [{weight: 1}]}]", "4:42: schedulingProfiles[0].plugins[0].pluginRef: is missing"),
        (
            "[{name: a, plugins: [{pluginRef: queue-scorer, weight: -0.5}]}]",
            "4:76: schedulingProfiles[0].plugins[0].weight: expected a number of at least 0, got -0.5",
        ),
        (
            "[{name: a, plugins: [{pluginRef: queue-scorer, weight: .nan}]}]",
            "4:76: schedulingProfiles[0].plugins[0].weight: expected a finite number, got .nan",
        ),
        (
            "[{name: a, plugins: [{pluginRef: queue-scorer, weight: '2'}]}]",
            '4:76: schedulingProfiles[0].plugins[0].weight: expected a number, got the text "2"',
        ),
        (
            "[{name: a, plugins: [{pluginRef: queue-scorer, weight: true}]}]",
            "4:76: schedulingProfiles[0].plugins[0].weight: expected a number, got the boolean true",
        ),
        (
            "[{name: a, plugins: [{pluginRef: queue-scorer}, {pluginRef: queue-scorer}]}]",
            '4:81: schedulingProfiles[0].plugins[1].pluginRef: "queue-scorer" is in this profile twice',
        ),
        (
            "[{name: a, plugins: [{pluginRef: max-score-picker}, {pluginRef: second}]}]",
            '4:85: schedulingProfiles[0].plugins[1].pluginRef: expected one picker in a profile: "max-score-picker" is one already',
        ),
        (
            "[{name: a, plugins: [{pluginRef: queue-scorer}]}, {name: b, plugins: [{pluginRef: queue-scorer}]}]",
            "4:71: schedulingProfiles[1]: 2 profiles need a profile handler among the plugins; there is none",
        ),
    ],
)
def test_profiles(profiles: str, problem: str) -> None:
    plugins = "plugins: [{type: queue-scorer}, {type: max-score-picker}, {name: second, type: max-score-picker}, {name: mine, type: keep-all}]\n"

    assert errors(f"{plugins}schedulingProfiles: {profiles}\n") == [problem]


def test_two_profiles_of_one_name() -> None:
    body = (
        "plugins: [{type: queue-scorer}, {type: any-profiles-handler}]\n"
        "schedulingProfiles:\n"
        "- {name: a, plugins: [{pluginRef: queue-scorer}]}\n"
        "- {name: a, plugins: [{pluginRef: queue-scorer}]}\n"
    )

    assert errors(body) == ['6:10: schedulingProfiles[1].name: another profile is named "a"']


def test_the_profile_handler_may_refuse_the_profiles() -> None:
    body = (
        "plugins: [{type: queue-scorer}, {type: single-profile-handler}]\n"
        "schedulingProfiles:\n"
        "- {name: a, plugins: [{pluginRef: queue-scorer}]}\n"
        "- {name: b, plugins: [{pluginRef: queue-scorer}]}\n"
    )

    assert errors(body) == ["3:33: plugins[1]: expected one profile, got 2"]


@pytest.mark.parametrize(
    ("gates", "problem"),
    [
        ("[flowcontrol]", '4:16: featureGates[0]: no feature gate is named "flowcontrol"; did you mean "flowControl"?'),
        ("[flowControl=yes]", '4:16: featureGates[0]: feature gate "flowControl": expected true or false, got "yes"'),
        ("[flowControl=]", '4:16: featureGates[0]: feature gate "flowControl": expected true or false, got ""'),
        ("{flowControl: true}", "4:15: featureGates: expected a list, got a mapping"),
        ("[1]", "4:16: featureGates[0]: expected name, name=true or name=false, got the number 1"),
    ],
)
def test_feature_gates(gates: str, problem: str) -> None:
    assert errors(f"{SCORER}featureGates: {gates}\n") == [problem]


@pytest.mark.parametrize("gate", ["dataLayer", "enableLegacyMetrics=true", "prepareDataPlugins"])
def test_retired_gates_are_accepted_with_a_warning(gate: str) -> None:
    assert any("has no effect" in line for line in warnings(f"{SCORER}featureGates: [{gate}]\n"))
    assert errors(f"{SCORER}featureGates: [{gate}]\n") == []


def test_gates_are_read_with_and_without_a_value() -> None:
    pipeline = build_fake(f"{SCORER}featureGates: [flowControl, haPopulateNonLeaderDatastore=false]\n")

    assert pipeline.settings["feature_gates"] == {"flowControl": True, "haPopulateNonLeaderDatastore": False}


@pytest.mark.parametrize(
    ("value", "on"), [("1", True), ("t", True), ("T", True), ("TRUE", True), ("0", False), ("f", False), ("F", False)]
)
def test_a_gate_has_the_values_that_the_go_epp_reads(value: str, on: bool) -> None:
    pipeline = build_fake(f"{SCORER}featureGates: [flowControl={value}]\n")

    assert pipeline.settings["feature_gates"]["flowControl"] is on


def test_of_a_gate_that_is_there_twice_the_last_one_counts() -> None:
    body = f"{SCORER}featureGates: [flowControl=true, flowControl=false]\n"

    assert build_fake(body).settings["feature_gates"]["flowControl"] is False
    assert '4:34: warning: featureGates[1]: feature gate "flowControl" is there twice: this one counts' in report(body)


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (
            "requestHandler: {parsers: [{pluginRef: nobody}]}",
            '4:40: requestHandler.parsers[0].pluginRef: no plugin is named "nobody"',
        ),
        (
            "requestHandler: {parsers: [{pluginRef: queue-scorer}]}",
            '4:40: requestHandler.parsers[0].pluginRef: expected a parser: "queue-scorer" is a scorer',
        ),
        ("requestHandler: {parser: []}", '4:18: requestHandler.parser: unknown field; did you mean "parsers"?'),
        (
            "saturationDetector: {pluginRef: queue-scorer}",
            '4:33: saturationDetector.pluginRef: expected a saturation detector: "queue-scorer" is a scorer',
        ),
        ("flowControl: {saturationDetector: {}}", "4:35: flowControl.saturationDetector.pluginRef: is missing"),
        (
            "dataLayer: {sources: [{pluginRef: queue-scorer}]}",
            '4:35: dataLayer.sources[0].pluginRef: expected a data source: "queue-scorer" is a scorer',
        ),
        (
            "dataLayer: {discovery: {pluginRef: queue-scorer}}",
            '4:36: dataLayer.discovery.pluginRef: expected a discovery: "queue-scorer" is a scorer',
        ),
        (
            "dataLayer: {injectDefault: true}",
            '4:13: dataLayer.injectDefault: unknown field; did you mean "injectDefaults"?',
        ),
        (
            "dataLayer: {injectDefaults: 'no'}",
            '4:29: dataLayer.injectDefaults: expected true or false, got the text "no"',
        ),
        (
            "dataLayer: {crossReplicaSyncInterval: 5}",
            "4:39: dataLayer.crossReplicaSyncInterval: expected a duration such as 60s, 1m30s or 200ms, got 5",
        ),
        (
            "flowControl: {maxBytes: 1GB}",
            "4:25: flowControl.maxBytes: expected a quantity such as 1Gi, 500M or 1000, got '1GB'",
        ),
        (
            "flowControl: {maxRequests: -1}",
            "4:28: flowControl.maxRequests: expected a quantity such as 1Gi, 500M or 1000, got -1",
        ),
        ("flowControl: {maxRequests: [1]}", "4:28: flowControl.maxRequests: expected text or a number, got a list"),
        (
            "flowControl: {defaultRequestTTL: -5s}",
            "4:34: flowControl.defaultRequestTTL: expected a duration such as 60s, 1m30s or 200ms, got '-5s' (it must not be negative)",
        ),
        (
            "flowControl: {priorityBands: [{}, {}]}",
            "4:35: flowControl.priorityBands[1].priority: priority 0 has a band already",
        ),
        (
            "flowControl: {priorityBands: [{priority: 1.5}]}",
            "4:42: flowControl.priorityBands[0].priority: expected a whole number, got the number 1.5",
        ),
        (
            "flowControl: {priorityBands: [{priority: 1}, {priority: 1}]}",
            "4:57: flowControl.priorityBands[1].priority: priority 1 has a band already",
        ),
    ],
)
def test_sections(section: str, problem: str) -> None:
    assert errors(f"{SCORER}{section}\n") == [problem]


@pytest.mark.parametrize(
    ("section", "problem"),
    [
        (
            "{defaultPriorityBand: {fairnessPolicyRef: fcfs-ordering-policy}}",
            (
                '5:56: flowControl.defaultPriorityBand.fairnessPolicyRef: expected a fairness policy: "fcfs-ordering-policy" is of another kind, '
                "ordering policy"
            ),
        ),
        (
            "{defaultPriorityBand: {orderingPolicyRef: fcfs-ordering}}",
            (
                '5:56: flowControl.defaultPriorityBand.orderingPolicyRef: no ordering policy is named "fcfs-ordering"; '
                'did you mean "fcfs-ordering-policy"?'
            ),
        ),
        (
            "{usageLimitPolicyPluginRef: queue-scorer}",
            '5:42: flowControl.usageLimitPolicyPluginRef: expected a usage-limit policy: "queue-scorer" is a scorer',
        ),
        (
            "{defaultPriorityBand: {fairnessPolicyRef: round-robin-fairness-policy}}",
            (
                '5:56: flowControl.defaultPriorityBand.fairnessPolicyRef: no fairness policy is named "round-robin-fairness-policy"; '
                "add it to plugins, as {type: round-robin-fairness-policy}"
            ),
        ),
    ],
)
def test_policies_have_to_be_there_only_where_flow_control_is_on(section: str, problem: str) -> None:
    """Files for the Go EPP with a section that is not in use, and with policies of other releases in it, are good ones."""
    on = f"{SCORER}featureGates: [flowControl]\nflowControl: {section}\n"
    off = f"{SCORER}featureGates: [flowControl=false]\nflowControl: {section}\n"
    place, _, message = problem.partition(" ")

    assert errors(on) == [problem]
    assert errors(off) == []
    assert f"{place} warning: {message}" in warnings(off)


def test_the_policies_that_are_always_there_need_not_be_declared() -> None:
    bands = "[{fairnessPolicyRef: global-strict-fairness-policy, orderingPolicyRef: fcfs-ordering-policy}]"
    settings = f"{{usageLimitPolicyPluginRef: static-usage-limit-policy, priorityBands: {bands}}}"

    assert errors(f"{SCORER}featureGates: [flowControl]\nflowControl: {settings}\n") == []


def test_everything_wrong_is_reported_at_once_in_the_order_of_the_file() -> None:
    body = (
        "plugins:\n"
        "- type: queue-scorr\n"
        "- type: keep-all\n"
        "  parameters: {limmit: 1}\n"
        "schedulingProfiles:\n"
        "- name: default\n"
        "  plugins: [{pluginRef: nobody, weight: -1}]\n"
        "flowControl: {maxBytes: many}\n"
        "extra: 1\n"
    )

    found = [line.split(" ")[1] for line in errors(body)]

    assert found == [
        "plugins[0].type:",
        "plugins[1].parameters.limmit:",
        "schedulingProfiles[0].plugins[0].pluginRef:",
        "schedulingProfiles[0].plugins[0].weight:",
        "flowControl.maxBytes:",
        "extra:",
    ]


def test_thousands_of_errors_are_cut_off_but_still_errors() -> None:
    body = "plugins:\n" + "- type: queue-scorr\n" * 3000

    assert len(errors(body)) == 200


def test_thousands_of_warnings_hide_no_error() -> None:
    refs = "".join(f"- {{name: s{i}, type: queue-scorer}}\n" for i in range(300))
    profiles = "schedulingProfiles: [{name: a, plugins: [{pluginRef: s0}]}]\nextra: 1\n"

    assert errors(f"plugins:\n{refs}{profiles}") == ["305:1: extra: unknown field"]


def test_a_text_that_is_no_mapping_is_one_problem() -> None:
    loaded = load_text("- a\n- b\n", "c.yaml")

    assert str(loaded.problems[0]) == "c.yaml:1:1: expected a mapping, got a list"
