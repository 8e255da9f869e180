"""Deprecated and experimental in-tree types, as configuration files meet them."""

from __future__ import annotations

import pytest

from epp.config import InvalidConfig, Pipeline, Registry, build, load_text, resolved_of
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
