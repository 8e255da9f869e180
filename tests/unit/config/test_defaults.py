"""What is added to a configuration, in which order, and never at random."""

from __future__ import annotations

import msgspec
import pytest

from epp.api import IN_FLIGHT_LOAD, PREFIX_MATCH, data_key
from epp.config import DataLayer, InvalidConfig, Registry, SourceSpec, build, load_text, resolved_of
from tests.support.configs import FAKES, HEAD, build_fake, fake_registry, make_environment, report, resolve_fake

SCORER = "plugins: [{type: queue-scorer}]\n"


def test_no_configuration_at_all_gives_weights_2_2_3() -> None:
    pipeline = build(load_text("# nothing\n"), fake_registry(), make_environment())

    resolved = resolved_of(pipeline)
    assert resolved.profiles[0].scorers == (
        ("queue-scorer", 2.0),
        ("kv-cache-utilization-scorer", 2.0),
        ("prefix-cache-scorer", 3.0),
    )
    assert all(spec.default for spec in resolved.plugins.values())


def test_no_profiles_gives_one_with_every_filter_scorer_and_picker_in_configuration_order() -> None:
    resolved = resolve_fake(
        "plugins: [{type: random-picker}, {type: kv-cache-utilization-scorer}, {name: b, type: keep-all}, "
        "{type: queue-scorer}, {name: a, type: keep-all}, {type: openai-parser}]\n"
    )

    (profile,) = resolved.profiles
    assert profile.name == "default"
    assert profile.filters == ("b", "a")
    assert profile.scorers == (("kv-cache-utilization-scorer", 1.0), ("queue-scorer", 1.0))
    assert profile.picker == "random-picker"


def test_a_plugin_that_filters_and_scores_does_both() -> None:
    profile = resolve_fake("plugins: [{type: filtering-scorer}]\n").profiles[0]

    assert profile.filters == ("filtering-scorer",)
    assert profile.scorers == (("filtering-scorer", 1.0),)


def test_missing_weights_are_1_and_given_ones_may_be_fractions() -> None:
    resolved = resolve_fake(
        "plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer}]\n"
        "schedulingProfiles:\n- name: p\n"
        "  plugins: [{pluginRef: kv-cache-utilization-scorer, weight: 0.25}, {pluginRef: queue-scorer}]\n"
    )

    assert resolved.profiles[0].scorers == (("kv-cache-utilization-scorer", 0.25), ("queue-scorer", 1.0))


def test_a_profile_without_a_picker_takes_the_first_declared_one() -> None:
    resolved = resolve_fake(
        "plugins: [{type: queue-scorer}, {type: random-picker}, {type: max-score-picker}]\n"
        "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]\n"
    )

    assert resolved.profiles[0].picker == "random-picker"


def test_without_any_picker_the_highest_score_wins() -> None:
    assert resolve_fake(SCORER).profiles[0].picker == "max-score-picker"


def test_one_profile_gets_the_single_profile_handler() -> None:
    assert resolve_fake(SCORER).handler == "single-profile-handler"


def test_default_parsers_are_those_that_the_registry_has_with_the_fallback_last() -> None:
    assert resolve_fake(SCORER).parsers == ("openai-parser", "passthrough-parser")


def test_a_declared_parser_takes_the_place_of_the_default_one_of_its_type() -> None:
    resolved = resolve_fake("plugins: [{type: queue-scorer}, {name: mine, type: openai-parser}]\n")

    assert resolved.parsers == ("mine", "passthrough-parser")


@pytest.mark.parametrize("parser", ["openai-parser", "passthrough-parser"])
def test_a_parser_that_is_listed_need_not_be_declared(parser: str) -> None:
    """Files that list only vllmgrpc-parser, and declare no parser, work with the Go EPP."""
    resolved = resolve_fake(f"{SCORER}requestHandler: {{parsers: [{{pluginRef: {parser}}}]}}\n")

    assert resolved.parsers == (parser,)


@pytest.mark.parametrize(
    ("type_name", "section"),
    [
        ("openai-parser", "requestHandler: {parsers: [{pluginRef: openai-parser}]}"),
        ("utilization-detector", "flowControl: {saturationDetector: {pluginRef: utilization-detector}}"),
        ("utilization-detector", "schedulingProfiles: [{name: p, plugins: [{pluginRef: utilization-detector}]}]"),
    ],
)
def test_a_type_that_is_named_is_not_a_plugin_of_that_type_by_another_name(type_name: str, section: str) -> None:
    """The Go EPP adds one with default parameters; who has declared another one is told."""
    body = f"plugins: [{{type: queue-scorer}}, {{name: mine, type: {type_name}}}]\n{section}\n"

    assert {"mine", type_name} <= set(resolve_fake(body).plugins)
    warning = f'no plugin is named "{type_name}": one with default parameters is added beside "mine"'
    assert any("warning: " in line and line.endswith(warning) for line in report(body))


def test_the_detector_that_is_named_is_taken_and_not_the_one_of_another_name() -> None:
    resolved = resolve_fake(
        "plugins: [{type: queue-scorer}, {name: mine, type: utilization-detector}]\n"
        "saturationDetector: {pluginRef: utilization-detector}\n"
    )

    assert resolved.saturation_detector == "utilization-detector"


def test_a_detector_that_is_not_added_has_to_be_declared() -> None:
    found = report(
        "plugins: [{type: queue-scorer}, {name: mine, type: utilization-detector}]\n"
        "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}, {pluginRef: utilization-detector}]}]\n"
        "saturationDetector: {pluginRef: mine}\n"
    )

    assert any('no plugin is named "utilization-detector"' in line and "warning: " not in line for line in found)


@pytest.mark.parametrize(
    "name", ["single-profile-handler", "openai-parser", "metrics-data-source", "fcfs-ordering-policy"]
)
def test_what_is_always_there_is_ignored_in_a_profile(name: str) -> None:
    body = f"{SCORER}schedulingProfiles: [{{name: p, plugins: [{{pluginRef: queue-scorer}}, {{pluginRef: {name}}}]}}]\n"

    assert resolve_fake(body).profiles[0].scorers == (("queue-scorer", 1.0),)
    assert report(body) == [
        f'4:81: warning: schedulingProfiles[0].plugins[1].pluginRef: "{name}" does nothing in a profile: it is ignored'
    ]


def test_a_picker_that_is_not_added_has_to_be_declared() -> None:
    found = report(
        "plugins: [{type: queue-scorer}, {type: random-picker}]\n"
        "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}, {pluginRef: max-score-picker}]}]\n"
    )

    assert any('no plugin is named "max-score-picker"; add it to plugins' in line for line in found)


def test_the_deprecated_parser_field_is_a_list_of_one() -> None:
    body = "plugins: [{type: queue-scorer}, {type: passthrough-parser}]\nparser: {pluginRef: passthrough-parser}\n"

    assert resolve_fake(body).parsers == ("passthrough-parser",)
    assert "4:21: warning: parser.pluginRef: is deprecated: use requestHandler.parsers" in report(body)


def test_flow_controls_saturation_detector_wins_over_the_deprecated_one() -> None:
    resolved = resolve_fake(
        "plugins: [{type: queue-scorer}, {name: a, type: utilization-detector}, {name: b, type: utilization-detector}]\n"
        "saturationDetector: {pluginRef: a}\n"
        "flowControl: {saturationDetector: {pluginRef: b}}\n"
    )

    assert resolved.saturation_detector == "b"


def test_naming_the_default_detector_without_declaring_it_is_enough() -> None:
    resolved = resolve_fake(f"{SCORER}saturationDetector: {{pluginRef: utilization-detector}}\n")

    assert resolved.saturation_detector == "utilization-detector"


METRICS = SourceSpec("metrics-data-source", ("core-metrics-extractor",))


@pytest.mark.parametrize(
    ("body", "layer"),
    [
        (SCORER, DataLayer((METRICS,))),
        (f"{SCORER}dataLayer: {{}}\n", DataLayer((METRICS,))),
        (f"{SCORER}dataLayer: {{injectDefaults: false}}\n", DataLayer(())),
        (
            "plugins: [{name: m, type: metrics-data-source}, {name: x, type: core-metrics-extractor}, {type: queue-scorer}]\n",
            DataLayer((SourceSpec("m", ("x",)),)),
        ),
        (
            (
                "plugins: [{name: m, type: metrics-data-source}, {name: x, type: core-metrics-extractor}, "
                "{type: queue-scorer}]\n"
                "dataLayer: {sources: [{pluginRef: m, extractors: [{pluginRef: x}]}]}\n"
            ),
            DataLayer((SourceSpec("m", ("x",)),)),
        ),
        (
            "plugins: [{type: file-discovery}, {type: queue-scorer}]\ndataLayer: {discovery: {pluginRef: file-discovery}}\n",
            DataLayer((METRICS,), "file-discovery"),
        ),
    ],
)
def test_the_metrics_source_is_added_once_unless_refused(body: str, layer: DataLayer) -> None:
    assert resolve_fake(body).data_layer == layer


def test_in_flight_requests_are_counted_in_every_configuration() -> None:
    resolved = resolve_fake(SCORER)

    assert resolved.plugins["inflight-load-producer"].default


def test_in_flight_counting_that_nobody_reads_brings_no_prefix_hashing_with_it() -> None:
    assert resolve_fake(SCORER).producers == ("inflight-load-producer",)


def test_missing_producers_are_created_transitively_and_run_before_their_readers() -> None:
    resolved = resolve_fake("plugins: [{type: token-load-scorer}]\n")

    assert resolved.producers == ("approx-prefix-cache-producer", "inflight-load-producer")
    assert resolved.produces["inflight-load-producer"] == (data_key(IN_FLIGHT_LOAD),)
    assert resolved.consumes["inflight-load-producer"] == (data_key(PREFIX_MATCH),)


PREFIX = "PrefixCacheMatchInfo/approx-prefix-cache-producer"
MAY_READ = f"- {{type: producer, name: late, parameters: {{produces: [A/late], may: [{PREFIX}]}}}}\n"
READER = "- {type: producer, name: reader, parameters: {consumes: [A/late]}}\n"


def test_data_that_a_plugin_can_do_without_bring_no_producer() -> None:
    resolved = resolve_fake(f"plugins:\n{MAY_READ}{READER}- {{type: queue-scorer}}\n")

    assert resolved.producers == ("late", "reader", "inflight-load-producer")
    assert resolved.warnings == ()


def test_data_that_a_plugin_can_do_without_come_before_it_where_they_are_published() -> None:
    producer = "- {type: approx-prefix-cache-producer}\n"

    resolved = resolve_fake(f"plugins:\n{MAY_READ}{producer}{READER}- {{type: queue-scorer}}\n")

    assert resolved.producers[:3] == ("approx-prefix-cache-producer", "late", "reader")
    assert resolved.consumes["late"] == (PREFIX,)


def test_a_producer_that_is_named_and_not_there_is_told_by_who_can_do_without() -> None:
    plugins = "- {type: producer, name: late, parameters: {may: [PrefixCacheMatchInfo/mine]}}\n- {type: queue-scorer}\n"

    [warning] = resolve_fake(f"plugins:\n{plugins}").warnings

    assert warning.message == '"late" reads PrefixCacheMatchInfo/mine, which no plugin publishes: it does without'


def test_a_default_producer_under_another_name_is_not_made_again() -> None:
    """It once was asked for without end."""
    plugins = "plugins: [{type: inflight-load-producer, name: mine}, {type: token-load-scorer}]\n"

    with pytest.raises(InvalidConfig, match="InFlightLoad/inflight-load-producer, which no plugin publishes"):
        resolve_fake(plugins)


def test_producers_keep_configuration_order_where_data_do_not_say_otherwise() -> None:
    resolved = resolve_fake(
        "plugins:\n"
        "- {type: queue-scorer}\n"
        "- {name: c, type: producer, parameters: {produces: [K/c], consumes: [K/a]}}\n"
        "- {name: b, type: producer, parameters: {produces: [K/b]}}\n"
        "- {name: a, type: producer, parameters: {produces: [K/a]}}\n"
    )

    assert resolved.producers == ("b", "a", "c", "inflight-load-producer")


@pytest.mark.parametrize(
    ("plugins", "problem"),
    [
        (
            "[{type: prefix-cache-scorer, parameters: {producerName: precise}}]",
            (
                '3:11: plugins[0]: "prefix-cache-scorer" reads PrefixCacheMatchInfo/precise, which no plugin publishes; '
                'add a plugin named "precise"'
            ),
        ),
        (
            "[{type: queue-scorer}, {type: producer, parameters: {consumes: [prefix]}}]",
            '3:33: plugins[1]: "producer" reads prefix, which no plugin publishes; keys are KIND/PRODUCER',
        ),
        (
            (
                "[{type: prefix-cache-scorer, parameters: {producerName: mine2}}, "
                "{name: mine1, type: approx-prefix-cache-producer}]"
            ),
            (
                '3:11: plugins[0]: "prefix-cache-scorer" reads PrefixCacheMatchInfo/mine2, which no plugin publishes '
                "(there is PrefixCacheMatchInfo/mine1)"
            ),
        ),
        (
            (
                "[{type: queue-scorer}, {name: a, type: producer, parameters: {produces: [K/a], consumes: [K/b]}}, "
                "{name: b, type: producer, parameters: {produces: [K/b], consumes: [K/a]}}]"
            ),
            "3:33: plugins[1]: data producers wait for each other: a reads from b reads from a",
        ),
        (
            (
                "[{type: queue-scorer}, {name: a, type: producer, parameters: {produces: [K/x]}}, "
                "{name: b, type: producer, parameters: {produces: [K/x]}}]"
            ),
            '3:91: plugins[2]: "b" publishes K/x, and so does "a"',
        ),
        (
            "[{type: queue-scorer}, {type: reading-detector}]",
            (
                '3:33: plugins[1]: "reading-detector" reads PrefixCacheMatchInfo/approx-prefix-cache-producer, '
                'which "approx-prefix-cache-producer" publishes only later in a request'
            ),
        ),
    ],
)
def test_data_that_cannot_be_there_are_an_error(plugins: str, problem: str) -> None:
    assert [line for line in report(f"plugins: {plugins}\n") if "warning: " not in line] == [problem]


def test_a_default_plugin_that_the_registry_lacks_is_a_problem() -> None:
    registry = Registry({name: cls for name, cls in FAKES.items() if name != "max-score-picker"})

    with pytest.raises(InvalidConfig) as raised:
        build(load_text(HEAD + SCORER, "c.yaml"), registry, make_environment())

    assert 'c.yaml: a default plugin is missing: unknown plugin type "max-score-picker"' in str(raised.value)


def test_plugins_are_in_configuration_order_with_defaults_after_them() -> None:
    names = list(
        build_fake(
            "plugins: [{type: random-picker}, {name: z, type: queue-scorer}, {name: a, type: keep-all}]\n"
        ).plugins
    )

    assert names[:3] == ["random-picker", "z", "a"]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        pytest.param(SCORER, ["queue-scorer", "keep-all"], id="added"),
        pytest.param(
            "plugins: [{type: queue-scorer}, {type: keep-all, name: mine}]\n", ["queue-scorer", "mine"], id="there"
        ),
    ],
)
def test_what_every_configuration_has_is_added_where_it_is_not_there(body: str, names: list[str]) -> None:
    environment = msgspec.structs.replace(make_environment(), always=("keep-all",))
    profiles = "schedulingProfiles: [{name: p, plugins: [{pluginRef: queue-scorer}]}]\n"

    resolved = resolved_of(build(load_text(HEAD + body + profiles), fake_registry(), environment))

    assert [n for n, spec in resolved.plugins.items() if spec.type in ("queue-scorer", "keep-all")] == names
