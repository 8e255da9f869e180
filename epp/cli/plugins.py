"""`epp plugins`: every plugin type there is, and what there is to know about one of them."""

from __future__ import annotations

import argparse
import logging
import random
import sys
import textwrap
from collections.abc import Iterator, Sequence
from time import monotonic
from typing import Final

import msgspec

from epp.api import ConfigError, Fleet, Handle
from epp.app import make_registry
from epp.config import Registry
from epp.config.catalogue import Parameter, PluginFacts, facts_of, kind_order
from epp.config.flow_control import POLICY_TYPES
from epp.observability.metrics import Recorder

IN_TREE: Final = "epp_plugins."
_WIDTH: Final = 110


def plugins(arguments: Sequence[str]) -> int:
    """Returns the exit status: 0, or 2 when there is no such type or a plugin cannot be imported."""
    options = _parser().parse_args(arguments)
    try:
        registry = make_registry()
    except ConfigError as error:
        print(f"epp plugins: {error}", file=sys.stderr)
        return 2
    handle = sample_handle()
    if options.type is None:
        return _list(registry, handle, as_json=options.json)
    try:
        facts = facts_of(options.type, registry, handle)
    except ConfigError as error:
        print(f"epp plugins: {_no_such(options.type, error)}", file=sys.stderr)
        return 2
    print(_as_json(facts) if options.json else "\n".join(described(facts, options.type)))
    return 0


def _list(registry: Registry, handle: Handle, *, as_json: bool) -> int:
    found: list[PluginFacts] = []
    failures: list[ConfigError] = []
    for name in registry.types():
        try:
            found.append(facts_of(name, registry, handle))
        except ConfigError as error:
            failures.append(error)
    print(
        _as_json(found)
        if as_json
        else "\n".join((*listed(found), "epp plugins TYPE shows parameters and data of one of them"))
    )
    for failure in failures:
        print(f"epp plugins: {failure}", file=sys.stderr)
    return 2 if failures else 0


def sample_handle() -> Handle:
    """What a sample of a plugin is lent. Its logger stands alone: that a type is deprecated is said on the page."""
    log = logging.Logger("epp.plugins", logging.CRITICAL)
    return Handle("", Fleet(), monotonic, random.Random(0), log, Recorder(monotonic, process=False).plugin_metrics)


def _no_such(type_name: str, error: ConfigError) -> str:
    kind = POLICY_TYPES.get(type_name)
    return f'"{type_name}" belongs to flow control ({kind}): it is accepted, and left out' if kind else str(error)


def _as_json(facts: PluginFacts | list[PluginFacts]) -> str:
    return msgspec.json.format(msgspec.json.encode(facts)).decode()


# --- pages ---------------------------------------------------------------------------------------------------------------


def listed(found: list[PluginFacts]) -> Iterator[str]:
    """One line each, under the kind that its users know it by first."""
    width = max((len(facts.type) for facts in found), default=0)
    for kind in sorted({facts.kinds[0] for facts in found}, key=kind_order):
        yield kind
        for facts in found:
            if facts.kinds[0] == kind:
                yield f"  {facts.type:{width}}  {facts.summary}{_marks(facts)}"
        yield ""


def _marks(facts: PluginFacts) -> str:
    marks = []
    if facts.experimental:
        marks.append("experimental")
    if facts.deprecated and "deprecated" not in facts.summary.lower():
        marks.append("deprecated")
    if not facts.place.startswith(IN_TREE):
        marks.append(facts.place)
    return f" ({', '.join(marks)})" if marks else ""


def described(facts: PluginFacts, asked: str) -> Iterator[str]:
    """One type, which was asked for by the name `asked`."""
    yield f"{facts.type}: {', '.join(facts.kinds)}"
    if facts.summary.lower() not in " ".join(facts.text.lower().split()):
        yield f"  {facts.summary}"
    if facts.experimental:
        yield "  Experimental: epp run takes it with --allow-experimental-plugins."
    if facts.deprecated:
        yield f'  "{asked}" is deprecated: {facts.deprecated}.'
    if facts.text:
        yield ""
        yield textwrap.indent(facts.text, "  ")
    yield ""
    yield "parameters" if facts.parameters else "parameters: none"
    width = max((len(p.path) for p in facts.parameters), default=0)
    yield from (_parameter(p, width) for p in facts.parameters)
    yield ""
    yield f"reads      {_keys(facts.consumes)}"
    yield f"publishes  {_keys(facts.produces)}"
    yield f"class      {facts.place}"


def _parameter(parameter: Parameter, width: int) -> str:
    if parameter.required:
        default = "required"
    elif parameter.default in (None, ""):
        default = "empty"
    elif isinstance(parameter.default, dict) and parameter.default:
        default = "default as follows"
    else:
        default = f"default {msgspec.json.encode(parameter.default).decode()}"
    if parameter.deprecated:
        default += f"; deprecated: {parameter.deprecated}"
    return textwrap.fill(
        f"{parameter.values}; {default}",
        _WIDTH,
        initial_indent=f"  {parameter.path:{width}}  ",
        subsequent_indent=" " * (width + 4),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _keys(keys: tuple[str, ...] | None) -> str:
    if keys is None:
        return "what its parameters say"
    return ", ".join(keys) or "nothing"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="epp plugins",
        description="List the plugin types, in-tree and of installed packages; or show one of them: its rule, parameters "
        "with ranges and defaults, the data that it reads and publishes.",
    )
    parser.add_argument("type", nargs="?", help="a plugin type, or module:Class")
    parser.add_argument("--json", action="store_true", help="the same as JSON, for programs")
    return parser
