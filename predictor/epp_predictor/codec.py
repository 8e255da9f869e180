"""Snapshots as bytes and files, without pickle: a header in JSON, plain arrays, a checksum.

    8 bytes   magic, the last of them the format's version
    8 bytes   length of the header, little endian
    header    JSON: feature and term names, fields, and dtype, shape and offset of each array
    arrays    little endian, C order, each aligned to 8 bytes
    32 bytes  SHA-256 of everything before

A file is read only if all of it fits: a wrong magic, version, checksum, name, type, shape or value is a `BadSnapshot`.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from epp_predictor.calibration import CalibrationState
from epp_predictor.features import NAMES
from epp_predictor.forest import Trees
from epp_predictor.model import TargetModel
from epp_predictor.prior import TARGETS, TERMS
from epp_predictor.snapshot import Snapshot, TargetSnapshot

MAGIC: Final = b"EPPLATM\x01"
LARGEST_BYTES: Final = 64 * 1024 * 1024
_DIGEST_BYTES: Final = 32
_ALIGN: Final = 8

_TREES: Final = {"tree": "<i4", "feature": "<i4", "threshold": "<f4", "survivors": "<u4", "leaves": "<f4"}
_MODEL: Final = {"weights": "<f8", "low": "<f8", "high": "<f8"}
_CALIBRATION: Final = {
    "fleet": "<f8",
    "scores": "<f8",
    "endpoints": "<i8",
    "offsets": "<f8",
    "own_counts": "<i8",
    "own_scores": "<f8",
}


class BadSnapshot(ValueError):
    """These bytes are no snapshot that can be used; the text says why."""


class _Array(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: list[int]
    offset: int


class _Target(msgspec.Struct, forbid_unknown_fields=True):
    samples: int
    fitted_at_s: float
    version: int
    error: float
    has_trees: bool


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    features: list[str]
    terms: list[str]
    created_at_s: float
    endpoints: dict[str, int]
    targets: dict[str, _Target]
    arrays: dict[str, _Array]


def encode(snapshot: Snapshot) -> bytes:
    arrays: dict[str, NDArray[Any]] = {}
    targets = {}
    for name, target in snapshot.targets.items():
        model = target.model
        _note(arrays, f"{name}.model", model, _MODEL)
        if model.trees is not None:
            _note(arrays, f"{name}.trees", model.trees, _TREES)
        _note(arrays, f"{name}.calibration", target.calibration, _CALIBRATION)
        has_trees = model.trees is not None
        targets[name] = _Target(model.samples, model.fitted_at_s, target.version, target.error, has_trees)
    placed, offset = {}, 0
    for key, array in arrays.items():
        placed[key] = _Array(array.dtype.str, list(array.shape), offset)
        offset += array.nbytes + -array.nbytes % _ALIGN
    header = _Header(list(NAMES), list(TERMS), snapshot.created_at_s, dict(snapshot.endpoints), targets, placed)
    packed = msgspec.json.encode(header)
    packed += b" " * (-len(packed) % _ALIGN)
    parts = [MAGIC, len(packed).to_bytes(8, "little"), packed]
    for array in arrays.values():
        parts += [array.tobytes(), b"\0" * (-array.nbytes % _ALIGN)]
    body = b"".join(parts)
    return body + hashlib.sha256(body).digest()


def _note(arrays: dict[str, NDArray[Any]], prefix: str, owner: object, fields: Mapping[str, str]) -> None:
    for field, dtype in fields.items():
        arrays[f"{prefix}.{field}"] = np.ascontiguousarray(getattr(owner, field), dtype=dtype)


def decode(data: bytes | bytearray | memoryview) -> Snapshot:
    """Raises BadSnapshot. The arrays are views of a copy of `data`."""
    body = bytes(data)
    if len(body) < len(MAGIC) + 8 + _DIGEST_BYTES or body[:7] != MAGIC[:7]:
        raise BadSnapshot("not a latency model: it does not begin with EPPLATM")
    if body[7] != MAGIC[7]:
        raise BadSnapshot(f"expected version {MAGIC[7]} of the format, got {body[7]}; train again with this version")
    if hashlib.sha256(memoryview(body)[:-_DIGEST_BYTES]).digest() != body[-_DIGEST_BYTES:]:
        raise BadSnapshot("the checksum does not match: the file is cut short or damaged")
    size = int.from_bytes(body[8:16], "little")
    end = len(body) - _DIGEST_BYTES
    if size > end - 16:
        raise BadSnapshot("the header is longer than the file")
    try:
        header = msgspec.json.decode(body[16 : 16 + size], type=_Header)
        return _decoded(header, memoryview(body)[16 + size : end])
    except (msgspec.DecodeError, ValueError, KeyError, TypeError) as error:
        raise error if isinstance(error, BadSnapshot) else BadSnapshot(f"damaged: {error}") from error


def _decoded(header: _Header, data: memoryview) -> Snapshot:
    if header.features != list(NAMES) or header.terms != list(TERMS):
        raise BadSnapshot("it was trained with other features; train again with this version")
    if not header.targets or not set(header.targets) <= set(TARGETS):
        raise BadSnapshot(f"expected some of the targets {TARGETS}, got {sorted(header.targets)}")

    def array(key: str, dtype: str) -> NDArray[Any]:
        placed = header.arrays.get(key)
        if placed is None or placed.dtype != dtype or min(placed.shape, default=0) < 0 or placed.offset < 0:
            raise BadSnapshot(f"the array {key} is missing or of another type")
        count = 1
        for length in placed.shape:
            count *= length
        if placed.offset + count * np.dtype(dtype).itemsize > len(data):
            raise BadSnapshot(f"the array {key} ends beyond the file")
        return np.frombuffer(data, dtype, count, placed.offset).reshape(placed.shape)

    def fields(prefix: str, wanted: Mapping[str, str]) -> dict[str, NDArray[Any]]:
        return {field: array(f"{prefix}.{field}", dtype) for field, dtype in wanted.items()}

    targets = {}
    for name, target in header.targets.items():
        trees = Trees(**fields(f"{name}.trees", _TREES)) if target.has_trees else None
        model = TargetModel(
            **fields(f"{name}.model", _MODEL), trees=trees, samples=target.samples, fitted_at_s=target.fitted_at_s
        )
        calibration = CalibrationState(**fields(f"{name}.calibration", _CALIBRATION))
        calibration.check()
        targets[name] = TargetSnapshot(model, calibration, target.version, target.error)
    return Snapshot(targets, header.created_at_s, header.endpoints)


# --- files ---------------------------------------------------------------------------------------------------------------


def save(snapshot: Snapshot, path: Path) -> None:
    """Whole or not at all: written beside its place, then moved there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(encode(snapshot))
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        Path(beside).unlink(missing_ok=True)
        raise


def load(path: Path) -> Snapshot:
    """Raises FileNotFoundError, OSError, or BadSnapshot."""
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise BadSnapshot(f"expected at most {LARGEST_BYTES} bytes, got {size}")
    return decode(path.read_bytes())
