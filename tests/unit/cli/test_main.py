"""The command line as a whole: which command runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from epp.cli import main


def test_flags_alone_are_those_of_run(capsys: pytest.CaptureFixture[str]) -> None:
    """A container of the Go EPP is started with flags and no command."""
    status = main(["--pool-name", "llama", "--no-such-flag"])

    assert status == 2
    assert "epp run: unknown flag: --no-such-flag" in capsys.readouterr().err


def test_help_alone_lists_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "Usage: epp COMMAND" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["check", "envoy-config"])
def test_the_environment_enables_the_latency_predictor_for_every_command_that_reads_a_configuration(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what is checked is not what runs."""
    monkeypatch.setenv("ENABLE_LATENCY_PREDICTOR", "true")
    assert main([command]) == 0
    by_environment = capsys.readouterr().out
    assert main([command, "--enable-latency-predictor"]) == 0
    by_flag = capsys.readouterr().out
    monkeypatch.setenv("ENABLE_LATENCY_PREDICTOR", "perhaps")
    refused = main([command])

    assert "predicted-latency-producer" in by_environment
    assert _uncommented(by_environment) == _uncommented(by_flag)
    assert refused == 2
    assert "environment variable ENABLE_LATENCY_PREDICTOR: 'perhaps'" in capsys.readouterr().err


def test_problems_are_listed_up_to_a_number_and_said_to_be_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "epp.yaml"
    path.write_text("plugins:\n" + "- {}\n" * 300)

    assert main(["check", str(path)]) == 2

    assert capsys.readouterr().err.splitlines()[-1] == "at least 200 errors"


def _uncommented(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]
