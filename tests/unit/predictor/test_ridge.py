"""Bayesian ridge regression, and its bytes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from epp_predictor import BadSnapshot
from epp_predictor.features import COLUMN, new_features
from epp_predictor.servers.ridge import decode_ridge, encode_ridge, fit_ridge
from tests.support.latency_world import draw


def line(count: int, seed: int = 0, noise_ms: float = 5.0) -> tuple[np.ndarray, np.ndarray]:
    """10 ms, and 3 ms for each waiting request."""
    chance = np.random.default_rng(seed)
    features = new_features(count)
    features[:, COLUMN["num_request_waiting"]] = chance.integers(0, 100, count)
    features[:, COLUMN["num_request_running"]] = chance.integers(0, 100, count)
    return features, 10 + 3 * features[:, COLUMN["num_request_waiting"]] + chance.normal(0, noise_ms, count)


def test_the_line_that_made_the_data_is_found() -> None:
    coefficients = fit_ridge(*line(2000), 0.0).coefficients()

    assert coefficients["num_request_waiting"] == pytest.approx(3, abs=0.02)
    assert coefficients["num_request_running"] == pytest.approx(0, abs=0.02)
    assert coefficients["metric_age_s"] == 0


def test_the_deviation_is_that_of_the_noise() -> None:
    model = fit_ridge(*line(2000, noise_ms=7.0), 0.0)
    features, observed = line(4000, 1, noise_ms=7.0)

    mean, deviation = model.predict(features)

    assert deviation == pytest.approx(7.0, rel=0.1)
    assert (np.abs(observed - mean) < 1.96 * deviation).mean() == pytest.approx(0.95, abs=0.02)


def test_with_few_samples_it_is_less_sure() -> None:
    features, _ = line(50, 1)

    few, many = (fit_ridge(*line(count), 0.0).predict(features)[1].mean() for count in (12, 2000))

    assert few > many


def test_a_mean_is_never_negative() -> None:
    requests = draw(500, np.random.default_rng(0))
    model = fit_ridge(requests.features, requests.ttft_ms, 0.0)

    assert (model.predict(new_features(5))[0] >= 0).all()


@pytest.mark.parametrize("count", [1, 2])
def test_next_to_no_samples_make_a_finite_model(count: int) -> None:
    mean, deviation = fit_ridge(*line(count), 0.0).predict(new_features(3))

    assert np.isfinite([mean, deviation]).all()


def test_equal_latencies_make_a_finite_model() -> None:
    mean, _ = fit_ridge(line(50)[0], np.full(50, 12.0), 0.0).predict(new_features(3))

    assert mean == pytest.approx(12)


def test_no_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no samples"):
        fit_ridge(new_features(0), np.zeros(0), 0.0)


def test_bytes_come_back_as_they_were() -> None:
    model = fit_ridge(*line(200), 5.0)

    target, version, again = decode_ridge(encode_ridge("tpot", 4, model))

    assert (target, version, again.samples, again.fitted_at_s) == ("tpot", 4, 200, 5.0)
    np.testing.assert_array_equal(again.predict(line(5)[0])[0], model.predict(line(5)[0])[0])


def test_damaged_bytes_are_refused() -> None:
    data = encode_ridge("ttft", 1, fit_ridge(*line(200), 5.0))
    resealed = data[:8] + data[8:-32].replace(b'"scale":[', b'"scale":[-')
    for damaged in (b"", data[:-1], data[:50], data[:20] + b"x" + data[21:], b"EPPRIDG\x02" + data[8:]):
        with pytest.raises(BadSnapshot):
            decode_ridge(damaged)
    with pytest.raises(BadSnapshot, match="scale"):
        decode_ridge(resealed + hashlib.sha256(resealed).digest())
