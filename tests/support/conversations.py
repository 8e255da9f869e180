"""Recorded conversations: what a real Envoy sent, message by message, as files that tests replay.

A file holds protobuf text of one ProcessingRequest after another, separated by lines of dashes, and ends with how the stream
ended (`# half-closed` or `# aborted`). `record.py` beside this module makes them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from google.protobuf import text_format

from epp.extproc.gen import ext_proc_pb2 as pb

FOLDER = Path(__file__).parent.parent / "fixtures" / "conversations"
_SEPARATOR = "-" * 40


class Conversation(msgspec.Struct):
    """One stream's messages in order, and whether Envoy ended it by itself (else it was reset)."""

    name: str
    messages: list[pb.ProcessingRequest]
    half_closed: bool

    @property
    def chunks(self) -> list[bytes]:
        """The messages as they came over the wire."""
        return [m.SerializeToString(deterministic=True) for m in self.messages]


def write(path: Path, messages: Sequence[bytes], *, half_closed: bool) -> None:
    """Save one conversation. What differs from run to run (ports, ids) is made the same."""
    parts = [text_format.MessageToString(pb.ProcessingRequest.FromString(m)) for m in messages]
    text = f"{_SEPARATOR}\n".join(parts) + f"# {'half-closed' if half_closed else 'aborted'}\n"
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", text)
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "recorded-request-id", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def read(path: Path) -> Conversation:
    text = path.read_text()
    messages = [text_format.Parse(part, pb.ProcessingRequest()) for part in text.split(f"{_SEPARATOR}\n")]
    name = str(path.relative_to(FOLDER).with_suffix(""))
    return Conversation(name, messages, half_closed="# half-closed" in text)


def all_conversations() -> list[Conversation]:
    return [read(path) for path in sorted(FOLDER.rglob("*.txtpb"))]
