"""The JSON Schema of an EndpointPickerConfig, for editors: fields, plugin types, and each type's parameters. Draft 2020-12.

It knows the shape of a file, not how its parts fit together: that every reference leads to a plugin of the right kind is
for `build` to say. Whatever `build` takes without an error, the schema takes, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import quote

import msgspec

from epp.api import ConfigError, Plugin
from epp.config.catalogue import rule_of
from epp.config.flow_control import POLICY_TYPES
from epp.config.model import API_VERSION, DEPRECATED_API_VERSION, KIND
from epp.config.registry import Registry

Schema = dict[str, Any]

DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"

_TEXT: Final[Schema] = {"type": "string"}
_NAME: Final[Schema] = {"type": "string", "minLength": 1}
# epp.api.durations and epp.config.quantities say the same.
_DURATION: Final[Schema] = {
    "anyOf": [
        {"type": "string", "pattern": r"^(\+?0|-0|\+?(([0-9]+\.?[0-9]*|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$"},
        {"const": 0},
    ]
}
_QUANTITY: Final[Schema] = {"type": ["string", "number"], "minimum": 0, "pattern": r"^\+?([0-9]|\.[0-9])"}
_CLASS: Final[Schema] = {
    "type": "string",
    "pattern": r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
    "description": "module:Class, for a module that Python finds",
}


def config_schema(registry: Registry, *, former_names: Mapping[str, str]) -> tuple[Schema, tuple[str, ...]]:
    """The schema with every plugin type of `registry`, and of what could not be imported the reasons.

    `former_names` are types by other names of theirs.
    """
    classes: dict[str, type[Plugin]] = {}
    failures: list[str] = []
    for name in (*registry.types(), *former_names):
        try:
            classes[name] = registry.find(name)
        except ConfigError as error:
            failures.append(str(error))
    definitions: Schema = {}
    conditions = [_parameters_of(name, cls, definitions) for name, cls in classes.items()]
    options = [_type_option(name, cls, registry) for name, cls in classes.items()]
    options += [
        {"const": n, "description": f"flow control: {kind}"} for n, kind in POLICY_TYPES.items() if n not in classes
    ]
    definitions["reference"] = _object({"pluginRef": _NAME}, required=("pluginRef",))
    definitions["band"] = _band()
    definitions["plugin"] = _object(
        {"type": {"anyOf": [*options, _CLASS]}, "name": _TEXT, "parameters": {"type": "object"}}, required=("type",)
    )
    definitions["plugin"]["allOf"] = conditions
    top = _object(_top_fields(), required=("apiVersion", "kind"))
    # A file without content asks for the built-in default.
    return {"$schema": DRAFT, "title": KIND, **top, "type": ["object", "null"], "$defs": definitions}, tuple(failures)


def _top_fields() -> Schema:
    profile_plugin = _object({"pluginRef": _NAME, "weight": {"type": "number", "minimum": 0}}, required=("pluginRef",))
    profile = _object({"name": _NAME, "plugins": _list(profile_plugin)}, required=("name",))
    source = _object({"pluginRef": _NAME, "extractors": _list(_ref("reference"))}, required=("pluginRef",))
    return {
        "apiVersion": {"enum": [API_VERSION, DEPRECATED_API_VERSION]},
        "kind": {"const": KIND},
        "featureGates": _list(_TEXT),
        "plugins": _list(_ref("plugin")),
        "schedulingProfiles": _list(profile),
        "requestHandler": _object({"parsers": _list(_ref("reference"))}),
        "dataLayer": _object(
            {
                "injectDefaults": {"type": "boolean"},
                "sources": _list(source),
                "discovery": _ref("reference"),
                "peerDiscovery": _ref("reference"),
                "crossReplicaSyncerPluginRef": _TEXT,
                "crossReplicaSyncInterval": _DURATION,
            }
        ),
        "flowControl": _object(
            {
                "saturationDetector": _ref("reference"),
                "maxBytes": _QUANTITY,
                "maxRequests": _QUANTITY,
                "defaultRequestTTL": _DURATION,
                "noEndpointRequestTTL": _DURATION,
                "defaultPriorityBand": _ref("band"),
                "defaultNegativePriorityBand": _ref("band"),
                "priorityBands": _list(_ref("band")),
                "usageLimitPolicyPluginRef": _TEXT,
                "enableEviction": {"type": "boolean"},
            }
        ),
        "saturationDetector": _deprecated("use flowControl.saturationDetector"),
        "parser": _deprecated("use requestHandler.parsers"),
    }


def _band() -> Schema:
    fields: Schema = {
        "priority": {"type": "integer"},
        "maxBytes": _QUANTITY,
        "maxRequests": _QUANTITY,
        "fairnessPolicyRef": _TEXT,
        "orderingPolicyRef": _TEXT,
    }
    return _object(fields)


def _deprecated(instead: str) -> Schema:
    return {**_ref("reference"), "deprecated": True, "description": f"deprecated: {instead}"}


# --- plugins -------------------------------------------------------------------------------------------------------------


def _type_option(name: str, cls: type[Plugin], registry: Registry) -> Schema:
    """One value of `type`, with what an editor shows beside it."""
    option: Schema = {"const": name, "description": rule_of(cls)}
    instead = registry.deprecation(name)
    if instead:
        option |= {"deprecated": True, "description": f"Deprecated: {instead}. {rule_of(cls)}"}
    elif cls.experimental:
        option["description"] = f"Experimental. {rule_of(cls)}"
    return option


def _parameters_of(name: str, cls: type[Plugin], definitions: Schema) -> Schema:
    """The condition that ties a type to its parameters, whose structs go to `definitions`."""
    reference = f"#/$defs/{_pointer(name)}."
    try:
        (shape,), components = msgspec.json.schema_components([cls.Params], ref_template=reference + "{name}")
    except TypeError:
        # A type that msgspec has no schema for, in a plugin of another package.
        return {"if": _is_type(name), "then": {"properties": {"parameters": {"type": ["object", "null"]}}}}
    for inner, definition in components.items():
        definitions[f"{name}.{inner}"] = _strict(definition)
    then: Schema = {"properties": {"parameters": shape}}
    root = definitions[name + "." + shape["$ref"].removeprefix(reference)]
    if root.get("required"):
        then["required"] = ["parameters"]
    else:
        root["type"] = [root["type"], "null"]  # here and not around the reference, so that errors name what is inside
    return {"if": _is_type(name), "then": then}


def _is_type(name: str) -> Schema:
    return {"properties": {"type": {"const": name}}, "required": ["type"]}


def _pointer(name: str) -> str:
    """A key as a JSON pointer in a URI fragment writes it."""
    return quote(name.replace("~", "~0").replace("/", "~1"))


def _strict(schema: Schema) -> Schema:
    """No field is accepted beside those of a struct, whatever the struct says; null is as good as leaving a field out."""
    if "properties" not in schema:
        return schema
    required = schema.get("required", ())
    fields = {n: s if n in required else _or_null(s) for n, s in schema["properties"].items()}
    return {**schema, "properties": fields, "additionalProperties": False}


# --- building blocks -----------------------------------------------------------------------------------------------------


def _object(fields: Schema, *, required: Iterable[str] = ()) -> Schema:
    return _strict({"type": "object", "properties": fields, "required": list(required)})


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/$defs/{name}"}


def _or_null(schema: Schema) -> Schema:
    """`schema`, or nothing."""
    kind = schema.get("type")
    if isinstance(kind, str) and "enum" not in schema:
        return {**schema, "type": [kind, "null"]}
    if isinstance(kind, list):
        return {**schema, "type": [*kind, "null"]}
    if {"type": "null"} in schema.get("anyOf", ()):
        return schema
    said = {k: v for k, v in schema.items() if k in ("default", "description", "deprecated")}
    return {"anyOf": [{k: v for k, v in schema.items() if k not in said}, {"type": "null"}], **said}
