"""Plugin types come from three places, and never from two at once."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from epp.api import ConfigError
from epp.config import ENTRY_POINT_GROUP, Registry
from tests.support.configs import FAKES, FlatScorer, build_fake, report
from tests.support.third_party import ThirdPartyScorer

MODULE = "tests.support.third_party"


def entry_point(name: str, value: str) -> EntryPoint:
    return EntryPoint(name=name, value=value, group=ENTRY_POINT_GROUP)


def test_a_built_in_type_is_found() -> None:
    assert Registry(FAKES).find("queue-scorer") is FlatScorer


def test_an_installed_type_is_imported_when_it_is_asked_for() -> None:
    registry = Registry(
        FAKES,
        installed=[
            entry_point("third-party-scorer", f"{MODULE}:ThirdPartyScorer"),
            entry_point("unused", "no.such.module:Class"),
        ],
    )

    assert registry.find("third-party-scorer") is ThirdPartyScorer


def test_two_claims_to_one_type_are_refused() -> None:
    with pytest.raises(ConfigError, match='claims the plugin type "queue-scorer", which is a built-in one'):
        Registry(FAKES, installed=[entry_point("queue-scorer", "a:B")])
    with pytest.raises(ConfigError, match='entry point a:B and entry point c:D both claim the plugin type "x"'):
        Registry(FAKES, installed=[entry_point("x", "a:B"), entry_point("x", "c:D")])


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", "no.such.module:Class", "cannot import no.such.module:Class"),
        ("x", f"{MODULE}:Missing", "cannot import"),
        ("x", f"{MODULE}:ThirdPartyScorer", 'has type "third-party-scorer", not "x"'),
        ("not-a-plugin", f"{MODULE}:NotAPlugin", "is not a subclass of epp.api.Plugin"),
    ],
)
def test_an_installed_type_that_is_broken_says_so(name: str, value: str, message: str) -> None:
    registry = Registry(FAKES, installed=[entry_point(name, value)])

    with pytest.raises(ConfigError, match=message):
        registry.find(name)


def test_a_class_can_be_named_in_the_configuration() -> None:
    pipeline = build_fake(f'plugins: [{{type: "{MODULE}:ThirdPartyScorer"}}]\n')

    assert isinstance(pipeline.plugins["third-party-scorer"], ThirdPartyScorer)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no.such.module:Class", "cannot import no.such.module: ModuleNotFoundError(\"No module named 'no'\")"),
        (
            f"{MODULE}:ThirdPartyScore",
            f'module {MODULE} has no class ThirdPartyScore; did you mean "ThirdPartyScorer"?',
        ),
        (f"{MODULE}:NotAPlugin", f"{MODULE}:NotAPlugin is not a subclass of epp.api.Plugin"),
        (
            f"{MODULE}:WithPlainParams",
            (
                f"{MODULE}:WithPlainParams.Params is not a msgspec struct that can be read: "
                "TypeError('Must be called with a struct type or instance')"
            ),
        ),
        ("epp.api:Scorer", 'epp.api:Scorer has no type: set `type = "..."` in the class'),
    ],
)
def test_a_named_class_that_cannot_be_used_says_why(reference: str, message: str) -> None:
    found = report(f'plugins: [{{type: "{reference}"}}, {{type: queue-scorer}}]\n')

    assert found == [f"3:18: plugins[0].type: {message}"]


def test_a_module_that_ends_the_process_is_a_problem_as_any_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """sys.exit would end epp run and epp check without a word of where."""
    (tmp_path / "a_program.py").write_text("import sys\n\nsys.exit(3)\n")
    monkeypatch.syspath_prepend(tmp_path)

    assert report('plugins: [{type: "a_program:Class"}, {type: queue-scorer}]\n') == [
        "3:18: plugins[0].type: cannot import a_program: SystemExit(3)"
    ]
    with pytest.raises(ConfigError, match=r"cannot import a_program:Class: SystemExit\(3\)"):
        Registry(FAKES, installed=[entry_point("x", "a_program:Class")]).find("x")


def test_a_plugin_that_ends_the_process_is_a_problem_as_any_other() -> None:
    assert report(f'plugins: [{{type: "{MODULE}:ExitingScorer"}}, {{type: queue-scorer}}]\n') == [
        "3:11: plugins[0]: the plugin does not start: SystemExit: no licence"
    ]


def test_an_alias_without_its_target_is_unknown() -> None:
    registry = Registry({}, aliases={"old": "new"})

    with pytest.raises(ConfigError, match='unknown plugin type "old"'):
        registry.find("old")


def test_installed_packages_are_looked_up_by_entry_point() -> None:
    registry = Registry.with_installed(FAKES)

    assert set(FAKES) <= set(registry.types())
