"""Shows what is wrong with a configuration."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from epp.config import Problem, Severity
from epp.config.problems import MOST


def print_problems(problems: Iterable[Problem]) -> None:
    """One line each on standard error, errors after warnings, and how many there are."""
    found = list(problems)
    for problem in sorted(found, key=lambda p: p.severity is Severity.ERROR):
        print(problem, file=sys.stderr)
    errors = sum(p.severity is Severity.ERROR for p in found)
    if errors:
        count = f"{errors} error{'s' if errors > 1 else ''}"
        print(f"at least {count}" if errors == MOST else count, file=sys.stderr)
