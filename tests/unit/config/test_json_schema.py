"""The JSON Schema takes what the service takes, and finds the mistakes that are mistakes of shape."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator

from epp.config import InvalidConfig, Registry, build, load_text, resolved_of, to_yaml
from epp.config.json_schema import config_schema
from epp.config.load import BUILT_IN_DEFAULT
from epp_plugins.registry import ALIASES, BUILTIN, REPLACED
from tests.support.configs import HEAD, FlatScorer, make_environment

CONFIGS = sorted((Path(__file__).parents[3] / "config").glob("*.yaml"))
REGISTRY = Registry(BUILTIN, aliases=ALIASES, replaced=REPLACED)
SCHEMA, FAILURES = config_schema(REGISTRY, former_names=ALIASES)


class Named(msgspec.Struct):
    name: str


class Slashed(FlatScorer):
    """A type whose name a JSON pointer has to escape, with a struct that itself does not forbid unknown fields."""

    type: ClassVar[str] = "acme/a~b {c} 100%"

    class Params(msgspec.Struct):
        named: Named


class Unshaped(FlatScorer):
    type = "unshaped"

    class Params(msgspec.Struct):
        odd: complex = 1j


def mistakes(document: object, schema: dict[str, Any] = SCHEMA) -> list[str]:
    """Where the schema finds something, as `plugins.0.parameters`, outermost first."""
    return sorted({".".join(map(str, e.absolute_path)) for e in Draft202012Validator(schema).iter_errors(document)})


def refused(body: str) -> Sequence[str]:
    try:
        build(load_text(HEAD + body), REGISTRY, make_environment(allow_experimental=True))
    except InvalidConfig as invalid:
        return [p.path for p in invalid.problems]
    return ()


def with_plugin(cls: type[FlatScorer], parameters: object) -> dict[str, Any]:
    plugin = {"type": cls.type, "parameters": parameters}
    return {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig", "plugins": [plugin]}


def test_the_schema_is_a_schema_and_knows_every_type() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    options = SCHEMA["$defs"]["plugin"]["properties"]["type"]["anyOf"]

    assert FAILURES == ()
    assert {o.get("const") for o in options} >= {*BUILTIN, *ALIASES}


def test_deprecated_parameters_are_marked() -> None:
    """Editors strike them through, and show the text."""
    fields = SCHEMA["$defs"]["approx-prefix-cache-producer.Params"]["properties"]

    assert fields["blockSize"]["deprecated"] is True
    assert fields["blockSize"]["description"] == "Deprecated: use blockSizeTokens"
    assert "deprecated" not in fields["blockSizeTokens"]


@pytest.mark.parametrize("file", CONFIGS, ids=lambda f: f.name)
def test_configurations_of_the_repository_fit(file: Path) -> None:
    text = file.read_text()
    spelled_out = to_yaml(resolved_of(build(load_text(text), REGISTRY, make_environment(allow_experimental=True))))

    assert mistakes(yaml.safe_load(text)) == []
    assert mistakes(yaml.safe_load(spelled_out)) == []


@pytest.mark.parametrize("text", ["", "null", BUILT_IN_DEFAULT], ids=["nothing", "null", "default"])
def test_what_gives_the_default_fits(text: str) -> None:
    assert mistakes(yaml.safe_load(text)) == []


FITTING = {
    "nulls": "plugins:\n- {type: queue-scorer, name: , parameters: }\nschedulingProfiles: \ndataLayer: {discovery: }\n",
    "nulls in parameters": "plugins:\n- {type: prefix-cache-scorer, parameters: {matchLengthWeight: }}\n",
    "limits": "flowControl: {maxBytes: 1Gi, maxRequests: 10, defaultRequestTTL: 1m30s, noEndpointRequestTTL: 0}\n",
    "bands": "flowControl: {priorityBands: [{priority: -1, maxBytes: 1.5e3}, {}], defaultPriorityBand: {maxRequests: 5}}\n",
    "deprecated": "plugins: [{type: queue-scorer}, {type: openai-parser}]\nparser: {pluginRef: openai-parser}\n",
    "a former type": "plugins:\n- {type: tokenizer}\n- {type: by-label, parameters: {label: a, validValues: [b]}}\n",
    "a class": "plugins:\n- type: tests.support.third_party:ThirdPartyScorer\n",
    "a policy": "plugins:\n- {type: queue-scorer}\n- {type: fcfs-ordering-policy, parameters: {any: thing}}\n",
}


@pytest.mark.parametrize("body", FITTING.values(), ids=FITTING)
def test_what_the_service_takes_fits(body: str) -> None:
    assert refused(body) == ()
    assert mistakes(yaml.safe_load(HEAD + body)) == []


WRONG = {
    "unknown field": ("plugin: []\n", ""),
    "unknown field inside": ("dataLayer: {source: []}\n", "dataLayer"),
    "unknown type": ("plugins: [{type: queue-scorr}]\n", "plugins.0.type"),
    "no type": ("plugins: [{name: a}]\n", "plugins.0"),
    "unknown parameter": ("plugins: [{type: queue-scorer, parameters: {a: 1}}]\n", "plugins.0.parameters"),
    "parameter of another type": (
        "plugins: [{type: max-score-picker, parameters: {maxNumOfEndpoints: two}}]\n",
        "plugins.0.parameters.maxNumOfEndpoints",
    ),
    "parameter out of range": (
        "plugins: [{type: prefix-cache-scorer, parameters: {matchLengthWeight: 1.5}}]\n",
        "plugins.0.parameters.matchLengthWeight",
    ),
    "parameter that is missing": ("plugins: [{type: file-discovery}]\n", "plugins.0"),
    "parameters of a former name": (
        "plugins: [{type: tokenizer, parameters: {modelNam: a}}]\n",
        "plugins.0.parameters",
    ),
    "weight that is text": (
        "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: b}]}]\n",
        "schedulingProfiles.0.plugins.0.weight",
    ),
    "weight below zero": (
        "plugins: [{type: queue-scorer}]\nschedulingProfiles: [{name: a, plugins: [{pluginRef: queue-scorer, weight: -1}]}]\n",
        "schedulingProfiles.0.plugins.0.weight",
    ),
    "a list that is a mapping": ("plugins: {type: queue-scorer}\n", "plugins"),
    "a duration without a unit": ("flowControl: {defaultRequestTTL: 5}\n", "flowControl.defaultRequestTTL"),
}


@pytest.mark.parametrize(("body", "where"), WRONG.values(), ids=WRONG)
def test_mistakes_of_shape_are_found_here_as_there(body: str, where: str) -> None:
    assert refused(body) != ()
    assert mistakes(yaml.safe_load(HEAD + body)) == [where]


def test_another_version_or_kind_is_a_mistake() -> None:
    assert mistakes({"apiVersion": "v2", "kind": "Pod"}) == ["apiVersion", "kind"]


def test_types_with_any_characters_have_their_parameters() -> None:
    schema, _ = config_schema(Registry({Slashed.type: Slashed}), former_names={})

    assert mistakes(with_plugin(Slashed, {"named": {"name": "a"}}), schema) == []
    assert mistakes(with_plugin(Slashed, {"named": {"name": 1}}), schema) == ["plugins.0.parameters.named.name"]
    assert mistakes(with_plugin(Slashed, {"named": {"name": "a", "nam": 1}}), schema) == ["plugins.0.parameters.named"]


def test_parameters_that_have_no_schema_are_any_mapping() -> None:
    schema, _ = config_schema(Registry({"unshaped": Unshaped}), former_names={})

    assert mistakes(with_plugin(Unshaped, {"odd": "1j"}), schema) == []
    assert mistakes(with_plugin(Unshaped, []), schema) == ["plugins.0.parameters"]


def test_an_installed_plugin_that_cannot_be_imported_is_told_and_left_out() -> None:
    broken = EntryPoint("broken-scorer", "no_such_module:It", "epp.plugins")

    schema, failures = config_schema(Registry({FlatScorer.type: FlatScorer}, installed=[broken]), former_names={})

    assert [f for f in failures if "no_such_module" in f] == list(failures) != []
    assert mistakes({**with_plugin(FlatScorer, {}), "plugins": [{"type": "broken-scorer"}]}, schema) == [
        "plugins.0.type"
    ]
