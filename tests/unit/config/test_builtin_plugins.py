"""The in-tree registry, the files in config/, and configurations that other EPPs ship."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.api import ConfigError
from epp.config import (
    InvalidConfig,
    Pipeline,
    Registry,
    build,
    describe,
    load_default,
    load_file,
    load_text,
    resolved_of,
    to_yaml,
)
from epp_plugins.registry import ALIASES, BUILTIN, REPLACED, by_type
from tests.support.configs import HEAD, FlatScorer, make_environment

FILES = sorted((Path(__file__).parents[3] / "config").glob("*.yaml"))

S1 = """
plugins: [{type: queue-scorer}, {type: kv-cache-utilization-scorer}, {type: prefix-cache-scorer},
          {type: metrics-data-source, parameters: {scheme: http, path: /metrics, insecureSkipVerify: true}},
          {type: core-metrics-extractor}]
schedulingProfiles:
- name: default
  plugins: [{pluginRef: queue-scorer, weight: 2}, {pluginRef: kv-cache-utilization-scorer, weight: 2},
            {pluginRef: prefix-cache-scorer, weight: 3}]
"""
S2 = """
plugins:
- {type: queue-scorer}
- {type: predicted-latency-producer}
- name: strict-affinity-filter
  type: prefix-cache-affinity-filter
  parameters: {affinityThreshold: 0.99, ttftSource: latencyPredictor, maxTTFTPenaltyMs: 5000}
- {type: latency-scorer}
- {type: weighted-random-picker}
- {type: slo-headroom-tier-filter}
- {type: latency-slo-admitter}
schedulingProfiles:
- name: default
  plugins: [{pluginRef: predicted-latency-producer}, {pluginRef: strict-affinity-filter}, {pluginRef: slo-headroom-tier-filter},
            {pluginRef: latency-scorer}, {pluginRef: weighted-random-picker}]
"""
S3 = """
plugins: [{type: passthrough-parser}, {type: active-request-scorer}, {type: session-affinity-scorer}]
requestHandler: {parsers: [{pluginRef: passthrough-parser}]}
schedulingProfiles:
- name: default
  plugins: [{pluginRef: active-request-scorer, weight: 1}, {pluginRef: session-affinity-scorer, weight: 1}]
"""
S4 = """
plugins:
- {type: approx-prefix-cache-producer, parameters: {maxPrefixTokensToMatch: 16384, lruCapacityPerServer: 31250}}
- {type: prefix-cache-scorer}
- {type: queue-scorer}
- {type: prefill-filter}
- {type: decode-filter}
- {type: max-score-picker}
- {type: disagg-profile-handler, parameters: {deciders: {prefill: prefix-based-pd-decider}}}
- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 16}}
schedulingProfiles:
- name: prefill
  plugins: [{pluginRef: prefill-filter}, {pluginRef: max-score-picker}, {pluginRef: prefix-cache-scorer, weight: 2},
            {pluginRef: queue-scorer, weight: 1}]
- name: decode
  plugins: [{pluginRef: decode-filter}, {pluginRef: max-score-picker}, {pluginRef: prefix-cache-scorer, weight: 2},
            {pluginRef: queue-scorer, weight: 1}]
"""
S5 = """
plugins:
- {type: queue-scorer}
- {type: encode-filter}
- {type: prefill-filter}
- {type: decode-filter}
- type: disagg-profile-handler
  parameters: {deciders: {encode: always-disagg-multimodal-decider, prefill: prefix-based-pd-decider}}
- {type: always-disagg-multimodal-decider}
- {type: prefix-based-pd-decider, parameters: {nonCachedTokens: 16}}
schedulingProfiles:
- {name: encode, plugins: [{pluginRef: encode-filter}]}
- {name: prefill, plugins: [{pluginRef: prefill-filter}, {pluginRef: queue-scorer, weight: 1}]}
- {name: decode, plugins: [{pluginRef: decode-filter}, {pluginRef: queue-scorer, weight: 1}]}
"""
# Configurations that llm-d ships. When the last of a sample's types is there, the sample loads.
SAMPLES = {"S1": S1, "S2": S2, "S3": S3, "S4": S4, "S5": S5}
LOADED = {"S1", "S2", "S3", "S4", "S5"}


def registry() -> Registry:
    return Registry(BUILTIN, aliases=ALIASES, replaced=REPLACED)


def build_text(body: str) -> Pipeline:
    return build(load_text(HEAD + body, "c.yaml"), registry(), make_environment(allow_experimental=True))


def types_in(body: str) -> set[str]:
    config = load_text(HEAD + body).config
    assert config is not None
    return {entry.type for entry in config.plugins}


def test_every_type_is_the_name_of_its_class() -> None:
    assert all(name == cls.type for name, cls in BUILTIN.items())


def test_two_classes_of_one_type_are_refused() -> None:
    class Another(FlatScorer):
        pass

    with pytest.raises(ConfigError, match='both have the plugin type "queue-scorer"'):
        by_type([FlatScorer, Another])


def test_former_names_hide_no_type() -> None:
    assert not set(ALIASES) & set(BUILTIN)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_in_config_loads_without_a_warning(path: Path) -> None:
    pipeline = build(load_file(path), registry(), make_environment())

    assert resolved_of(pipeline).warnings == ()
    assert path.read_text().startswith("# ")
    assert describe(pipeline).startswith("configuration ")


def test_the_files_are_there() -> None:
    assert {"default", "lora", "payload-agnostic", "sticky-until-saturated"} <= {path.stem for path in FILES}


def test_the_default_file_is_the_built_in_default() -> None:
    (path,) = [path for path in FILES if path.stem == "default"]

    written = build(load_file(path), registry(), make_environment())
    built_in = build(load_default(), registry(), make_environment())

    assert written.config_hash == built_in.config_hash
    assert not any(spec.default for spec in resolved_of(written).plugins.values())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_file_written_out_with_its_defaults_is_the_same(path: Path) -> None:
    first = build(load_file(path), registry(), make_environment())

    second = build(load_text(to_yaml(resolved_of(first))), registry(), make_environment())

    assert second.config_hash == first.config_hash


@pytest.mark.parametrize("name", SAMPLES)
def test_samples_load_or_name_exactly_the_types_that_are_not_there(name: str) -> None:
    missing = types_in(SAMPLES[name]) - set(BUILTIN)
    try:
        build_text(SAMPLES[name])
        unknown: set[str] = set()
    except InvalidConfig as invalid:
        unknown = {p.message.split('"')[1] for p in invalid.problems if p.message.startswith("unknown plugin type")}

    assert unknown == missing


@pytest.mark.parametrize("name", sorted(LOADED))
def test_samples_whose_types_are_all_there_load(name: str) -> None:
    assert build_text(SAMPLES[name]).scheduler.profiles


def test_a_data_source_is_listed_once() -> None:
    """It would be fetched twice as often."""
    with pytest.raises(InvalidConfig) as raised:
        build_text(
            "plugins: [{type: queue-scorer}, {type: metrics-data-source}]\n"
            "dataLayer: {sources: [{pluginRef: metrics-data-source}, {pluginRef: metrics-data-source}]}\n"
        )

    assert 'dataLayer.sources[1].pluginRef: "metrics-data-source" is there twice' in str(raised.value)


def test_a_profile_may_name_the_picker_and_the_detector_that_are_added_by_default() -> None:
    resolved = resolved_of(
        build_text(
            "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: p, plugins: "
            "[{pluginRef: queue-scorer}, {pluginRef: max-score-picker}, {pluginRef: utilization-detector}]}]\n"
        )
    )

    assert resolved.profiles[0].picker == "max-score-picker"
    assert resolved.profiles[0].filters == ("utilization-detector",)
    assert resolved.saturation_detector == "utilization-detector"


def test_the_helm_default_weighs_as_the_built_in_default() -> None:
    sample, built_in = build_text(S1), build(load_default(), registry(), make_environment())

    assert resolved_of(sample).profiles[0].scorers == resolved_of(built_in).profiles[0].scorers


@pytest.mark.parametrize(
    ("plugin", "problem"),
    [
        (
            "{type: metrics-data-source, parameters: {scheme: ftp}}",
            'plugins[0].parameters.scheme: expected "http" or "https", got the text "ftp"',
        ),
        (
            "{type: metrics-data-source, parameters: {path: metrics}}",
            "plugins[0].parameters.path: expected a path that begins with a slash",
        ),
        ("{type: metrics-data-source, parameters: {interval: 5}}", "plugins[0].parameters.interval: expected text"),
        (
            "{type: metrics-data-source, parameters: {interval: 0s}}",
            "plugins[0].parameters.interval: must be more than 0",
        ),
        (
            "{type: metrics-data-source, parameters: {clientCertPath: /c}}",
            "clientCertPath and clientKeyPath belong together",
        ),
        (
            "{type: core-metrics-extractor, parameters: {defaultEngine: vlm}}",
            'plugins[0].parameters.defaultEngine: no engine is named "vlm"',
        ),
        (
            "{type: core-metrics-extractor, parameters: {engineConfigs: [{name: default}]}}",
            'plugins[0].parameters.engineConfigs[0].name: expected a name other than "default"',
        ),
        (
            "{type: core-metrics-extractor, parameters: {engineConfigs: [{name: a}, {name: a}]}}",
            'plugins[0].parameters.engineConfigs[1].name: the engine "a" is there already',
        ),
        (
            "{type: core-metrics-extractor, parameters: {engineConfigs: [{name: a, kvUsageSpec: 'a{b'}]}}",
            "plugins[0].parameters.engineConfigs[0].kvUsageSpec: metric spec 'a{b': expected label=value at position 2",
        ),
        (
            "{type: core-metrics-extractor, parameters: {engineConfigs: [{name: a, loraSpec: 'a{b=}'}]}}",
            "plugins[0].parameters.engineConfigs[0].loraSpec: metric spec 'a{b=}': expected label=value at position 2",
        ),
        (
            "{type: core-metrics-extractor, parameters: {engineConfigs: [{name: a, path: /a b}]}}",
            "plugins[0].parameters.engineConfigs[0].path: '/a b' cannot be the path of a request",
        ),
        (
            """{type: core-metrics-extractor, parameters: {engineConfigs: [{name: a, customMetrics: [
              {attributeKey: k, metricSpec: ''}]}]}}""",
            "plugins[0].parameters.engineConfigs[0].customMetrics[0].metricSpec: must not be empty",
        ),
        (
            """{type: core-metrics-extractor, parameters: {engineConfigs: [{name: a, customMetrics: [
              {attributeKey: k, metricSpec: m}, {attributeKey: k, metricSpec: n}]}]}}""",
            'plugins[0].parameters.engineConfigs[0].customMetrics[1].attributeKey: "k" is there already',
        ),
        ("{type: file-discovery}", "plugins[0].parameters.path: is missing"),
        ("{type: file-discovery, parameters: {path: ''}}", "plugins[0].parameters.path: must name a file"),
    ],
)
def test_parameters_of_the_data_layer_are_checked(plugin: str, problem: str) -> None:
    with pytest.raises(InvalidConfig) as raised:
        build_text(f"plugins: [{plugin}, {{type: queue-scorer}}]\n")

    assert problem in str(raised.value)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "vllm:num_requests_waiting",
        "a{request_type=waiting}",
        'a{x="1, 2",y=z}',
        "a{}",
        "a{ kv_cache_block_type = max }",
        "a{b=c,}",
        'a{b="c\\"d"}',
    ],
)
def test_metric_specs_of_the_known_engines_are_accepted(spec: str) -> None:
    pipeline = build_text(
        "plugins:\n- type: queue-scorer\n- type: core-metrics-extractor\n  parameters:\n    defaultEngine: mine\n"
        f"    engineConfigs: [{{name: mine, queuedRequestsSpec: '{spec}', "
        "customMetrics: [{attributeKey: k, metricSpec: m}]}]\n"
    )

    params = pipeline.plugins["core-metrics-extractor"].params
    assert params.engine_configs[0].queued_requests_spec == spec


def test_a_scorer_that_produces_what_it_scores_gets_its_own_input_too() -> None:
    """Configurations of the Go EPP name the older composite alone: without tokens or guesses it would score nothing."""
    pipeline = build_text("plugins: [{type: precise-prefix-cache-scorer}]\n")

    assert resolved_of(pipeline).producers[:3] == (
        "token-producer",
        "approx-prefix-cache-producer",
        "precise-prefix-cache-scorer",
    )


def test_the_built_in_configuration_with_prediction_is_that_of_the_charts() -> None:
    chart, built_in = build_text(S2), build(load_default(predicting=True), registry(), make_environment())
    profile = resolved_of(built_in).profiles[0]

    assert profile.scorers == resolved_of(chart).profiles[0].scorers
    assert profile.filters == ("strict-affinity-filter", "slo-headroom-tier-filter", "loose-affinity-filter")
    assert profile.picker == "weighted-random-picker"
    assert [a.type for a in built_in.admitters] == ["latency-slo-admitter"]
    assert "predicted-latency-producer" in resolved_of(built_in).producers
    assert resolved_of(built_in).warnings == ()
