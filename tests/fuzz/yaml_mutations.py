"""Broken configuration files by the hundred thousand: `python -m tests.fuzz.yaml_mutations [N [SEED]]`.

Real files, from config/ and from the documentation, are damaged byte by byte, line by line, and with pieces of one another.
Reading one gives a pipeline or a list of problems with places in the file, and nothing else. What gives something else is
printed, and the exit status is 1 then. The same SEED gives the same files.
"""

from __future__ import annotations

import logging
import random
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Final

from epp.config import InvalidConfig, Problem, Registry, build, load_text, resolved_of, to_yaml
from epp_plugins.registry import ALIASES, BUILTIN, REPLACED
from tests.support.configs import make_environment
from tests.support.pages import blocks

ROOT: Final = Path(__file__).resolve().parents[2]
REGISTRY: Final = Registry(BUILTIN, aliases=ALIASES, replaced=REPLACED)

LONGEST_S: Final = 20.0  # for one file, of milliseconds

_SIGNS: Final = (
    "\t",
    "\n",
    "\r",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "&a ",
    "*a",
    "<<: *a",
    "!!int ",
    "!!binary ",
    "!x ",
)
_MORE_SIGNS: Final = (
    "'",
    '"',
    "|\n",
    ">-\n",
    "? ",
    "#",
    "---\n",
    "...\n",
    "%YAML 9\n",
    "@",
    "`",
    "\\",
    "\x00",
    "\x85",
    "\u2028",
)
_VALUES: Final = (
    "null",
    "~",
    "-1",
    ".nan",
    "-.inf",
    "1e999",
    "0x1F",
    "0o7",
    "1_0",
    "true",
    "off",
    "9" * 400,
    "\ufeff",
    "\ud800",
)
_TYPES: Final = tuple(BUILTIN)
_PIECES: Final = (*_SIGNS, *_MORE_SIGNS, *_VALUES, *_TYPES)


def sources() -> list[str]:
    """Every configuration of config/ and of the pages in docs/."""
    files = [path.read_text() for path in sorted((ROOT / "config").glob("*.yaml"))]
    shown = [block.text for page in sorted((ROOT / "docs").glob("*.md")) for block in blocks(page, "yaml")]
    return [*files, *(text for text in shown if "EndpointPickerConfig" in text)]


def damaged(rng: random.Random, texts: list[str]) -> str:
    """One of `texts` after one to eight changes."""
    text = rng.choice(texts)
    for _ in range(rng.choice((1, 1, 2, 3, 5, 8))):
        text = rng.choice(_CHANGES)(rng, text, texts)
    return text


def _insert(rng: random.Random, text: str, texts: list[str]) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(_PIECES) + text[at:]


def _cut(rng: random.Random, text: str, texts: list[str]) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + text[at + rng.choice((1, 2, 5, 40)) :]


def _flip(rng: random.Random, text: str, texts: list[str]) -> str:
    if not text:
        return chr(rng.randint(0, 0x2FF))
    at = rng.randrange(len(text))
    return text[:at] + chr(ord(text[at]) ^ (1 << rng.randrange(7))) + text[at + 1 :]


def _replace_word(rng: random.Random, text: str, texts: list[str]) -> str:
    words = text.split()
    return text.replace(rng.choice(words), rng.choice(_PIECES), rng.choice((1, 1, -1))) if words else text


def _repeat_lines(rng: random.Random, text: str, texts: list[str]) -> str:
    lines = text.split("\n")
    at, count = rng.randrange(len(lines)), rng.choice((1, 3, 10))
    lines[at:at] = lines[at : at + count] * rng.choice((1, 1, 2, 30))
    return "\n".join(lines)[: 1 << 16]


def _drop_lines(rng: random.Random, text: str, texts: list[str]) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    del lines[at : at + rng.choice((1, 2, 6))]
    return "\n".join(lines)


def _indent(rng: random.Random, text: str, texts: list[str]) -> str:
    lines = text.split("\n")
    at = rng.randrange(len(lines))
    lines[at] = lines[at][1:] if rng.random() < 0.5 else " " * rng.randint(1, 4) + lines[at]
    return "\n".join(lines)


def _splice(rng: random.Random, text: str, texts: list[str]) -> str:
    ours, theirs = text.split("\n"), rng.choice(texts).split("\n")
    return "\n".join(ours[: rng.randint(0, len(ours))] + theirs[rng.randint(0, len(theirs)) :])


_CHANGES: Final[tuple[Callable[[random.Random, str, list[str]], str], ...]] = (
    *(_insert, _cut, _flip, _replace_word, _repeat_lines, _drop_lines, _indent, _splice),
)


def judge(text: str) -> str:
    """`used` or `refused`. AssertionError, or whatever else the service raises, is a finding."""
    try:
        pipeline = build(load_text(text, "f.yaml"), REGISTRY, make_environment())
    except InvalidConfig as invalid:
        _check_problems(text, invalid.problems)
        return "refused"
    _check_problems(text, resolved_of(pipeline).warnings)
    again = build(load_text(to_yaml(resolved_of(pipeline))), REGISTRY, make_environment())
    assert again.config_hash == pipeline.config_hash, "written out it means something else"
    return "used"


def _check_problems(text: str, problems: tuple[Problem, ...]) -> None:
    last = len(text.splitlines()) + 2
    for problem in problems:
        assert 0 <= problem.line <= last, f"line {problem.line} of {last}: {problem}"
        assert problem.message, "a problem without a message"
        str(problem)


def main(arguments: list[str]) -> int:
    """Returns the exit status."""
    logging.disable(logging.CRITICAL)  # plugins warn of deprecated types: that is no finding
    signal.signal(signal.SIGALRM, _too_long)
    count, seed = _numbers(arguments)
    rng, texts = random.Random(seed), sources()
    seen: Counter[str] = Counter()
    told_s = started_s = time.monotonic()
    for done in range(1, count + 1):
        text = damaged(rng, texts)
        signal.setitimer(signal.ITIMER_REAL, LONGEST_S)
        try:
            seen[judge(text)] += 1
        except Exception:
            seen["findings"] += 1
            print(f"\nfinding {seen['findings']}, file {done} of seed {seed}:\n{text!r}\n{traceback.format_exc()}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
        now_s = time.monotonic()
        if now_s - told_s > 1 or done == count:
            told_s = now_s
            rate = done / max(now_s - started_s, 1e-9)
            line = f"{done}/{count}: {seen['used']} used, {seen['refused']} refused, {seen['findings']} findings, {rate:.0f}/s"
            print(f"\r{line}", end="" if done < count else "\n", flush=True)
    return 1 if seen["findings"] else 0


def _too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"not done after {LONGEST_S:g} s")


def _numbers(arguments: list[str]) -> tuple[int, int]:
    """How many, and from which seed."""
    given = [int(argument) for argument in arguments]
    return (given[0] if given else 100_000), (given[1] if len(given) > 1 else 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
