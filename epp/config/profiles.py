"""Scheduling profiles with their defaults: who filters, who scores with which weight, who picks, who decides between them."""

from __future__ import annotations

from typing import Final

from epp.api import Filter, Picker, ProfileHandler, Scorer
from epp.config.draft import Draft
from epp.config.flow_control import DEFAULT_POLICIES
from epp.config.model import ProfileEntry, ProfilePlugin, Reference
from epp.config.problems import Place
from epp.config.resolved import PluginSpec, ProfileSpec
from epp.config.roles import METRICS_EXTRACTOR, METRICS_SOURCE, only_in_profiles, words_for
from epp.config.services import DEFAULT_DETECTOR, DEFAULT_PARSERS, chosen_detector

DEFAULT_WEIGHT: Final = 1.0
DEFAULT_PROFILE: Final = "default"
DEFAULT_PICKER: Final = "max-score-picker"
DEFAULT_HANDLER: Final = "single-profile-handler"
# The Go EPP adds these to what is declared, so that profiles may name them.
_IDLE: Final = frozenset((DEFAULT_HANDLER, *DEFAULT_PARSERS, *DEFAULT_POLICIES, METRICS_SOURCE, METRICS_EXTRACTOR))


def resolve_profiles(draft: Draft) -> tuple[ProfileSpec, ...]:
    """The profiles in configuration order. Without any: one named `default`, of every filter, scorer and picker declared.

    The Go EPP collects those in random order; here it is the order of the configuration.
    """
    entries = draft.config.profiles
    by_default = not entries
    if by_default:
        entries = (_everything(draft),)
    profiles = tuple(_profile(draft, entry, default=by_default or draft.config.built_in) for entry in entries)
    _warn_of_idle_plugins(draft, profiles, {p.plugin.name for entry in entries for p in entry.plugins})
    return profiles


def resolve_handler(draft: Draft, profiles: tuple[ProfileSpec, ...]) -> str:
    """The name of the only profile handler; empty after a problem was reported."""
    handlers = draft.of_kind(ProfileHandler)
    for other in handlers[1:]:
        draft.problems.error(other.place, f'expected one profile handler: "{handlers[0].name}" is one already')
    if handlers:
        return handlers[0].name
    if len(profiles) > 1:
        message = f"{len(profiles)} profiles need a profile handler among the plugins; there is none"
        draft.problems.error(profiles[1].place, message)
        return ""
    spec = draft.add_default(DEFAULT_HANDLER)
    return spec.name if spec else ""


def _everything(draft: Draft) -> ProfileEntry:
    # Positions are those of the plugins, so that a second picker is reported where it is declared.
    members = [s for s in draft.specs.values() if issubclass(s.cls, Filter | Scorer | Picker)]
    plugins = tuple(ProfilePlugin(Reference(s.name, s.place), None, s.place) for s in members)
    return ProfileEntry(DEFAULT_PROFILE, plugins, Place())


def _profile(draft: Draft, entry: ProfileEntry, *, default: bool) -> ProfileSpec:
    members: list[tuple[str, float | None]] = []
    filters: list[str] = []
    scorers: list[tuple[str, float]] = []
    picker = ""
    seen: set[str] = set()
    for plugin in entry.plugins:
        spec = _member(draft, plugin)
        if spec is None:
            continue
        if spec.name in seen:
            draft.problems.error(plugin.plugin.place, f'"{spec.name}" is in this profile twice')
            continue
        seen.add(spec.name)
        weight = None
        if issubclass(spec.cls, Filter):
            filters.append(spec.name)
        if issubclass(spec.cls, Scorer):
            weight = DEFAULT_WEIGHT if plugin.weight is None else plugin.weight
            scorers.append((spec.name, weight))
        if issubclass(spec.cls, Picker) and picker:
            message = f'expected one picker in a profile: "{picker}" is one already'
            draft.problems.error(plugin.plugin.place, message)
            continue
        if issubclass(spec.cls, Picker):
            picker = spec.name
        members.append((spec.name, weight))
    if not picker:
        picker = _default_picker(draft)
        members.append((picker, None))
    if not scorers and not draft.broken:
        message = f'profile "{entry.name}" has no scorer: all endpoints that pass its filters are equal'
        draft.problems.warning(entry.place, message)
    return ProfileSpec(entry.name, tuple(members), tuple(filters), tuple(scorers), picker, default, entry.place)


def _member(draft: Draft, plugin: ProfilePlugin) -> PluginSpec | None:
    """The plugin, when it has something to do in a profile."""
    reference = plugin.plugin
    if reference.name in draft.left_out:
        draft.problems.warning(
            reference.place, f'"{reference.name}" belongs to flow control: it is ignored in a profile'
        )
        return None
    if reference.name in _IDLE and reference.name not in draft.entries:
        draft.problems.warning(reference.place, f'"{reference.name}" does nothing in a profile: it is ignored')
        return None
    if _is_added(draft, reference.name):
        draft.add_named(reference)
    spec = draft.look_up(reference)
    if spec is None:
        return None
    if not issubclass(spec.cls, Filter | Scorer | Picker):
        what = words_for(spec.cls, spec.type)
        draft.problems.warning(reference.place, f'"{spec.name}" is {what}: it runs, but it is ignored in a profile')
        return None
    if plugin.weight is not None and not issubclass(spec.cls, Scorer):
        what = words_for(spec.cls, spec.type)
        draft.problems.warning(plugin.weight_place, f'is ignored: "{spec.name}" is {what}, only scorers have a weight')
    return spec


def _is_added(draft: Draft, name: str) -> bool:
    """A plugin of this name is there without being declared. The detector is a filter, too."""
    if name == DEFAULT_PICKER:
        return not draft.of_kind(Picker)
    chosen = chosen_detector(draft)
    return name == DEFAULT_DETECTOR and (chosen is None or chosen.name == name)


def _default_picker(draft: Draft) -> str:
    """The first picker that is declared (the Go EPP takes any of them), else a max-score-picker."""
    pickers = draft.of_kind(Picker)
    spec = pickers[0] if pickers else draft.add_default(DEFAULT_PICKER)
    return spec.name if spec else ""


def _warn_of_idle_plugins(draft: Draft, profiles: tuple[ProfileSpec, ...], listed: set[str]) -> None:
    listed = listed | {profile.picker for profile in profiles}
    for spec in draft.specs.values():
        if only_in_profiles(spec.cls) and spec.name not in listed:
            draft.problems.warning(spec.place, f'no profile lists "{spec.name}": it does nothing')
