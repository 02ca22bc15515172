"""The second singular value and what it says, on matrices of known singular values."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.matrix.condition import hints, second_singular_value
from sn_graph.spectral.matrix.exact import leading_singular_triplet


def with_values(values: NDArray[np.float64], columns: int) -> NDArray[np.float64]:
    """A matrix [values, columns] with these singular values and random vectors."""
    generator = np.random.default_rng(0)
    left, _ = np.linalg.qr(generator.standard_normal((len(values),) * 2))
    right, _ = np.linalg.qr(generator.standard_normal((columns, len(values))))
    product: NDArray[np.float64] = (left * values) @ right.T
    return product


@pytest.mark.parametrize("second", [0.3, 0.9, 0.985, 0.999, 1.0])
@pytest.mark.parametrize("fortran", [False, True])
@pytest.mark.parametrize("power", [-400, 0, 400])
def test_second_value(second: float, fortran: bool, power: int) -> None:
    values = np.concatenate([[1.0, second], 0.25 * np.linspace(0.0, 1.0, 58)])
    matrix = np.ldexp(with_values(values, 70), power)
    laid = np.asfortranarray(matrix) if fortran else matrix
    found = np.ldexp(second_singular_value(laid, leading_singular_triplet(laid)), -power)
    # From below, to the tolerance of the search.
    assert second * (1 - 1e-3) <= found <= second * (1 + 1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (9, 1)])
def test_a_side_of_one_has_no_second(shape: tuple[int, int]) -> None:
    matrix = np.ones(shape)
    assert second_singular_value(matrix, leading_singular_triplet(matrix)) == 0.0


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16, np.float32, np.float64])
@pytest.mark.parametrize(
    ("plain", "expected"),
    [
        (np.zeros((5, 4)), ("zero",)),
        (np.ones((5, 4)), ("rank 1",)),
        (np.ones((1, 4)), ("rank 1",)),
        (np.eye(5), ("clustered",)),
        (np.diag([128.0, 127.0, 1.0]), ("clustered",)),
        (np.diag([128.0, 126.0, 1.0]), ()),
        (np.diag([3.0, 2.0, 1.0]), ()),
    ],
)
def test_hints(plain: NDArray[np.float64], expected: tuple[str, ...], kind: Any) -> None:
    matrix = plain.astype(kind)
    assert hints(matrix, leading_singular_triplet(matrix)) == expected
