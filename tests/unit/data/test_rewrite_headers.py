"""Rules that also ask for headers."""

from __future__ import annotations

import random

from epp.data.rewrites import ModelRewrite, RewriteRule, Rewrites, RewriteTarget


def rule(target: str, *models: str, **headers: str) -> RewriteRule:
    return RewriteRule((RewriteTarget(target),), frozenset(models), tuple(headers.items()))


def rewrites(*rules: RewriteRule) -> Rewrites:
    made = Rewrites(rng=random.Random(1))
    made.replace_all([ModelRewrite("r", rules)])
    return made


def test_a_rule_applies_only_to_requests_with_its_header() -> None:
    made = rewrites(rule("t", "m", beta="yes"))

    assert made.rewrite("m", {"beta": "yes"}) == ("r", "t")
    assert made.rewrite("m", {"beta": "Yes"}) is None
    assert made.rewrite("m", {}) is None
    assert made.rewrite("m") is None


def test_all_headers_of_a_rule_have_to_be_there() -> None:
    made = rewrites(rule("t", beta="yes", team="a"))

    assert made.rewrite("m", {"beta": "yes"}) is None
    assert made.rewrite("m", {"beta": "yes", "team": "a"}) == ("r", "t")


def test_more_headers_win_before_order() -> None:
    made = rewrites(rule("none", "m"), rule("one", "m", beta="yes"), rule("two", "m", beta="yes", team="a"))

    assert made.rewrite("m", {}) == ("r", "none")
    assert made.rewrite("m", {"beta": "yes"}) == ("r", "one")
    assert made.rewrite("m", {"beta": "yes", "team": "a"}) == ("r", "two")


def test_the_model_decides_before_headers() -> None:
    made = rewrites(rule("any", beta="yes"), rule("exact", "m"))

    assert made.rewrite("m", {"beta": "yes"}) == ("r", "exact")
    assert made.rewrite("other", {"beta": "yes"}) == ("r", "any")


def test_a_model_whose_headers_do_not_fit_falls_through_to_rules_for_every_model() -> None:
    made = rewrites(rule("exact", "m", beta="yes"), rule("any"))

    assert made.rewrite("m", {}) == ("r", "any")
