"""`epp plugins` and `epp schema`: what they print, and how they end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from epp.cli import main
from epp_plugins.registry import BUILTIN


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output, standard error."""
    status = main(arguments)
    out, err = capsys.readouterr()
    return status, out, err


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, *, module: str) -> None:
    """A distribution whose scorer `from-afar` is in `module`."""
    (folder / "afar.py").write_text(
        'from epp.api import Scorer\nclass Far(Scorer):\n    """Farthest first."""\n    type = "from-afar"\n'
    )
    info = folder / "afar-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: afar\nVersion: 1\n")
    (info / "entry_points.txt").write_text(f"[epp.plugins]\nfrom-afar = {module}:Far\n")
    monkeypatch.syspath_prepend(folder)


def test_the_list_has_every_type_on_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, err = run(capsys, "plugins")

    listed = [line.split()[0] for line in out.splitlines() if line.startswith("  ")]
    assert (status, err) == (0, "")
    assert sorted(listed) == sorted(BUILTIN)


def test_the_list_marks_what_is_experimental(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "plugins")

    marked = {line.split()[0] for line in out.splitlines() if "(experimental)" in line}
    assert marked == {name for name, cls in BUILTIN.items() if cls.experimental}


def test_plugins_of_installed_packages_are_listed_with_their_class(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, module="afar")

    status, out, _ = run(capsys, "plugins")

    assert status == 0
    assert [line.split(maxsplit=1)[1] for line in out.splitlines() if "from-afar" in line] == [
        "Farthest first. (afar:Far)"
    ]


def test_a_package_that_cannot_be_imported_is_told_after_the_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, module="no_such_module")

    status, out, err = run(capsys, "plugins")

    assert status == 2
    assert "queue-scorer" in out
    assert "package afar: cannot import no_such_module:Far" in err


def test_one_type_is_shown_with_parameters_and_data(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "plugins", "prefix-cache-scorer")

    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert status == 0
    assert lines[0] == "prefix-cache-scorer: scorer"
    assert "matchLengthWeight a number, at least 0, at most 1; default 0.0" in lines
    assert "reads PrefixCacheMatchInfo/approx-prefix-cache-producer" in lines
    assert "publishes nothing" in lines


def test_a_class_without_a_name_of_its_own_is_shown_and_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = run(capsys, "plugins", "tests.support.configs:Producer")

    assert status == 0
    assert out.startswith("producer: data producer\n")
    assert out.count("Publishes and reads the keys of its parameters.") == 1


def test_a_deprecated_name_is_shown_with_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "plugins", "tokenizer")

    assert '"tokenizer" is deprecated: use "token-producer", which takes the same parameters.' in out


def test_a_deprecated_parameter_is_shown_with_what_to_use(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "plugins", "no-hit-lru-scorer")

    assert "text; empty; deprecated: it has no effect, use prefixMatchInfoProducerName" in " ".join(out.split())


def test_lines_that_go_on_are_as_wide_as_the_first(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run(capsys, "plugins", "precise-prefix-cache-producer")

    lines = [line.strip() for line in out.splitlines()]
    assert '"xxh64" or "xxhash" or "xxhash_cbor"; default' in lines


def test_an_unknown_type_gets_a_suggestion_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "plugins", "queue-scorr") == (
        2,
        "",
        'epp plugins: unknown plugin type "queue-scorr"; did you mean "queue-scorer"?\n',
    )


def test_a_type_of_flow_control_is_told_apart_from_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    status, _, err = run(capsys, "plugins", "fcfs-ordering-policy")

    assert status == 2
    assert (
        err
        == 'epp plugins: "fcfs-ordering-policy" belongs to flow control (ordering policy): it is accepted, and left out\n'
    )


def test_json_says_the_same_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    _, everything, _ = run(capsys, "plugins", "--json")
    _, one, _ = run(capsys, "plugins", "--json", "random-picker")

    found = json.loads(one)
    assert found in json.loads(everything)
    assert found["parameters"] == [
        {"path": "maxNumOfEndpoints", "values": "a whole number", "required": False, "default": 1, "deprecated": ""}
    ]


def test_the_schema_is_printed_with_installed_types(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, module="afar")

    status, out, _ = run(capsys, "schema")

    document = {"apiVersion": "llm-d.ai/v1alpha1", "kind": "EndpointPickerConfig", "plugins": [{"type": "from-afar"}]}
    assert status == 0
    assert list(Draft202012Validator(json.loads(out)).iter_errors(document)) == []


def test_a_schema_that_lacks_a_type_says_so(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, module="no_such_module")

    status, out, err = run(capsys, "schema")

    assert status == 2
    assert json.loads(out)["title"] == "EndpointPickerConfig"
    assert "cannot import no_such_module:Far" in err
