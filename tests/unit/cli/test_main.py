"""The command line as a whole: which command runs."""

from __future__ import annotations

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
