"""Plugins that name other plugins in their parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from epp.api import ConfigError, Decider, Endpoint, Filter, Handle, Plugin, Request
from epp.config import InvalidConfig, Pipeline, Registry, build, load_text, resolved_of
from tests.support.configs import FAKES, HEAD, KeepAll, make_environment
from tests.support.plugins import make_handle


class Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    others: tuple[str, ...] = ()
    decider: str = ""


class Asking(KeepAll):
    """Keeps what its deciders say, which it needs when it is made."""

    type = "asking"
    Params = Names

    def __init__(self, params: Names, handle: Handle) -> None:
        Filter.__init__(self, params, handle)
        self.deciders = [handle.plugin(name, Decider) for name in (params.decider,) if name]
        self.others = [handle.plugin(name, Filter) for name in params.others]

    @classmethod
    def refers_to(cls, params: Any) -> Mapping[str, tuple[str, type[Plugin]]]:
        named: dict[str, tuple[str, type[Plugin]]] = {
            f"others[{i}]": (name, Filter) for i, name in enumerate(params.others)
        }
        return named | ({"decider": (params.decider, Decider)} if params.decider else {})


class Yes(Decider):
    type = "agreeing"

    class Params(msgspec.Struct, frozen=True):
        limit: int = 0

    def disaggregate(self, request: Request, endpoint: Endpoint | None) -> bool:
        return True


class Unable(Yes):
    type = "unable"

    def __init__(self, params: Any, handle: Handle) -> None:
        raise ConfigError("limit: cannot be")


class Speechless(Yes):
    type = "speechless"

    @classmethod
    def refers_to(cls, params: Any) -> Mapping[str, tuple[str, type[Plugin]]]:
        raise KeyError("what")


def build_asking(plugins: str, reuse: Pipeline | None = None) -> Pipeline:
    registry = Registry(FAKES | {cls.type: cls for cls in (Asking, Yes, Unable, Speechless)})
    body = f"plugins:\n- {{type: queue-scorer}}\n{plugins}"
    return build(load_text(HEAD + body, "c.yaml"), registry, make_environment(), reuse=reuse)


def problems(plugins: str) -> list[str]:
    with pytest.raises(InvalidConfig) as raised:
        build_asking(plugins)
    return [str(p).removeprefix("c.yaml:").lstrip() for p in raised.value.problems]


def test_a_plugin_gets_those_it_names_wherever_they_stand() -> None:
    pipeline = build_asking("- {name: a, type: asking, parameters: {others: [b], decider: d}}\n"
                            "- {name: b, type: asking}\n- {name: d, type: agreeing}\n")  # fmt: skip

    first = pipeline.plugins["a"]
    assert isinstance(first, Asking)
    assert first.others == [pipeline.plugins["b"]]
    assert first.deciders == [pipeline.plugins["d"]]
    assert list(pipeline.plugins)[:4] == ["queue-scorer", "a", "b", "d"]
    assert resolved_of(pipeline).warnings == ()


@pytest.mark.parametrize(
    ("plugins", "said"),
    [
        (
            "- {name: a, type: asking, parameters: {decider: de}}\n- {name: dec, type: agreeing}\n",
            '5:49: plugins[1].parameters.decider: no plugin is named "de"; did you mean "dec"?',
        ),
        (
            "- {name: a, type: asking, parameters: {decider: queue-scorer}}\n",
            '5:49: plugins[1].parameters.decider: expected a decider: "queue-scorer" is a scorer',
        ),
        (
            "- {name: a, type: asking, parameters: {others: [b, d]}}\n- {name: b, type: asking}\n- {name: d, type: agreeing}\n",
            '5:52: plugins[1].parameters.others[1]: expected a filter: "d" is a decider',
        ),
    ],
)
def test_a_name_that_does_not_fit_is_reported_where_it_stands(plugins: str, said: str) -> None:
    assert problems(plugins) == [said]


@pytest.mark.parametrize(("named", "cycle"), [({"a": "a"}, "a → a"), ({"z": "a", "a": "b", "b": "a"}, "a → b → a")])
def test_plugins_that_name_each_other_are_reported_once(named: dict[str, str], cycle: str) -> None:
    lines = [f"- {{name: {name}, type: asking, parameters: {{others: [{other}]}}}}" for name, other in named.items()]

    (problem,) = problems("\n".join(lines) + "\n")

    assert f"plugins refer to each other: {cycle}" in problem


def test_a_plugin_whose_other_does_not_start_is_not_reported_as_well() -> None:
    (problem,) = problems(
        "- {name: a, type: asking, parameters: {decider: d}}\n- {name: d, type: unable, parameters: {limit: 3}}\n"
    )

    assert "plugins[2].parameters.limit: cannot be" in problem


def test_a_plugin_that_cannot_say_what_it_names_is_reported() -> None:
    (problem,) = problems("- {type: speechless}\n")

    assert "\"speechless\" cannot say which plugins it refers to: KeyError('what')" in problem


def test_a_decider_that_nobody_names_is_warned_about() -> None:
    pipeline = build_asking("- {type: agreeing}\n")

    assert [w.message for w in resolved_of(pipeline).warnings] == ['no plugin refers to "agreeing": it does nothing']


def kept_after(change: str) -> dict[str, bool]:
    """Which plugins a reload keeps when the decider's parameters become `change`."""
    asking = "- {name: a, type: asking, parameters: {decider: d}}\n"
    old = build_asking(asking + "- {name: d, type: agreeing, parameters: {limit: 1}}\n")
    new = build_asking(asking + f"- {{name: d, type: agreeing, parameters: {{limit: {change}}}}}\n", reuse=old)
    return {name: new.plugins[name] is old.plugins[name] for name in ("queue-scorer", "a", "d")}


@pytest.mark.parametrize(("change", "same"), [("1", True), ("2", False)])
def test_a_reload_makes_a_plugin_anew_when_one_it_names_is_new(change: str, same: bool) -> None:
    assert kept_after(change) == {"queue-scorer": True, "a": same, "d": same}


@pytest.mark.parametrize(("kind", "said"), [(Decider, "no plugin is named"), (Filter, "is no Filter")])
def test_a_handle_gives_only_what_it_has_and_only_as_what_it_is(kind: type[Plugin], said: str) -> None:
    name = "d" if kind is Filter else "x"
    handle = msgspec.structs.replace(make_handle(), plugins={"d": Yes(Yes.Params(), make_handle())})

    with pytest.raises(ConfigError, match=said):
        handle.plugin(name, kind)
