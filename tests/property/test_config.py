"""No text, however broken, makes reading a configuration fail otherwise than with a list of problems."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epp.config import InvalidConfig, Problem, Registry, build, load_text, resolved_of, to_yaml
from epp.config.document import plain, read_document
from epp.config.durations import format_duration, parse_duration
from epp.config.problems import Problems
from epp_plugins.registry import BUILTIN
from tests.support.configs import make_environment, report

REGISTRY = Registry(BUILTIN)
TEXTS = [path.read_text() for path in sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))]
LINES = sorted({line for text in TEXTS for line in text.splitlines() if not line.startswith("#")})
WORDS = sorted({word for line in LINES for word in line.replace(":", " ").replace(",", " ").split()})
YAML_SIGNS = "\t|\n|: |- |[|]|{|}|&a |*a|<<: *a|!!int |!x |'|\"|>\n|? |#|---\n|...|%|@|`|=|  "
ODD_VALUES = "null|~|-1|.nan|.inf|1e999|0x|true|\x00|\u2028|\ufeff|é|\U0001f600|1Gi|60s"
SNIPPETS = [*YAML_SIGNS.split("|"), *ODD_VALUES.split("|")]

edits = st.lists(
    st.one_of(
        st.tuples(st.just("insert"), st.integers(0, 4000), st.sampled_from(SNIPPETS + WORDS)),
        st.tuples(st.just("delete"), st.integers(0, 4000), st.integers(1, 40)),
        st.tuples(st.just("line"), st.integers(0, 200), st.sampled_from(LINES)),
        st.tuples(st.just("drop"), st.integers(0, 200), st.integers(1, 3)),
        st.tuples(st.just("swap"), st.sampled_from(WORDS), st.sampled_from(WORDS + SNIPPETS)),
    ),
    min_size=1,
    max_size=6,
)


def mutate(text: str, changes: list[tuple[str, object, object]]) -> str:
    for kind, where, what in changes:
        if kind == "insert":
            at = int(str(where)) % (len(text) + 1)
            text = text[:at] + str(what) + text[at:]
        elif kind == "delete":
            at = int(str(where)) % (len(text) + 1)
            text = text[:at] + text[at + int(str(what)) :]
        elif kind == "swap":
            text = text.replace(str(where), str(what), 2)
        else:
            lines = text.split("\n")
            at = int(str(where)) % (len(lines) + 1)
            lines[at : at + (0 if kind == "line" else int(str(what)))] = [str(what)] if kind == "line" else []
            text = "\n".join(lines)
    return text


def problems_of(text: str) -> tuple[Problem, ...]:
    """What is wrong with `text`. When it can be used, writing it out and reading that again gives the same."""
    try:
        pipeline = build(load_text(text, "c.yaml"), REGISTRY, make_environment())
    except InvalidConfig as invalid:
        return invalid.problems
    again = build(load_text(to_yaml(resolved_of(pipeline))), REGISTRY, make_environment())
    assert again.config_hash == pipeline.config_hash
    return resolved_of(pipeline).warnings


@settings(max_examples=2500, suppress_health_check=list(HealthCheck))
@given(text=st.sampled_from(TEXTS), changes=edits)
def test_a_changed_configuration_is_used_or_explained(text: str, changes: list[tuple[str, object, object]]) -> None:
    changed = mutate(text, changes)

    problems = problems_of(changed)

    last = len(changed.splitlines()) + 2
    assert all(0 <= p.line <= last and p.message for p in problems)


@settings(max_examples=300)
@given(st.text(max_size=200))
def test_any_text_is_used_or_explained(text: str) -> None:
    assert all(str(p).startswith("c.yaml") for p in problems_of(text))


# YAML takes these three for line breaks, JSON does not.
words = st.text(st.characters(exclude_characters="\x85\u2028\u2029", exclude_categories=["Cs"]), max_size=8)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**12), 10**12)
    | st.floats(allow_nan=False, allow_infinity=False)
    | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.dictionaries(st.sampled_from(["a", "limit", "rules", "matchLabels", "plugins"]), values, max_size=4))
def test_any_values_as_parameters_are_used_or_explained(parameters: dict[str, object]) -> None:
    body = f"plugins: [{{type: queue-scorer}}, {{type: keep-all, parameters: {json.dumps(parameters, ensure_ascii=False)}}}]\n"

    assert all(line[0].isdigit() or "default plugin" in line for line in report(body))


@settings(max_examples=300)
@given(values)
def test_json_reads_as_json(value: object) -> None:
    problems = Problems("f")
    root = read_document(json.dumps({"v": [value]}, ensure_ascii=False), problems)

    if problems.found:
        assert "not allowed" in problems.found[0].message
    else:
        assert root is not None
        assert plain(root) == without_nulls({"v": [value]})


@given(st.integers(0, 10**15))
def test_durations_of_whole_nanoseconds_read_back(ns: int) -> None:
    assert parse_duration(format_duration(ns / 1e9)) == pytest.approx(ns / 1e9, rel=1e-9, abs=1e-9)


def without_nulls(value: object) -> object:
    if isinstance(value, dict):
        return {k: without_nulls(v) for k, v in value.items() if v is not None}
    return [without_nulls(v) for v in value] if isinstance(value, list) else value
