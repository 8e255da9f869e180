from __future__ import annotations

import pytest

from epp_plugins.selector_text import parse_selector


@pytest.mark.parametrize(
    ("text", "matching", "other"),
    [
        ("a=1", {"a": "1"}, {"a": "2"}),
        ("a==1", {"a": "1"}, {}),
        ("a!=1", {}, {"a": "1"}),
        ("a", {"a": ""}, {"b": "1"}),
        ("!a", {"b": "1"}, {"a": "1"}),
        ("a in (1, 2)", {"a": "2"}, {"a": "3"}),
        ("a notin (1,2)", {"a": "3"}, {"a": "1"}),
        ("x-y.io/a = 1 , b in (1,2),!c", {"x-y.io/a": "1", "b": "2"}, {"x-y.io/a": "1", "b": "2", "c": ""}),
        ("a=", {"a": ""}, {"a": "1"}),
    ],
)
def test_selectors_read_as_kubernetes_reads_them(text: str, matching: dict[str, str], other: dict[str, str]) -> None:
    requirements = parse_selector(text)

    assert all(requirement.matches(matching) for requirement in requirements)
    assert not all(requirement.matches(other) for requirement in requirements)


@pytest.mark.parametrize("text", ["", "a=1,", "a=b=c", "=1", "a in 1", "a within (1)", "a in (1", "a > 1", "-a=1"])
def test_what_is_no_selector_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no label requirement"):
        parse_selector(text)
