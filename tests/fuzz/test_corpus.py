"""Every target takes every input of its corpus, without atheris: what fuzzing has found stays found."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

CORPUS = Path(__file__).parent / "corpus"
TARGETS = ("frames", "hpack", "protobuf", "conversation", "kv_events")
MAX_BYTES = 300_000


@pytest.fixture(autouse=True)
def _handlers_are_put_back() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:]
    yield
    root.handlers[:] = before


@pytest.mark.parametrize("name", TARGETS)
def test_the_target_takes_its_whole_corpus(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    one_input = importlib.import_module(f"tests.fuzz.fuzz_{name}").target()

    for path in inputs:
        try:
            one_input(path.read_bytes())
        except BaseException as error:
            error.add_note(f"input: {path}")
            raise

    assert len(inputs) > 20


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) <= MAX_BYTES
