"""What a file of objectives and rewrites says, and what is said about its mistakes."""

from __future__ import annotations

import pytest

from epp.api import NO_SLO, Slo
from epp.data.rewrites import ModelRewrite, RewriteRule, RewriteTarget
from epp.discovery.object_files import MAX_FILE_BYTES, ObjectFile, Objective, Pool, keep_what_was, parse_object_file

OBJECTIVE = """\
apiVersion: inference.networking.x-k8s.io/v1alpha2
kind: InferenceObjective
metadata: {name: batch}
spec:
  priority: -1
  poolRef: {name: pool}
"""
REWRITE = """\
apiVersion: llm-d.ai/v1alpha2
kind: InferenceModelRewrite
metadata:
  name: canary
spec:
  poolRef: {group: inference.networking.k8s.io, kind: InferencePool, name: pool}
  rules:
  - matches:
    - model: {type: Exact, value: food}
    targets:
    - {modelRewrite: food-v1, weight: 70}
    - {modelRewrite: food-v2, weight: 30}
"""


def parse(text: str, pool: str = "", **options: str) -> ObjectFile:
    return parse_object_file(text.encode(), "o.yaml", Pool(pool, **options))


def objects(text: str, pool: str = "", **options: str) -> list[object]:
    file = parse(text, pool, **options)
    assert [str(p) for p in file.problems] == []
    return list(file.objects.values())


def problems(text: str) -> list[str]:
    return [str(p) for p in parse(text).problems]


def rewrite_with(rule: str) -> str:
    head = "apiVersion: llm-d.ai/v1alpha2\nkind: InferenceModelRewrite\nmetadata: {name: r}\nspec:\n  rules:\n"
    return f"{head}  - {rule}\n"


def rules(rule: str) -> tuple[RewriteRule, ...]:
    (found,) = objects(rewrite_with(rule))
    assert isinstance(found, ModelRewrite)
    return found.rules


def test_documents_of_both_groups_are_read() -> None:
    targets = (RewriteTarget("food-v1", 70), RewriteTarget("food-v2", 30))

    assert objects(f"# both\n---\n{OBJECTIVE}---\n{REWRITE}...\n") == [
        Objective("batch", -1, "default"),
        ModelRewrite("canary", (RewriteRule(targets, frozenset({"food"})),), namespace="default"),
    ]


def test_json_and_lists_are_read() -> None:
    text = '{"kind": "List", "apiVersion": "v1", "items": [{"apiVersion": "llm-d.ai/v1alpha1", '

    found = objects(text + '"kind": "InferenceObjective", "metadata": {"name": "a"}, "spec": {}}]}')

    assert found == [Objective("a", None, "default")]


def test_an_exported_object_keeps_its_age_and_its_server_side_fields_do_no_harm() -> None:
    text = (
        REWRITE.replace("name: canary", "name: canary\n  uid: 1-2\n  creationTimestamp: 2026-01-01T00:00:10Z")
        + "status: {conditions: []}\n"
    )

    (found,) = objects(text)

    assert isinstance(found, ModelRewrite)
    assert found.created_s == 1767225610


@pytest.mark.parametrize(
    ("pool", "namespace", "count"), [("", "x", 2), ("pool", "default", 2), ("other", "default", 0), ("pool", "x", 2)]
)
def test_only_objects_of_the_pool_count_once_it_is_named(pool: str, namespace: str, count: int) -> None:
    assert len(objects(f"{OBJECTIVE}---\n{REWRITE}", pool, namespace=namespace)) == count


def test_objects_of_another_namespace_are_not_the_pools() -> None:
    text = OBJECTIVE.replace("{name: batch}", "{name: batch, namespace: x}")

    assert objects(text, "pool") == []
    assert objects(text, "pool", namespace="x") == [Objective("batch", -1, "x")]


def test_matches_with_other_headers_become_rules_of_their_own() -> None:
    found = rules(
        "{matches: [{model: {value: a}}, {model: {value: b}}, "
        "{model: {value: c}, headers: [{name: X-Beta, value: 'yes'}]}, {headers: [{name: y, value: z}]}], "
        "targets: [{modelRewrite: t}]}"
    )

    target = (RewriteTarget("t"),)
    assert found == (
        RewriteRule(target, frozenset("ab")),
        RewriteRule(target, frozenset("c"), (("x-beta", "yes"),)),
        RewriteRule(target, headers=(("y", "z"),)),
    )


def test_a_rule_without_matches_is_for_every_model() -> None:
    assert rules("targets: [{modelRewrite: t}]") == (RewriteRule((RewriteTarget("t"),)),)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (OBJECTIVE.replace("-1", "high"), 'o.yaml:5:13: spec.priority: expected a whole number, got the text "high"'),
        (OBJECTIVE.replace("-1", "3000000000"), "o.yaml:5:13: spec.priority: expected a 32-bit number, got 3000000000"),
        (OBJECTIVE.replace("{name: batch}", "{}"), "o.yaml:3:11: metadata.name: is missing"),
        (OBJECTIVE.replace("v1alpha2", "v9"), "o.yaml:1:13: apiVersion: expected "),
        (REWRITE.replace("70", "0"), "o.yaml:11:39: spec.rules[0].targets[0].weight: expected a number in 1..1000000"),
        (
            REWRITE.replace("Exact", "Regex"),
            'o.yaml:9:21: spec.rules[0].matches[0].model.type: expected Exact, got "Regex"',
        ),
        (rewrite_with("matches: []"), "o.yaml:6:5: spec.rules[0].targets: expected at least one target"),
        (
            f"{OBJECTIVE}---\n# two\n{REWRITE}".replace("food-v2", "[]"),
            "o.yaml:20:22: spec.rules[0].targets[1].modelRe",
        ),
        (f"{OBJECTIVE}---\na: [", "o.yaml:9:1: not valid YAML"),
        ("\x00", "o.yaml:1:1: not valid YAML"),
        ("---\n" * 1001, "o.yaml: expected at most 1000 documents"),
    ],
)
def test_mistakes_are_told_with_file_line_and_path(text: str, said: str) -> None:
    file = parse(text)

    assert [str(p)[: len(said)] for p in file.errors] == [said]


def test_an_unknown_field_and_another_kind_are_warnings() -> None:
    text = OBJECTIVE.replace("priority:", "prority: 2\n  priority:") + "---\nkind: InferenceObjectve\napiVersion: v1\n"

    file = parse(text)

    assert file.errors == ()
    assert [str(p) for p in file.problems] == [
        'o.yaml:5:12: warning: spec.prority: unknown field is ignored; did you mean "priority"?',
        'o.yaml:9:7: warning: kind: InferenceObjectve is not read here; did you mean "InferenceObjective"?',
    ]


def test_a_target_without_weight_beside_weighted_ones_is_told() -> None:
    assert problems(REWRITE.replace(", weight: 30", "")) == [
        "o.yaml:11:5: warning: spec.rules[0].targets: a target without weight beside weighted ones is never chosen"
    ]


def test_a_file_too_large_is_refused() -> None:
    file = parse("#" * (MAX_FILE_BYTES + 1))

    assert file.unreadable
    assert [str(p) for p in file.errors] == [f"o.yaml: expected at most {MAX_FILE_BYTES} bytes"]


OTHER = OBJECTIVE.replace("batch", "other")


def kept(text: str) -> dict[str, int | None]:
    """Priorities by name, after a file with `batch` and `other` has become `text`."""
    old = parse(f"{OBJECTIVE}---\n{OTHER}").objects
    made = keep_what_was(parse(text), old).values()
    return {o.name: o.priority for o in made if isinstance(o, Objective)}


def test_a_bad_object_keeps_its_last_good_state_and_a_deleted_one_goes() -> None:
    assert kept(OBJECTIVE.replace("-1", "high")) == {"batch": -1}


def test_a_good_change_beside_a_bad_one_counts() -> None:
    assert kept(f"{OBJECTIVE.replace('-1', 'high')}---\n{OTHER.replace('-1', '7')}") == {"batch": -1, "other": 7}


@pytest.mark.parametrize("trouble", ["a: [", "kind: InferenceObjective", "{a: 1, a: 2}"])
def test_what_cannot_be_told_apart_keeps_everything(trouble: str) -> None:
    assert kept(f"{OTHER.replace('-1', '7')}---\n{trouble}\n") == {"batch": -1, "other": 7}


def with_annotations(annotations: str) -> str:
    return OBJECTIVE.replace("{name: batch}", f"{{name: batch, annotations: {annotations}}}")


@pytest.mark.parametrize(
    ("annotations", "slo"),
    [
        ('{llm-d.ai/slo-ttft-ms: "200", llm-d.ai/slo-tpot-ms: "12.5"}', Slo(200, 12.5)),
        ("{llm-d.ai/slo-tpot-ms: 30}", Slo(tpot_ms=30)),
        ("{someone.else/slo-ttft-ms: x}", NO_SLO),
        ("{llm-d.ai/model: x, llm-d.ai/slo: x, llm-d.ai/owner: x}", NO_SLO),
        ("{}", NO_SLO),
    ],
)
def test_annotations_of_an_objective_are_its_slo(annotations: str, slo: Slo) -> None:
    (found,) = objects(with_annotations(annotations))

    assert isinstance(found, Objective)
    assert found.slo == slo


@pytest.mark.parametrize(
    ("misspelt", "meant"), [("slo-tttft-ms", "slo-ttft-ms"), ("slo-tpot", "slo-tpot-ms"), ("ttft-ms", "slo-ttft-ms")]
)
def test_a_misspelt_annotation_is_told(misspelt: str, meant: str) -> None:
    """Nothing would be refused or preferred for an SLO that nobody has read."""
    (problem,) = problems(with_annotations(f'{{llm-d.ai/{misspelt}: "200"}}'))

    assert problem.startswith("o.yaml:3:")
    where = f"warning: metadata.annotations.llm-d.ai/{misspelt}"
    assert problem.endswith(f'{where}: unknown annotation is ignored; did you mean "{meant}"?')


@pytest.mark.parametrize("value", ["fast", "-1", "0", "nan", "inf"])
def test_an_slo_that_is_none_is_told(value: str) -> None:
    (problem,) = problems(with_annotations(f'{{llm-d.ai/slo-ttft-ms: "{value}"}}'))

    path = "o.yaml:3:61: metadata.annotations.llm-d.ai/slo-ttft-ms"
    assert problem == f'{path}: expected milliseconds, a number above 0, got "{value}"'
