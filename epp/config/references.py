"""Plugins that other plugins name in their parameters (`Plugin.refers_to`): who they are, and where they are named."""

from __future__ import annotations

import re
from collections.abc import Iterable

from epp.api import Decider
from epp.config.document import Fields, Items, Node
from epp.config.draft import Draft
from epp.config.model import Reference
from epp.config.problems import Place
from epp.config.resolved import PluginSpec
from epp.config.roles import fills_only, words_for

_STEP = re.compile(r"(\w+)")


def references_of(draft: Draft, spec: PluginSpec) -> list[tuple[str, PluginSpec]] | None:
    """What `spec` refers to: the naming parameter's path and the plugin. None after a problem was reported."""
    try:
        named = [(path, str(name), kind) for path, (name, kind) in spec.cls.refers_to(spec.params).items()]
    # The plugin may be third-party code.
    except (Exception, SystemExit) as error:
        draft.problems.error(spec.place, f'"{spec.name}" cannot say which plugins it refers to: {error!r}')
        return None
    found: list[tuple[str, PluginSpec]] = []
    for path, name, kind in named:
        reference = Reference(name, parameter_place(draft, spec, path) or spec.place)
        target = draft.look_up(reference, kind=kind, word=words_for(kind, ""))
        if target is None:
            return None
        found.append((path, target))
    return found


def parameter_place(draft: Draft, spec: PluginSpec, path: str) -> Place | None:
    """Where the parameter `path` (`conditions[0].maxValue`) of `spec` was written; None when it was not."""
    entry = draft.entries.get(spec.name)
    if entry is None or entry.parameters is None:
        return None
    node: Node = entry.parameters
    for step in _STEP.findall(path):
        if isinstance(node, Fields) and step in node.fields:
            node = node.fields[step].value
        elif isinstance(node, Items) and step.isdigit() and int(step) < len(node.items):
            node = node.items[int(step)]
        else:
            return None
    return Place(f"{entry.parameters_place.path}.{path}", node.line, node.column)


def warn_of_idle_deciders(draft: Draft, referred: Iterable[str]) -> None:
    """A decider that no plugin refers to does nothing. Says nothing beside errors: they may be why."""
    if draft.problems.failed:
        return
    used = set(referred)
    for spec in draft.of_kind(Decider):
        if spec.name not in used and fills_only(spec.cls, Decider):
            draft.problems.warning(spec.place, f'no plugin refers to "{spec.name}": it does nothing')
