"""A configuration in words, and written out again."""

from __future__ import annotations

import pytest

from epp.config import body_needs, build, describe, load_default, load_text, resolved_of, to_yaml
from tests.support.configs import HEAD, build_fake, fake_registry, make_environment

RICH = (
    "featureGates: [flowControl]\n"
    "plugins:\n"
    "- {name: strict, type: filtering-scorer, parameters: {limit: 1, matchLabels: {a: '1e3', b: 'yes', c: '010', d: ''}}}\n"
    "- {name: keep, type: keep-all}\n"
    "- {type: queue-scorer}\n"
    "- {type: random-picker}\n"
    "- {type: prefix-cache-scorer}\n"
    "- {type: any-profiles-handler}\n"
    "- {type: file-discovery}\n"
    "- {name: rr, type: round-robin-fairness-policy, parameters: {x: [1, {y: null}]}}\n"
    "schedulingProfiles:\n"
    "- {name: a, plugins: [{pluginRef: strict, weight: 0.1}, {pluginRef: keep}, {pluginRef: queue-scorer}]}\n"
    "- {name: b, plugins: [{pluginRef: random-picker}, {pluginRef: prefix-cache-scorer, weight: 3}]}\n"
    "dataLayer: {injectDefaults: false, discovery: {pluginRef: file-discovery}}\n"
    "flowControl: {maxBytes: 1Gi, defaultRequestTTL: 200ms, defaultNegativePriorityBand: {maxRequests: 1}, "
    "priorityBands: [{priority: 2, fairnessPolicyRef: rr}]}\n"
)


@pytest.mark.parametrize("body", [RICH, "plugins: [{type: queue-scorer}]\n", "plugins: []\n"])
def test_what_is_written_out_loads_to_the_same(body: str) -> None:
    first = build_fake(body)

    second = build(load_text(to_yaml(resolved_of(first))), fake_registry(), make_environment())

    assert second.config_hash == first.config_hash
    assert list(second.plugins) == list(first.plugins)
    assert to_yaml(resolved_of(second)) == to_yaml(resolved_of(first))


def test_the_description_shows_order_weights_and_defaults() -> None:
    text = describe(build_fake(RICH))

    assert (
        "profile a\n"
        '  filter  strict (filtering-scorer) {"limit":1,"matchLabels":{"a":"1e3","b":"yes","c":"010","d":""}}\n'
        "  filter  keep (keep-all)\n"
        '  score   strict (filtering-scorer) {"limit":1,"matchLabels":{"a":"1e3","b":"yes","c":"010","d":""}} × 0.1\n'
        "  score   queue-scorer × 1\n"
        "  pick    random-picker\n"
    ) in text
    assert (
        "data producers, in order\n"
        "  approx-prefix-cache-producer (default): publishes PrefixCacheMatchInfo/approx-prefix-cache-producer\n"
    ) in text
    assert (
        "parsers, the longest matching path first\n  openai-parser (default)\n  passthrough-parser (default)\n" in text
    )
    assert "endpoints come from file-discovery\n" in text
    assert "accepted, and left out\n  rr (round-robin-fairness-policy)\n" in text
    assert "flow control is not part of this version" in text


def test_everything_of_the_built_in_default_is_marked() -> None:
    text = describe(build(load_default(), fake_registry(), make_environment()))

    assert "profile default (default)\n  score   queue-scorer (default) × 2\n" in text


def test_a_pipeline_and_what_it_was_resolved_to_are_described_alike() -> None:
    pipeline = build_fake(RICH)

    assert describe(pipeline) == describe(resolved_of(pipeline))


def test_request_bodies_are_needed_by_parsers_that_read_them() -> None:
    both = build_fake("plugins: [{type: queue-scorer}]\n")
    blind = build_fake(
        "plugins: [{type: queue-scorer}, {type: passthrough-parser}]\n"
        "requestHandler: {parsers: [{pluginRef: passthrough-parser}]}\n"
    )

    assert body_needs(both).request == ("openai-parser",)
    assert body_needs(blind).request == ()
    assert "request   not needed (request_body_mode: NONE will do)" in describe(blind)


def test_a_configuration_of_json_reads_the_same() -> None:
    yaml = build(load_text(HEAD + "plugins: [{type: queue-scorer}]\n"), fake_registry(), make_environment())
    json = build(
        load_text(
            '{"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig", "plugins": [{"type": "queue-scorer"}]}'
        ),
        fake_registry(),
        make_environment(),
    )

    assert json.config_hash == yaml.config_hash
