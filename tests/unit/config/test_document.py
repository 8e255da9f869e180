"""Reading YAML: positions, and every way in which a text can be wrong."""

from __future__ import annotations

import pytest

from epp.config.document import MAX_NODES, Fields, Items, Scalar, plain, read_document
from epp.config.problems import Problems


def read(text: str) -> tuple[object, list[str]]:
    problems = Problems("f")
    root = read_document(text, problems)
    return None if root is None else plain(root), [str(p) for p in problems.found]


def test_nodes_know_their_line_and_column_and_keys_know_theirs() -> None:
    root = read_document("a:\n- x\n- {b: 1}\n", Problems("f"))

    assert isinstance(root, Fields)
    field = root.fields["a"]
    assert (field.line, field.column) == (1, 1)
    assert isinstance(field.value, Items)
    inner = field.value.items[1]
    assert isinstance(inner, Fields)
    assert inner.fields["b"].value == Scalar(1, 3, 7)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1", 1),
        ("-7", -7),
        ("0x1F", 31),
        ("0o17", 15),
        ("010", 8),
        ("089", 89),
        ("1.5", 1.5),
        ("1e3", 1000),
        ("3.125e+04", 31250),
        ("2.0", 2),
        ("1e19", 1e19),
        (".5", 0.5),
        ("123456789012345678901", 123456789012345678901.0),
        ("0x1234567890123456789", "0x1234567890123456789"),
        ("true", True),
        ("off", False),
        ("yes", True),
        ("y", "y"),
        ("~", None),
        ("1:30", "1:30"),
        ("2026-01-02", "2026-01-02"),
        ("'5'", "5"),
        ("!!str 5", "5"),
        ("!!int '5'", 5),
        ("!!float 5", 5),
        ("1Gi", "1Gi"),
        ("", None),
    ],
)
def test_scalars_mean_what_they_mean_to_the_go_epp(text: str, value: object) -> None:
    result, problems = read(f"a: [{text}]" if text else "a: ['']")

    assert problems == []
    expected = {"a": [value]} if text else {"a": [""]}
    assert result == expected
    assert repr(result) == repr(expected)  # tells 5 from 5.0 and from True


def test_json_is_read_as_well() -> None:
    assert read('{"a": {"b": [1, 2.5, null, "x\\u00e9"]}}') == ({"a": {"b": [1, 2.5, None, "xé"]}}, [])


def test_null_fields_are_not_there() -> None:
    assert read("a: null\nb: {c: ~, d: 1}") == ({"b": {"d": 1}}, [])


def test_aliases_and_merge_keys_are_resolved_and_own_fields_win() -> None:
    assert read("a: &x {b: 1, c: 2}\nd: *x\ne: {<<: *x, c: 3}\nf: {<<: [*x, {g: 4}]}") == (
        {"a": {"b": 1, "c": 2}, "d": {"b": 1, "c": 2}, "e": {"c": 3, "b": 1}, "f": {"b": 1, "c": 2, "g": 4}},
        [],
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a:\n\t- b", "f:2:1: not valid YAML: a tab is not allowed here; indent with spaces"),
        ("a: [", "f:2:1: not valid YAML: did not find expected node content, while parsing a flow node"),
        ("a: b: c", "f:1:5: not valid YAML: mapping values are not allowed in this context"),
        ("a: 1\n---\nb: 2", "f:2:1: expected one document, found a second one"),
        ("a: 1\nb: 2\na: 3", "f:3:1: a: is there twice, first in line 1"),
        ("a: {b: [{c: 1, c: 2}]}", "f:1:16: a.b[0].c: is there twice, first in line 1"),
        ("a: {1: x}", "f:1:5: a: expected text as key, got the number 1; put it in quotes"),
        ("? [a]\n: b\n", "f:1:3: expected text as key, got a list"),
        ("? {a: b}\n: {c: d}\n", "f:1:3: expected text as key, got a mapping"),
        ("a: *b", "f:1:4: nothing is anchored as &b before *b"),
        ("a: &b [*b]", "f:1:8: *b refers to what it stands in"),
        ("a: {<<: 5}", "f:1:9: a: expected a mapping to merge, got the number 5"),
        ("a: .nan", "f:1:4: a: expected a finite number, got .nan"),
        ("a: [1, 1e999]", "f:1:8: a[1]: expected a finite number, got 1e999"),
        ("a: !!python/object:os.system x", "f:1:4: a: tag tag:yaml.org,2002:python/object:os.system is not supported"),
        ("a: !thing {b: 1}", "f:1:4: a: tag !thing is not supported"),
        ("a: !!int x", "f:1:4: a: 'x' is not a int"),
        ("a: \x00", "f:1:4: not valid YAML: the character U+0000 is not allowed"),
        ("a: 1\nb: \ud800", "f:2:4: not valid YAML: the character U+D800 is not allowed"),
        ("[" * 70, "f:1:65: expected at most 64 levels of nesting"),
        ("%YAML 3.0\n---\na: 1", "f:1:1: not valid YAML: found incompatible YAML document"),
    ],
)
def test_what_is_wrong_is_said_with_its_position(text: str, problem: str) -> None:
    assert read(text)[1] == [problem]


def test_aliases_that_grow_without_bound_are_refused() -> None:
    levels = "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 10))

    _, problems = read("a0: &a0 [x]\n" + levels)

    assert len(problems) == 1
    assert f"expected at most {MAX_NODES} values, aliases spelled out" in problems[0]


def test_deep_nesting_is_refused_before_it_is_read_to_its_end() -> None:
    _, problems = read("[" * 500_000)

    assert problems == ["f:1:65: expected at most 64 levels of nesting"]
