"""Which rewrite and which target a model gets."""

from __future__ import annotations

import random
from collections import Counter

from epp.data.rewrites import ModelRewrite, RewriteRule, Rewrites, RewriteTarget


def rule(target: str, *models: str) -> RewriteRule:
    return RewriteRule((RewriteTarget(target),), frozenset(models))


def rewrites(*given: ModelRewrite) -> Rewrites:
    made = Rewrites(rng=random.Random(1))
    made.replace_all(given)
    return made


def counts(*targets: RewriteTarget) -> Counter[str]:
    made = rewrites(ModelRewrite("r", (RewriteRule(targets),)))
    return Counter(answer[1] for _ in range(3000) if (answer := made.rewrite("m")) is not None)


def test_without_rules_nothing_is_rewritten() -> None:
    assert rewrites().rewrite("m") is None


def test_an_exact_rule_beats_an_older_rule_for_every_model() -> None:
    made = rewrites(
        ModelRewrite("generic", (rule("g"),), created_s=1), ModelRewrite("exact", (rule("e", "m"),), created_s=2)
    )

    assert made.rewrite("m") == ("exact", "e")
    assert made.rewrite("other") == ("generic", "g")
    assert made.rewrite("") == ("generic", "g")


def test_among_equals_the_oldest_wins() -> None:
    made = rewrites(
        ModelRewrite("young", (rule("y", "m"),), created_s=2), ModelRewrite("old", (rule("o", "m"),), created_s=1)
    )

    assert made.rewrite("m") == ("old", "o")


def test_within_a_rewrite_the_first_rule_wins() -> None:
    made = rewrites(ModelRewrite("r", (rule("first", "m"), rule("second", "m"))))

    assert made.rewrite("m") == ("r", "first")


def test_a_rule_names_several_models() -> None:
    made = rewrites(ModelRewrite("r", (rule("t", "a", "b"),)))

    assert [made.rewrite(m) for m in ("a", "b", "c")] == [("r", "t"), ("r", "t"), None]


def test_weights_are_shares() -> None:
    found = counts(RewriteTarget("a", 9), RewriteTarget("b", 1))

    assert 2600 < found["a"] < 2800
    assert found["a"] + found["b"] == 3000


def test_without_weights_all_targets_have_the_same_chance() -> None:
    found = counts(RewriteTarget("a"), RewriteTarget("b"), RewriteTarget("c", 0))

    assert min(found["a"], found["b"], found["c"]) > 850


def test_a_target_without_weight_beside_weighted_ones_is_never_chosen() -> None:
    assert counts(RewriteTarget("a"), RewriteTarget("b", 1)) == {"b": 3000}


def test_a_removed_rewrite_uncovers_the_next_one() -> None:
    made = rewrites(
        ModelRewrite("old", (rule("o", "m"),), created_s=1), ModelRewrite("young", (rule("y", "m"),), created_s=2)
    )

    made.remove("old")

    assert made.rewrite("m") == ("young", "y")


def test_a_changed_rewrite_replaces_itself() -> None:
    made = rewrites(ModelRewrite("r", (rule("a", "m"),)))

    made.set(ModelRewrite("r", (rule("b", "m"),)))

    assert made.rewrite("m") == ("r", "b")
    assert len(made) == 1


def test_a_rule_without_targets_is_no_rule() -> None:
    assert rewrites(ModelRewrite("r", (RewriteRule(()),))).rewrite("m") is None
