"""The demo's load: conversations about long documents, one-off prompts between them. Pure, and the same every time."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Final

from epp.demo.vocabulary import WORDS

_SEED: Final = 7
_STREAMED_SHARE: Final = 0.75
_ANSWER_TOKENS: Final = 12
# Conversations begin in this first part of the load's time; each one's turns then fill what is left of it.
_BEGIN_WITHIN: Final = 0.3


@dataclass(frozen=True, slots=True)
class Size:
    """How much load. The prompts' sizes are in words of the vocabulary, which are one to two tokens each."""

    conversations: int
    turns: int
    one_offs: int
    span_s: float
    document_words: int = 900
    question_words: int = 40
    one_off_words: int = 500

    @property
    def requests(self) -> int:
        return self.conversations * self.turns + self.one_offs


SIZES: Final = {
    "small": Size(conversations=6, turns=4, one_offs=4, span_s=3.5),
    "normal": Size(conversations=12, turns=6, one_offs=18, span_s=17.0),
}


@dataclass(frozen=True, slots=True)
class Turn:
    """One request: what the user says, `at_s` seconds after the start at the earliest and after the turn before."""

    label: str
    at_s: float
    text: str
    streamed: bool
    max_tokens: int = _ANSWER_TOKENS


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns that follow each other; each one's prompt holds everything said before. A one-off prompt has one turn."""

    document: str
    """What the conversation is about, as its system message; empty for a one-off prompt."""
    turns: tuple[Turn, ...]


def make_load(size: Size, *, salt: str) -> tuple[Conversation, ...]:
    """`salt` opens every prompt, so loads with different salts share nothing in any cache, and differ in nothing else."""
    rng = random.Random(_SEED)
    load = [_conversation(rng, size, number, salt) for number in range(1, size.conversations + 1)]
    load += [_one_off(rng, size, number, salt) for number in range(1, size.one_offs + 1)]
    return tuple(load)


def _conversation(rng: random.Random, size: Size, number: int, salt: str) -> Conversation:
    begin_s = rng.uniform(0, size.span_s * _BEGIN_WITHIN)
    pause_s = (size.span_s - begin_s) / size.turns
    turns = tuple(
        Turn(
            f"chat {number}, turn {turn + 1}",
            at_s=begin_s + (turn + rng.uniform(0, 0.5) * (turn > 0)) * pause_s,
            text=_prose(rng, size.question_words),
            streamed=rng.random() < _STREAMED_SHARE,
        )
        for turn in range(size.turns)
    )
    return Conversation(f"{salt} document {number}: {_prose(rng, size.document_words)}", turns)


def _one_off(rng: random.Random, size: Size, number: int, salt: str) -> Conversation:
    turn = Turn(
        f"one-off {number}",
        at_s=rng.uniform(0, size.span_s),
        text=f"{salt} question {number}: {_prose(rng, size.one_off_words)}",
        streamed=rng.random() < _STREAMED_SHARE,
    )
    return Conversation("", (turn,))


def _prose(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))
