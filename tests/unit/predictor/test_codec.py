"""Snapshots as bytes: they come back as they were, or not at all."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_predictor import BadSnapshot, Predictor, Snapshot, TargetSnapshot, load, save
from epp_predictor.calibration import Calibration
from epp_predictor.codec import MAGIC, decode, encode
from epp_predictor.fitting import Recipe, fit
from tests.support.latency_world import draw


def make_snapshot() -> Snapshot:
    requests = draw(600, np.random.default_rng(0))
    calibration = Calibration()
    for endpoint, value in zip(requests.endpoints, np.random.default_rng(1).normal(0, 0.2, 600), strict=True):
        calibration.observe(int(endpoint), value)
    model = fit(
        requests.features,
        requests.ttft_ms,
        requests.endpoints,
        np.zeros(600),
        target="ttft",
        recipe=Recipe(),
        now_s=7.0,
    )
    return Snapshot({"ttft": TargetSnapshot(model, calibration.state(), 3, 0.125)}, 9.0, {"a": 1, "b": 2})


SNAPSHOT = make_snapshot()
DATA = encode(SNAPSHOT)


def resealed(data: bytes) -> bytes:
    """With a checksum that fits, as somebody who means harm would write it."""
    return data + hashlib.sha256(data).digest()


def with_header(change: dict[str, object]) -> bytes:
    size = int.from_bytes(DATA[8:16], "little")
    header = msgspec.json.decode(DATA[16 : 16 + size])
    header.update(change)
    packed = msgspec.json.encode(header)
    return resealed(DATA[:8] + len(packed).to_bytes(8, "little") + packed + DATA[16 + size : -32])


def test_it_comes_back_as_it_was() -> None:
    again = decode(DATA)

    assert encode(again) == DATA
    assert (again.version, again.created_at_s, dict(again.endpoints)) == (3, 9.0, {"a": 1, "b": 2})
    before, after = Predictor(), Predictor()
    before.publish(SNAPSHOT)
    after.publish(again)
    asked = draw(20, np.random.default_rng(3))
    said = [p.predict(asked.features, asked.endpoints).ttft for p in (before, after)]
    assert said[0] is not None
    assert said[1] is not None
    np.testing.assert_array_equal(said[0].high_ms, said[1].high_ms)


def test_files_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "model.eppm"

    save(SNAPSHOT, path)

    assert encode(load(path)) == DATA
    assert [p.name for p in path.parent.iterdir()] == ["model.eppm"]
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none")


@given(st.integers(0, len(DATA) - 1), st.integers(1, 255))
def test_any_changed_byte_is_noticed(place: int, change: int) -> None:
    damaged = bytearray(DATA)
    damaged[place] ^= change

    with pytest.raises(BadSnapshot):
        decode(damaged)


@given(st.integers(0, len(DATA) - 1))
def test_any_shortened_file_is_noticed(length: int) -> None:
    with pytest.raises(BadSnapshot):
        decode(DATA[:length])


@given(st.binary(max_size=300))
def test_anything_else_is_refused(data: bytes) -> None:
    for candidate in (data, MAGIC + data, resealed(MAGIC + data), resealed(MAGIC + (16).to_bytes(8, "little") + data)):
        with pytest.raises(BadSnapshot):
            decode(candidate)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"features": ["x"]}, "other features"),
        ({"terms": []}, "other features"),
        ({"targets": {}}, "expected some of the targets"),
        ({"arrays": {}}, "is missing"),
        ({"surprise": 1}, "damaged: "),
        ({"created_at_s": "today"}, "damaged: "),
    ],
    ids=str,
)
def test_a_header_that_does_not_fit_says_why(change: dict[str, object], why: str) -> None:
    with pytest.raises(BadSnapshot, match=why):
        decode(with_header(change))


@pytest.mark.parametrize(
    ("field", "value"),
    [("offset", 10**9), ("offset", -8), ("shape", [10**12]), ("shape", [-1]), ("dtype", "O"), ("dtype", "<f4")],
    ids=str,
)
def test_arrays_that_lie_elsewhere_are_refused(field: str, value: object) -> None:
    header = msgspec.json.decode(DATA[16 : 16 + int.from_bytes(DATA[8:16], "little")])
    header["arrays"]["ttft.model.weights"][field] = value

    with pytest.raises(BadSnapshot):
        decode(with_header({"arrays": header["arrays"]}))


def test_an_older_format_says_what_to_do() -> None:
    with pytest.raises(BadSnapshot, match="expected version 1 of the format, got 9; train again"):
        decode(resealed(MAGIC[:7] + b"\x09" + DATA[8:-32]))


def test_it_is_no_pickle() -> None:
    assert b"numpy" not in DATA
    assert not DATA.startswith(b"\x80")
