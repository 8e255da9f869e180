"""Facts about plugin classes: of every in-tree type, and of classes as other packages write them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
import pytest

from epp.api import ConfigError, Scorer, deprecated
from epp.config import Registry
from epp.config.catalogue import PluginFacts, facts_of, sample
from epp_plugins.registry import ALIASES, BUILTIN, REPLACED
from tests.support.configs import FlatScorer
from tests.support.plugins import make_handle

REGISTRY = Registry(BUILTIN, aliases=ALIASES, replaced=REPLACED)


class Rule(msgspec.Struct, rename="camel"):
    metric: Literal["queue", "usage"]
    max_value: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0


class Documented(FlatScorer):
    """Prefers nobody.

    At all."""

    type = "documented"

    class Params(msgspec.Struct, rename="camel"):
        rules: Annotated[tuple[Rule, ...], msgspec.Meta(min_length=1)]
        by_name: dict[str, int] = {}
        limit: Annotated[int, msgspec.Meta(ge=0)] | None = None
        most: Annotated[Annotated[int, msgspec.Meta(ge=0)] | None, deprecated("use limit")] = None


class Failing(Scorer):
    """Fails."""

    type = "failing"

    def consumes(self) -> Any:
        raise OSError("no file")


class Circular(FlatScorer):
    type = "circular"

    @classmethod
    def refers_to(cls, params: Any) -> Any:
        return {"other": ("circular", FlatScorer)}


def facts(type_name: str, registry: Registry = REGISTRY) -> PluginFacts:
    return facts_of(type_name, registry, make_handle())


def facts_of_class(cls: type[Scorer]) -> PluginFacts:
    return facts(cls.type, Registry({cls.type: cls}))


@pytest.mark.parametrize("type_name", BUILTIN)
def test_every_in_tree_type_says_what_it_is_and_what_it_takes(type_name: str) -> None:
    found = facts(type_name)

    assert found.type == type_name
    assert found.summary
    assert found.text
    assert found.kinds[0] != "plugin of another kind"
    assert len({p.path for p in found.parameters}) == len(found.parameters)
    assert not [p for p in found.parameters if p.values.startswith("a value")]


def test_data_of_a_type_are_those_with_default_parameters() -> None:
    assert facts("prefix-cache-scorer").consumes == ("PrefixCacheMatchInfo/approx-prefix-cache-producer",)
    assert facts("inflight-load-producer").produces == ("InFlightLoad/inflight-load-producer",)
    assert (facts("queue-scorer").consumes, facts("queue-scorer").produces) == ((), ())


def test_data_are_unknown_where_no_sample_can_be_made() -> None:
    found = facts_of_class(Failing)

    assert (found.produces, found.consumes) == (None, None)


def test_a_deprecated_type_says_what_to_use() -> None:
    assert facts("pd-profile-handler").deprecated == 'use "disagg-profile-handler"'
    assert facts("queue-scorer").deprecated == ""


def test_a_former_name_gives_the_present_type() -> None:
    found = facts("tokenizer")

    assert found.type == "token-producer"
    assert "token-producer" in found.deprecated


def test_an_unknown_type_is_refused_with_a_hint() -> None:
    with pytest.raises(ConfigError, match='did you mean "queue-scorer"'):
        facts("queue-scorr")


def test_the_summary_of_a_class_without_a_module_of_its_own_is_its_docstring() -> None:
    found = facts_of_class(Documented)

    assert found.summary == found.rule == "Prefers nobody."
    assert found.place == f"{__name__}:Documented"


def test_parameters_are_told_with_ranges_defaults_and_what_is_in_them() -> None:
    found = [(p.path, p.values, p.required, p.default) for p in facts_of_class(Documented).parameters]

    assert found == [
        ("rules", "a list of a mapping, of length at least 1", True, None),
        ("rules[].metric", '"queue" or "usage"', True, None),
        ("rules[].maxValue", "a number, more than 0, at most 1", False, 1.0),
        ("byName", "a mapping to a whole number", False, {}),
        ("limit", "a whole number, at least 0", False, None),
        ("most", "a whole number, at least 0", False, None),
    ]
    assert {p.path: p.deprecated for p in facts_of_class(Documented).parameters if p.deprecated} == {
        "most": "use limit"
    }


def test_facts_are_written_as_json() -> None:
    found = facts("session-affinity-scorer")

    assert msgspec.json.decode(msgspec.json.encode(found), type=PluginFacts) == found


def test_a_sample_that_refers_to_itself_is_refused() -> None:
    with pytest.raises(ConfigError, match="circular → circular"):
        sample(Circular, Registry({"circular": Circular}), make_handle())


def test_a_sample_gets_those_that_it_refers_to() -> None:
    plugin = sample(BUILTIN["pd-profile-handler"], REGISTRY, make_handle())

    assert set(plugin.handle.plugins) == {"prefix-based-pd-decider"}
