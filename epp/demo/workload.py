"""The demo's load: conversations that grow turn by turn, and one-off prompts between them. Pure and the same every time."""

from __future__ import annotations

import random
from typing import Final

import msgspec

_TEXT: Final = """
the system shall answer each question in plain words and name the part of the manual that it comes from
when a pump is hot the valve stays open until the pressure falls below the mark on the third gauge
operators write the time and the reading into the log before they leave the room and lock the door
a report that is late is better than a report that is wrong and both are better than none at all
"""
_WORDS: Final = tuple(_TEXT.split())


class Turn(msgspec.Struct, frozen=True):
    """One request: a chat of `messages`, `at_s` seconds after the start at the earliest, and after its own earlier turns."""

    label: str
    conversation: int  # turns of one conversation follow each other; -1: a one-off prompt
    at_s: float
    messages: tuple[dict[str, str], ...]
    streamed: bool
    max_tokens: int


def text(rng: random.Random, words: int) -> str:
    return " ".join(rng.choice(_WORDS) for _ in range(words))


def make_workload(
    *, salt: str, conversations: int, turns: int, one_offs: int, gap_s: float, seed: int = 7
) -> list[Turn]:
    """Turns in the order of their start. `salt` opens every prompt, so that two loads share nothing in any cache."""
    rng = random.Random(seed)
    load: list[Turn] = []
    for number in range(conversations):
        system = {"role": "system", "content": f"{salt} {number} {text(rng, 420)}"}
        history: list[dict[str, str]] = [system]
        start = rng.uniform(0, gap_s * 2)
        for turn in range(turns):
            history.append({"role": "user", "content": text(rng, 40)})
            at = start + turn * gap_s * conversations / 2
            label = f"chat {number + 1}, turn {turn + 1}"
            load.append(Turn(label, number, at, tuple(history), rng.random() < 0.75, 12))
            history.append({"role": "assistant", "content": text(rng, 20)})
    span = max(t.at_s for t in load)
    for number in range(one_offs):
        messages = ({"role": "user", "content": f"{salt} once {number} {text(rng, 250)}"},)
        load.append(Turn(f"one-off {number + 1}", -1, rng.uniform(0, span), messages, rng.random() < 0.75, 12))
    return sorted(load, key=lambda t: t.at_s)
