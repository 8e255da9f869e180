"""The pipeline that a configuration becomes, and what a reload keeps of the one before."""

from __future__ import annotations

import msgspec
import pytest

from epp.config import Environment, InvalidConfig, build, load_text, resolved_of
from tests.support.configs import HEAD, build_fake, fake_registry, make_environment

TWO = (
    "plugins:\n"
    "- type: queue-scorer\n"
    "- {name: strict, type: keep-all, parameters: {limit: 1}}\n"
    "- {name: loose, type: keep-all}\n"
)


def test_profiles_run_the_plugins_that_were_made() -> None:
    pipeline = build_fake(TWO)

    profile = pipeline.scheduler.profiles["default"]
    assert profile.filters == (pipeline.plugins["strict"], pipeline.plugins["loose"])
    assert profile.scorers == ((pipeline.plugins["queue-scorer"], 1.0),)
    assert pipeline.scheduler.handler is pipeline.plugins["single-profile-handler"]


def test_each_plugin_gets_a_handle_with_its_name_and_logger() -> None:
    environment: Environment = msgspec.structs.replace(make_environment(), pool_name="pool")

    pipeline = build(load_text(HEAD + TWO), fake_registry(), environment)

    handle = pipeline.plugins["strict"].handle
    assert (handle.name, handle.pool_name, handle.log.name) == ("strict", "pool", "test.strict")
    assert handle.fleet is environment.fleet


def test_a_reload_keeps_the_plugins_that_are_the_same() -> None:
    before = build_fake(TWO)

    after = build_fake(TWO.replace("limit: 1", "limit: 2") + "- {name: more, type: queue-scorer}\n", reuse=before)

    assert after.plugins["queue-scorer"] is before.plugins["queue-scorer"]
    assert after.plugins["loose"] is before.plugins["loose"]
    assert after.plugins["inflight-load-producer"] is before.plugins["inflight-load-producer"]
    assert after.plugins["strict"] is not before.plugins["strict"]


def test_spelling_out_a_default_parameter_keeps_the_plugin() -> None:
    before = build_fake(TWO)

    after = build_fake(TWO.replace("type: keep-all}", "type: keep-all, parameters: {rules: []}}"), reuse=before)

    assert after.plugins["loose"] is before.plugins["loose"]


def test_a_plugin_of_another_type_under_the_same_name_is_another_one() -> None:
    before = build_fake("plugins: [{name: a, type: queue-scorer}]\n")

    after = build_fake("plugins: [{name: a, type: kv-cache-utilization-scorer}]\n", reuse=before)

    assert after.plugins["a"].type == "kv-cache-utilization-scorer"


def test_a_profile_handler_is_not_shared_between_different_profiles() -> None:
    # It was told the old names, and requests that began before the reload still run with them.
    before = build_fake("plugins: [{type: queue-scorer}]\n")

    same = build_fake("plugins: [{type: queue-scorer}, {type: keep-all}]\n", reuse=before)
    other = build_fake(
        "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: b, plugins: [{pluginRef: queue-scorer}]}]\n",
        reuse=before,
    )

    assert same.scheduler.handler is before.scheduler.handler
    assert other.scheduler.handler is not before.scheduler.handler


def test_an_invalid_configuration_raises_all_its_problems() -> None:
    with pytest.raises(InvalidConfig) as raised:
        build_fake("plugins: [{type: a-type}, {type: b-type}]\n")

    assert len(raised.value.problems) == 2
    assert str(raised.value).splitlines()[0].startswith("c.yaml:3:18: plugins[0].type: unknown plugin type")


def test_an_unreadable_text_raises_too() -> None:
    with pytest.raises(InvalidConfig, match=r"c\.yaml:1:5: not valid YAML"):
        build_fake("", head="a: b: c\n")


def test_the_hash_tells_configurations_apart_and_ignores_how_they_are_written() -> None:
    base = build_fake(TWO).config_hash
    spelled = build_fake(TWO.replace("type: keep-all}", "type: keep-all, parameters: {rules: []}}") + "# a comment\n")
    changed = build_fake(TWO.replace("limit: 1", "limit: 2"))
    reordered = build_fake(
        "plugins: [{name: loose, type: keep-all}, {name: strict, type: keep-all, parameters: {limit: 1}}, "
        "{type: queue-scorer}]\n"
    )

    assert len(base) == 12
    assert int(base, 16) >= 0
    assert spelled.config_hash == base
    assert changed.config_hash != base
    assert reordered.config_hash != base


def test_settings_carry_what_other_rooms_read() -> None:
    pipeline = build_fake(
        "plugins: [{type: queue-scorer}]\n"
        "flowControl: {maxBytes: 1Gi, maxRequests: 1k, defaultRequestTTL: 1m30s, noEndpointRequestTTL: 0s, "
        "enableEviction: true, usageLimitPolicyPluginRef: static-usage-limit-policy, defaultPriorityBand: {maxRequests: 7}, "
        "priorityBands: [{priority: -1, maxBytes: 500M, orderingPolicyRef: edf-ordering-policy}]}\n"
    )

    flow = pipeline.settings["flow_control"]
    assert (flow.max_bytes, flow.max_requests, flow.enable_eviction) == (1 << 30, 1000, True)
    assert (flow.default_request_ttl_s, flow.no_endpoint_request_ttl_s) == (90.0, 0.0)
    assert flow.usage_limit_policy == "static-usage-limit-policy"
    assert flow.default_band.max_requests == 7
    assert (flow.bands[0].priority, flow.bands[0].max_bytes, flow.bands[0].ordering_policy) == (
        -1,
        500_000_000,
        "edf-ordering-policy",
    )
    assert pipeline.settings["data_layer"] == resolved_of(pipeline).data_layer


def test_plugins_in_no_profile_still_serve_their_other_extension_points() -> None:
    pipeline = build_fake(
        "plugins: [{type: queue-scorer}, {type: producer, parameters: {produces: [K/x]}}]\n"
        "schedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer}]}]\n"
    )

    assert [p.name for p in pipeline.producers] == ["producer", "inflight-load-producer"]
