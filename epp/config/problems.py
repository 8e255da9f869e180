"""What is wrong with a configuration: where, what, and what was expected. Collected, so that all of it is reported at once."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable
from typing import Final

import msgspec

MOST: Final = 200


class Severity(enum.Enum):
    """An error keeps the configuration from being used; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


class Place(msgspec.Struct, frozen=True):
    """Where something stands: its path from the root (`plugins[0].type`), and its line and column, from 1; 0 unknown."""

    path: str = ""
    line: int = 0
    column: int = 0


class Problem(msgspec.Struct, frozen=True):
    """One finding. Prints as `file:line:column: path: message`, a warning with the word before its path."""

    path: str
    message: str
    line: int
    column: int
    file: str
    severity: Severity = Severity.ERROR

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        word = "warning: " if self.severity is Severity.WARNING else ""
        path = f"{self.path}: " if self.path else ""
        return f"{where}: {word}{path}{self.message}"


class InvalidConfig(Exception):
    """The configuration cannot be used. `problems` holds the errors and also the warnings, in the order of the file."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(p) for p in self.problems))


class Problems:
    """Collects findings about one file, each once, at most MOST of a severity: the rest would only follow from them."""

    def __init__(self, file: str, found: Iterable[Problem] = ()) -> None:
        self.file = file
        self._found: dict[Problem, None] = {}
        self._counts = dict.fromkeys(Severity, 0)
        self.add(found)

    def error(self, place: Place, message: str) -> None:
        self._add(Problem(place.path, message, place.line, place.column, self.file, Severity.ERROR))

    def warning(self, place: Place, message: str) -> None:
        self._add(Problem(place.path, message, place.line, place.column, self.file, Severity.WARNING))

    def add(self, found: Iterable[Problem]) -> None:
        """Findings of another collection."""
        for problem in found:
            self._add(problem)

    @property
    def failed(self) -> bool:
        """An error is among the findings."""
        return self._counts[Severity.ERROR] > 0

    @property
    def full(self) -> bool:
        """No more errors are taken."""
        return self._counts[Severity.ERROR] >= MOST

    @property
    def found(self) -> tuple[Problem, ...]:
        """In the order of the file; those without a line come last."""
        return tuple(sorted(self._found, key=lambda p: (p.line == 0, p.line, p.column)))

    def _add(self, problem: Problem) -> None:
        if self._counts[problem.severity] < MOST and problem not in self._found:
            self._found[problem] = None
            self._counts[problem.severity] += 1


def did_you_mean(word: str, options: Iterable[str]) -> str:
    """`; did you mean "x"?` for the closest of `options`, whether small letters or capitals; nothing when none is close."""
    by_letters = {option.lower(): option for option in options}
    close = difflib.get_close_matches(word.lower(), by_letters, n=1, cutoff=0.6)
    return f'; did you mean "{by_letters[close[0]]}"?' if close else ""
