"""Which extractor may read what which source fetches."""

from __future__ import annotations

import pytest

from epp.api import ObjectListener
from epp.config import InvalidConfig, build, load_text, resolved_of
from epp.config.environment import Environment
from epp.config.registry import Registry
from epp.config.resolved import Resolved
from epp_plugins.registry import BUILTIN, by_type
from tests.support.configs import HEAD, make_environment


def resolve(source: str, *extractors: str) -> Resolved:
    """A configuration with the types `source` and `extractors`, and that source with those extractors."""
    plugins = ", ".join(f"{{type: {t}}}" for t in dict.fromkeys(("queue-scorer", source, *extractors)))
    names = ", ".join(f"{{pluginRef: {t}}}" for t in extractors)
    text = (
        f"{HEAD}plugins: [{plugins}]\ndataLayer: {{sources: [{{pluginRef: {source}, extractors: [{names}]}}]}}\n"
        "schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]\n"
    )
    environment: Environment = make_environment()
    return resolved_of(build(load_text(text, "c.yaml"), Registry(BUILTIN), environment))


@pytest.mark.parametrize(
    ("source", "extractors"),
    [
        ("metrics-data-source", ("core-metrics-extractor",)),
        ("models-data-source", ("models-data-extractor",)),
        ("metrics-data-source", ("core-metrics-extractor", "models-data-extractor")),
        ("endpoint-notification-source", ("no-hit-lru-scorer", "mm-embeddings-cache-producer")),
    ],
)
def test_extractors_that_fit_are_accepted(source: str, extractors: tuple[str, ...]) -> None:
    spec = next(s for s in resolve(source, *extractors).data_layer.sources if s.source == source)

    assert spec.extractors == extractors


@pytest.mark.parametrize(
    ("source", "extractor", "expected"),
    [
        ("models-data-source", "queue-scorer", 'expected an extractor: "queue-scorer" is a scorer'),
        ("endpoint-notification-source", "queue-scorer", 'expected an extractor: "queue-scorer" is a scorer'),
        (
            "models-data-source",
            "core-metrics-extractor",
            'expected an extractor for what "models-data-source" fetches: "core-metrics-extractor" is an extractor',
        ),
        (
            "endpoint-notification-source",
            "models-data-extractor",
            (
                'expected an extractor for what "endpoint-notification-source" fetches:'
                ' "models-data-extractor" is an extractor'
            ),
        ),
    ],
)
def test_others_are_refused(source: str, extractor: str, expected: str) -> None:
    with pytest.raises(InvalidConfig) as refused:
        resolve(source, extractor)

    assert f"dataLayer.sources[0].extractors[0].pluginRef: {expected}" in str(refused.value)


@pytest.mark.parametrize(
    ("source", "reader", "warning"),
    [
        ("metrics-data-source", ("core-metrics-extractor",), '"core-metrics-extractor" reads what it fetches'),
        ("models-data-source", (), "what it fetches is not read"),
    ],
)
def test_a_source_without_extractors_is_said(source: str, reader: tuple[str, ...], warning: str) -> None:
    resolved = resolve(source)
    spec = next(s for s in resolved.data_layer.sources if s.source == source)

    assert spec.extractors == reader
    assert any(warning in str(problem) for problem in resolved.warnings)


KINDS = "type: k8s-notification-source, parameters: {group: example.com, version: v1, kind: Widget}"


class Widgets(ObjectListener):
    type = "widgets"


def resolve_kinds(extractor: str) -> Resolved:
    text = (
        f"{HEAD}plugins: [{{type: queue-scorer}}, {{{KINDS}}}, {{type: {extractor}}}]\n"
        f"dataLayer: {{sources: [{{pluginRef: k8s-notification-source, extractors: [{{pluginRef: {extractor}}}]}}]}}\n"
        "schedulingProfiles: [{name: default, plugins: [{pluginRef: queue-scorer}]}]\n"
    )
    registry = Registry(by_type((*BUILTIN.values(), Widgets)))
    return resolved_of(build(load_text(text, "c.yaml"), registry, make_environment()))


def test_a_source_of_kubernetes_objects_takes_those_that_listen_to_objects() -> None:
    spec = next(s for s in resolve_kinds("widgets").data_layer.sources if s.source == "k8s-notification-source")

    assert spec.extractors == ("widgets",)


def test_a_source_of_kubernetes_objects_takes_no_others() -> None:
    with pytest.raises(InvalidConfig, match='expected an extractor for what "k8s-notification-source" fetches'):
        resolve_kinds("models-data-extractor")
