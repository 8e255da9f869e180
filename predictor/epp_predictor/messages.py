"""What the training process and its owner say to each other: one JSON object a line, and the layout of their shared
memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from epp_predictor import ring
from epp_predictor.samples import WIDTH
from epp_predictor.trainer import Outcome, TrainerSettings

OUTBOX_BYTES: Final = 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Layout:
    """One memory: the outbox (a length and the bytes of a snapshot), then the ring of samples."""

    capacity: int

    @property
    def size_bytes(self) -> int:
        return 8 + OUTBOX_BYTES + ring.size_bytes(self.capacity, WIDTH)

    def ring(self, memory: memoryview) -> ring.Ring:
        return ring.Ring(memory[8 + OUTBOX_BYTES :], self.capacity, WIDTH)


def put_snapshot(memory: memoryview, data: bytes) -> None:
    """Raises ValueError when it does not fit."""
    if len(data) > OUTBOX_BYTES:
        raise ValueError(f"expected a snapshot of at most {OUTBOX_BYTES} bytes, got {len(data)}")
    memory[8 : 8 + len(data)] = data
    np.frombuffer(memory, np.int64, 1)[0] = len(data)


def get_snapshot(memory: memoryview) -> bytes:
    """Empty when there is none."""
    length = min(int(np.frombuffer(memory, np.int64, 1)[0]), OUTBOX_BYTES)
    return bytes(memory[8 : 8 + length])


class Begin(msgspec.Struct, tag="begin", forbid_unknown_fields=True):
    """Owner to worker, first: what to do. `start`: the number of the first sample to read."""

    capacity: int
    start: int
    settings: TrainerSettings
    niceness: int
    tick_s: float


class Taken(msgspec.Struct, tag="taken"):
    """Owner to worker: the snapshot has been read, the outbox is free."""


class Fit(msgspec.Struct, tag="fit"):
    """Owner to worker: fit now."""


class Flush(msgspec.Struct, tag="flush"):
    """Owner to worker: forget all samples."""


class Ready(msgspec.Struct, tag="ready"):
    """Worker to owner: it runs."""


class Fitting(msgspec.Struct, tag="fitting"):
    """Worker to owner: a fit has begun. Without `Fitted` within the time limit the owner ends the worker."""

    reason: str


class Fitted(msgspec.Struct, tag="fitted"):
    """Worker to owner: a fit has ended. With `has_snapshot` the outbox holds what was published, until `Taken`."""

    reason: str
    outcomes: list[Outcome]
    has_snapshot: bool
    took_s: float
    samples: int
    refused: int


FromOwner = Begin | Taken | Fit | Flush
FromWorker = Ready | Fitting | Fitted

encoder: Final = msgspec.json.Encoder()
from_owner: Final = msgspec.json.Decoder(FromOwner)
from_worker: Final = msgspec.json.Decoder(FromWorker)


def line(message: FromOwner | FromWorker) -> bytes:
    return encoder.encode(message) + b"\n"
