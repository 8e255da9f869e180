"""Command lines as Go's pflag reads them, because manifests and charts are written for it.

`--name value`, `--name=value`, `-v 3`, `-v=3`, `-v3`; a boolean takes a value only after `=`; lists may be repeated and
comma-separated; of other flags given twice the last counts; `--` ends the flags.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from epp.api import parse_duration_s
from epp.cli.quantity import format_bytes, format_duration, parse_bool, parse_bytes

NO_EFFECT: Final = "accepted, no effect"


class UsageError(Exception):
    """The command line is wrong; the text says where and what to write instead. Exit status 2."""


class HelpRequested(Exception):
    """`--help` or `-h` is among the arguments."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `parse` reads one value (of a list: one item) and raises ValueError; `unit` names the value in the help."""

    name: str
    default: Any
    help: str
    parse: Callable[[str], Any]
    unit: str
    note: str = ""
    short: str = ""
    boolean: bool = False
    many: bool = False
    field: str = ""
    """The option it sets; by default the name with underscores."""

    @property
    def target(self) -> str:
        return self.field or self.name.replace("-", "_")

    def shown_default(self) -> str:
        """For the help; empty where the default says nothing."""
        value = self.default
        if self.boolean:
            return "true" if value else "false"
        if value is None or value == "" or value == ():
            return ""
        if self.parse is parse_duration_s:
            return format_duration(value)
        return format_bytes(value) if self.parse is parse_bytes else str(value)


@dataclass(frozen=True, slots=True)
class Group:
    """Flags under one heading of the help."""

    title: str
    flags: tuple[Flag, ...]


@dataclass(slots=True)
class Parsed:
    """Values by option name, the names of the flags that were given, and arguments that are no flags."""

    values: dict[str, Any]
    given: set[str] = field(default_factory=set)
    stray: list[str] = field(default_factory=list)


def text(name: str, default: str, help: str, *, unit: str = "TEXT", note: str = "", field: str = "") -> Flag:
    return Flag(name, default, help, str, unit, note, field=field)


def switch(name: str, default: bool, help: str, *, note: str = "") -> Flag:
    return Flag(name, default, help, parse_bool, "", note, boolean=True)


def number(name: str, default: int, help: str, *, note: str = "", short: str = "", field: str = "") -> Flag:
    return Flag(name, default, help, integer, "N", note, short, field=field)


def duration(name: str, default_s: float, help: str, *, note: str = "") -> Flag:
    return Flag(name, default_s, help, parse_duration_s, "DURATION", note, field=f"{name.replace('-', '_')}_s")


def size(name: str, default_bytes: int | None, help: str, *, note: str = "") -> Flag:
    return Flag(name, default_bytes, help, parse_bytes, "SIZE", note, field=f"{name.replace('-', '_')}_bytes")


def items(name: str, help: str, parse: Callable[[str], Any], *, unit: str, note: str = "", field: str = "") -> Flag:
    """A list: may be repeated, and each value may hold several, separated by commas."""
    return Flag(name, (), help, parse, unit, note, many=True, field=field)


def choice(name: str, default: str, help: str, choices: Sequence[str], *, note: str = "") -> Flag:
    def parse(value: str) -> str:
        if value not in choices:
            raise ValueError(f"{value!r} is not one of {', '.join(choices)}")
        return value

    return Flag(name, default, help, parse, "|".join(choices), note)


def parse_flags(argv: Sequence[str], groups: Iterable[Group]) -> Parsed:
    """Read `argv` (without the program's name). Raises UsageError and HelpRequested."""
    flags = [flag for group in groups for flag in group.flags]
    by_name = {flag.name: flag for flag in flags}
    by_letter = {flag.short: flag for flag in flags if flag.short}
    parsed = Parsed({flag.target: flag.default for flag in flags})
    rest = list(reversed(argv))
    while rest:
        argument = rest.pop()
        if argument == "--":
            parsed.stray.extend(reversed(rest))
            break
        if argument.startswith("--"):
            name, equals, value = argument[2:].partition("=")
            flag = by_name.get(name)
        elif argument.startswith("-") and len(argument) > 1:
            name, equals, value = argument[1:2], argument[2:3], argument[2:].removeprefix("=")
            flag = by_letter.get(name)
        else:
            parsed.stray.append(argument)
            continue
        if flag is None:
            if argument in ("--help", "-h"):
                raise HelpRequested
            raise UsageError(_unknown(argument, by_name))
        if not equals:
            if flag.boolean:
                value = "true"
            elif not rest:
                raise UsageError(f"flag needs a value: --{flag.name} {flag.unit}")
            else:
                value = rest.pop()
        _store(parsed, flag, value)
    return parsed


def described(groups: Iterable[Group], shown: Mapping[str, str] | None = None) -> Iterator[str]:
    """Lines of a help: all flags by group, with defaults and units. `shown`: defaults by flag name that are said otherwise."""
    for group in groups:
        yield from ("", f"{group.title}:")
        for flag in group.flags:
            name = f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"
            yield f"  {name}{' ' + flag.unit if flag.unit else '[=false]' if flag.default else ''}"
            default = (shown or {}).get(flag.name) or flag.shown_default()
            facts = (flag.help, f"(default {default})" if default else "", f"[{flag.note}]" if flag.note else "")
            yield from textwrap.wrap(
                " ".join(f for f in facts if f), 100, initial_indent=" " * 8, subsequent_indent=" " * 8
            )


def _store(parsed: Parsed, flag: Flag, value: str) -> None:
    # Charts pass values such as ="sglang:num_queue_reqs" with the quotes in them.
    if len(value) > 1 and value[0] == value[-1] == '"':
        value = value[1:-1]
    try:
        if flag.many:
            before = parsed.values[flag.target] if flag.name in parsed.given else ()
            read = (*before, *(flag.parse(v.strip()) for v in value.split(",") if v.strip()))
        else:
            read = flag.parse(value)
    except ValueError as error:
        raise UsageError(f"--{flag.name}: {error}") from None
    parsed.values[flag.target] = read
    parsed.given.add(flag.name)


def _unknown(argument: str, known: Mapping[str, Flag]) -> str:
    bare = argument.lstrip("-").partition("=")[0]
    close = [bare] if bare in known else difflib.get_close_matches(bare, known, n=1, cutoff=0.6)
    hint = f"; did you mean --{close[0]}?" if close else "; --help lists all flags"
    return f"unknown flag: {argument.partition('=')[0]}{hint}"


def integer(value: str) -> int:
    """A whole number, decimal or with 0x, 0o or 0b before it. Raises ValueError."""
    try:
        return int(value, 0)
    except ValueError:
        raise ValueError(f"{value!r} is not a number") from None
