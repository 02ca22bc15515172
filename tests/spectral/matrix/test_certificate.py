"""What is stored after folding never passes the bound: judged on the elements as the model's file gets them."""

import math
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import svdvals

from sn_graph.model import scale_elements
from sn_graph.model.payload import Payload
from sn_graph.spectral.matrix.bound import bracket
from sn_graph.spectral.matrix.certificate import ROUNDING, Store, certified_divisor

TYPES = {
    np.float16: onnx.TensorProto.FLOAT16,
    ml_dtypes.bfloat16: onnx.TensorProto.BFLOAT16,
    np.float32: onnx.TensorProto.FLOAT,
    np.float64: onnx.TensorProto.DOUBLE,
}
# u of each type: as far as the rounding of the elements may carry the norm, times the root of the stable rank.
UNITS = {np.float16: 2.0**-11, ml_dtypes.bfloat16: 2.0**-8, np.float32: 2.0**-23, np.float64: 1e-8}


def as_written(matrix: NDArray[Any], factor: float) -> NDArray[Any]:
    """The matrix as the model's own writer scales it."""
    payload = Payload.of_array(matrix, TYPES[matrix.dtype.type]).scaled(factor)
    return np.asarray(payload.elements(matrix.shape))


def store_of(matrix: NDArray[Any]) -> Store | None:
    """What a divisor needs to know of how the matrix is stored: nothing where rounding is bounded beforehand."""
    return None if matrix.dtype in ROUNDING else lambda factor: scale_elements(matrix, factor)


@settings(max_examples=250, deadline=None)
@given(
    st.integers(1, 25),
    st.integers(1, 25),
    st.sampled_from(list(TYPES)),
    st.floats(0.05, 20.0),
    st.integers(-3, 3),
    st.integers(0, 10**6),
)
def test_never_passes_the_bound(rows: int, columns: int, kind: Any, bound: float, scale: int, seed: int) -> None:
    matrix = (np.random.default_rng(seed).standard_normal((rows, columns)) * 10.0**scale).astype(kind)
    matrix[0, 0] = matrix[0, 0] or 1
    divisor = certified_divisor(matrix, bound, store=store_of(matrix))
    written = as_written(matrix, bound / divisor)
    np.testing.assert_array_equal(written, scale_elements(matrix, bound / divisor))
    norm = float(svdvals(written.astype(np.float64))[0])
    # LAPACK's own error: a few dozen roundings.
    assert norm <= bound * (1 + 1e-14)
    room = UNITS[kind] * (2 + 2 * math.sqrt(min(rows, columns))) + 1e-8
    assert norm >= bound * (1 - room)


@pytest.mark.parametrize("kind", list(TYPES))
@pytest.mark.parametrize("shape", [(300, 260), (64, 1152)])
def test_larger(kind: Any, shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape).astype(kind)
    found = bracket(matrix)
    divisor = certified_divisor(matrix, 1.0, found, store_of(matrix))
    written = as_written(matrix, 1.0 / divisor)
    assert svdvals(written.astype(np.float64))[0] <= 1 + 1e-13
    # The roundings of this many elements nearly cancel in the norm.
    assert divisor <= found.lower * (1 + {2: 1e-3, 4: 2e-6, 8: 1e-8 * 1.01}[matrix.dtype.itemsize])


def test_a_way_of_its_own_to_be_stored() -> None:
    """A quantized weight: its scale is divided, in float16, and what comes out is proven."""
    codes = np.random.default_rng(1).integers(-127, 128, (30, 40)).astype(np.float32)
    scale = np.float16(0.0123)

    def store(factor: float) -> NDArray[Any]:
        return codes * np.float32(np.float16(np.float32(scale) * np.float32(factor)))

    divisor = certified_divisor(codes * np.float32(scale), 0.9, store=store)
    norm = svdvals(store(0.9 / divisor).astype(np.float64))[0]
    # One float16 rounding of the scale, 2^-11 either way.
    assert 0.9 * (1 - 2.0**-9) <= norm <= 0.9 * (1 + 1e-14)


@pytest.mark.parametrize("kind", list(TYPES))
def test_zero_and_non_finite(kind: Any) -> None:
    for value, expected in ((0.0, 0.0), (math.nan, math.nan), (math.inf, math.nan)):
        matrix = np.full((3, 2), value, kind)
        assert certified_divisor(matrix, 1.0, store=store_of(matrix)) == pytest.approx(expected, abs=0.0, nan_ok=True)


def test_a_bound_that_the_type_does_not_hold() -> None:
    assert certified_divisor(np.ones((3, 3), np.float32), 1e-46) == math.inf

    def store(factor: float) -> NDArray[Any]:
        with np.errstate(over="ignore"):
            return np.full((3, 3), factor).astype(np.float16)

    assert certified_divisor(np.ones((3, 3), np.float16), 1e30, store=store) == math.inf


@pytest.mark.parametrize("kind", [np.float16, ml_dtypes.bfloat16])
def test_a_type_of_wide_rounding_needs_to_be_stored(kind: Any) -> None:
    with pytest.raises(ValueError, match="16 matrix has no divisor without `store`"):
        certified_divisor(np.ones((3, 3), kind), 1.0)
