"""Least squares with weights that are not negative."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_predictor.nnls import nnls


def problem(seed: int, rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    chance = np.random.default_rng(seed)
    return chance.normal(size=(rows, columns)), chance.normal(size=rows)


def test_weights_that_made_the_data_are_found() -> None:
    matrix, _ = problem(0, 50, 4)
    true = np.array([0.0, 2.0, 0.5, 0.0])

    weights = nnls(matrix, matrix @ true)

    np.testing.assert_allclose(weights, true, atol=1e-9)


def test_a_column_that_could_only_subtract_gets_nothing() -> None:
    weights = nnls(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([3.0, 1.0]))

    np.testing.assert_allclose(weights, [2.0, 0.0])


def test_a_column_of_zeros_gets_nothing() -> None:
    weights = nnls(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([1.0, 2.0]))

    assert weights[1] == 0
    assert weights[0] == pytest.approx(1.0)


def test_two_equal_columns_share_what_one_would_get() -> None:
    weights = nnls(np.array([[1.0, 1.0], [2.0, 2.0]]), np.array([3.0, 6.0]))

    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(), 3.0)


@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 12), more=st.integers(0, 30))
def test_no_small_change_makes_it_better(seed: int, columns: int, more: int) -> None:
    """The conditions of Karush, Kuhn and Tucker: no slope for weights in use, none downhill for the others."""
    matrix, wanted = problem(seed, columns + more, columns)

    weights = nnls(matrix, wanted)

    gradient = matrix.T @ (wanted - matrix @ weights)
    assert (weights >= 0).all()
    assert (gradient <= 1e-6).all()
    assert (np.abs(gradient[weights > 0]) <= 1e-6).all()
