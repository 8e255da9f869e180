"""Deprecated and experimental in-tree types, and deprecated parameters, as configuration files meet them."""

from __future__ import annotations

import pytest

from epp.config import InvalidConfig, Pipeline, Registry, Severity, build, load_text, resolved_of
from epp_plugins.registry import ALIASES, BUILTIN, REPLACED
from tests.support.configs import HEAD, make_environment

DECODE = "schedulingProfiles: [{name: decode, plugins: [{pluginRef: queue-scorer}]}]\n"
PD = (
    "schedulingProfiles: [{name: decode, plugins: [{pluginRef: queue-scorer}]}, "
    "{name: prefill, plugins: [{pluginRef: queue-scorer}]}]\n"
)
STRICT = "{name: r, headerName: x-r, labelKey: r, mode: strict}"
ROLLOUT = f"{{scope: {{labelSelector: a=b}}, revisionGating: {{mode: disabled}}, headerSelectors: [{STRICT}]}}"
NEEDED = {
    "endpoint-attribute-filter": "{attribute: a, algorithm: {type: threshold, threshold: {operator: Equal, value: 1}}}",
    "endpoint-attribute-scorer": "{attributeKey: a, algorithm: {type: linear_lower_is_better}}",
    "header-label-affinity-scorer": "{headerName: a, labelKey: b}",
    "disaggregatedset-rollout-screener": ROLLOUT,
    "utilization-filter": "{conditions: [{metric: waiting-queue, maxValue: 1}]}",
    "by-label": "{label: a, validValues: [b]}",
}


def build_text(body: str, *, allow_experimental: bool = True) -> Pipeline:
    registry = Registry(BUILTIN, aliases=ALIASES, replaced=REPLACED)
    return build(load_text(HEAD + body, "c.yaml"), registry, make_environment(allow_experimental=allow_experimental))


def declare(type_name: str, more: str = "") -> str:
    return f"plugins:\n- {{type: queue-scorer}}\n- {{type: {type_name}, parameters: {NEEDED.get(type_name, '{}')}}}\n{more}"


@pytest.mark.parametrize(
    ("type_name", "more", "instead"),
    [
        ("pd-profile-handler", "- {type: prefix-based-pd-decider}\n" + PD, "disagg-profile-handler"),
        ("disagg-headers-handler", DECODE, "disagg-profile-handler"),
        ("prefill-header-handler", DECODE, "disagg-profile-handler"),
        ("data-parallel-profile-handler", DECODE, "single-profile-handler"),
        ("by-label", DECODE, "label-selector-filter"),
        ("by-label-selector", DECODE, "label-selector-filter"),
        ("tokenizer", DECODE, "token-producer"),
    ],
)
def test_deprecated_types_work_and_say_what_to_use(type_name: str, more: str, instead: str) -> None:
    pipeline = build_text(declare(type_name, more))

    assert type_name in pipeline.plugins
    (warning,) = [w for w in resolved_of(pipeline).warnings if "deprecated" in w.message]
    assert f'plugin type "{type_name}" is deprecated: use "{instead}"' in warning.message


@pytest.mark.parametrize(
    ("type_name", "parameters", "path", "instead"),
    [
        ("approx-prefix-cache-producer", "{blockSize: 64}", "blockSize", "use blockSizeTokens"),
        (
            "precise-prefix-cache-producer",
            "{tokenProcessorConfig: {blockSize: 16}}",
            "tokenProcessorConfig.blockSize",
            "use blockSizeTokens",
        ),
        ("disagg-profile-handler", "{decodeProfile: decode}", "decodeProfile", "use profiles.decode"),
        ("active-request-scorer", "{requestTimeout: 2m}", "requestTimeout", "it has no effect"),
        ("predicted-latency-producer", "{samplingMean: 5}", "samplingMean", "it has no effect"),
    ],
)
def test_deprecated_parameters_work_and_say_what_to_use(
    type_name: str, parameters: str, path: str, instead: str
) -> None:
    pipeline = build_text(
        f"plugins:\n- {{type: queue-scorer}}\n- {{type: {type_name}, parameters: {parameters}}}\n{DECODE}"
    )

    (warning,) = [w for w in resolved_of(pipeline).warnings if "deprecated" in w.message]
    assert (warning.path, warning.line) == (f"plugins[1].parameters.{path}", 5)
    assert warning.message == f"is deprecated: {instead}"


def test_a_deprecated_parameter_that_is_left_empty_is_not_spoken_of() -> None:
    pipeline = build_text(
        "plugins:\n- {type: queue-scorer}\n- {type: no-hit-lru-scorer, parameters: {prefixPluginType: }}\n"
    )

    assert not [w for w in resolved_of(pipeline).warnings if "deprecated" in w.message]


def test_beside_what_does_not_fit_a_deprecated_parameter_is_still_spoken_of() -> None:
    with pytest.raises(InvalidConfig) as raised:
        build_text("plugins: [{type: approx-prefix-cache-producer, parameters: {blockSize: many, autoTune: 7}}]\n")

    found = [(p.severity, p.path) for p in raised.value.problems]
    assert (Severity.WARNING, "plugins[0].parameters.blockSize") in found
    assert (Severity.ERROR, "plugins[0].parameters.blockSize") in found
    assert (Severity.ERROR, "plugins[0].parameters.autoTune") in found


@pytest.mark.parametrize("type_name", sorted(name for name, cls in BUILTIN.items() if cls.experimental))
def test_experimental_types_need_the_flag(type_name: str) -> None:
    assert type_name in build_text(declare(type_name, DECODE)).plugins
    with pytest.raises(
        InvalidConfig, match=f'"{type_name}" is experimental: allow it with --allow-experimental-plugins'
    ):
        build_text(declare(type_name, DECODE), allow_experimental=False)


def test_a_decider_named_by_default_has_to_be_declared() -> None:
    with pytest.raises(InvalidConfig) as raised:
        build_text(declare("pd-profile-handler", PD))

    assert 'no plugin is named "prefix-based-pd-decider"; add it to plugins' in str(raised.value)
