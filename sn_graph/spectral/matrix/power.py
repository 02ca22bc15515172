"""The power iteration of spectral normalization, as the frameworks run it.

    w = n(Mᵀs),  s' = n(M w),  σ = ‖M w‖,  n(x) = x / ‖x‖        (state on the rows; on the columns: M transposed)

Miyato et al., 2018, https://arxiv.org/abs/1802.05957, algorithm 1. PyTorch and Keras put a floor under ‖x‖ (1e-12;
1e-6 or 1e-7), which changes nothing until a weight is so small that the floor acts, and then makes σ wrong. Without a
floor, as here, σ is right at every scale that the weight's type can hold. Sums are float64 throughout, because reading
the matrix is what costs, not adding.
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sn_graph.spectral.linalg import SAFE_RANGE, BlockedMatrix

Side = Literal["rows", "cols"]


@dataclass(frozen=True)
class PowerResult:
    """What a power iteration ends with.

    Attributes:
        sigma: The estimate ‖M w‖, from below the spectral norm; 0 for a zero matrix, NaN for a non-finite one.
        state: [rows] or [columns] of M, of length 1; float64 for a float64 matrix, else float32.
    """

    sigma: float
    state: NDArray[np.float32] | NDArray[np.float64]


def seeded_state(seed: int, identity: str, length: int) -> NDArray[np.float64]:
    """Draw the state u₀ of one weight: standard normal, scaled to length 1, float64 [length].

    The stream depends on the seed and the weight's identity alone, so one weight's u₀ doesn't depend on the others.

    >>> seeded_state(0, "conv1.weight", 3).round(3).tolist()
    [-0.898, -0.252, -0.36]
    """
    generator = np.random.default_rng([seed, zlib.crc32(identity.encode("utf-8"))])
    state = generator.standard_normal(length)
    return state / _length(state)


def power_iteration(matrix: NDArray[Any], state: NDArray[Any], iterations: int, side: Side) -> PowerResult:
    """Run the power iteration from a state on one side of a matrix.

    The matrix is read k times with the state on the side along which it is contiguous (columns in C order), k + 1
    times with the state on the other side, and never copied if it lies in C or Fortran order.

    Args:
        matrix: M [rows, columns], float16, bfloat16, float32 or float64; may be a memory map.
        state: s [rows] or [columns], any length above 0.
        iterations: k, at least 1.
        side: Where the state lives.

    Returns:
        σ and the new state. A matrix that takes the state to 0, a zero or empty one above all, gives σ = 0 and the
        state as it came (the frameworks' formula would leave a dead, zero state). A matrix or state with NaN or
        infinity gives σ = NaN.
    """
    start = state.astype(np.float64).reshape(-1)
    if matrix.size == 0:
        return PowerResult(0.0, start.astype(matrix.dtype if matrix.dtype == np.float64 else np.float32))
    operand = BlockedMatrix.of(matrix)
    with np.errstate(all="ignore"):
        length = _length(start)
        sigma, final = _iterate(operand, start / length if length else start, iterations, side)
    return PowerResult(sigma, final if matrix.dtype == np.float64 else final.astype(np.float32))


def _iterate(
    operand: BlockedMatrix, start: NDArray[np.float64], iterations: int, side: Side
) -> tuple[float, NDArray[np.float64]]:
    along = (side == "cols") != operand.transposed
    run = _iterate_along if along else _iterate_across
    sigma, final = run(operand, start, iterations)
    low, high = SAFE_RANGE["d"]
    if low <= sigma <= high:
        return sigma, final
    # Zero, not finite, or a float64 matrix whose squares leave float64: rare enough to pay another pass for.
    largest = operand.largest()
    if not math.isfinite(largest):
        return math.nan, start
    if largest == 0.0:
        return 0.0, start
    scaled = operand.rescaled(largest)
    sigma, final = run(scaled, start, iterations)
    return scaled.restored(sigma), final


def _iterate_along(
    operand: BlockedMatrix, state: NDArray[np.float64], iterations: int
) -> tuple[float, NDArray[np.float64]]:
    """State on the storage's columns: one pass an iteration."""
    sigma = 0.0
    for _ in range(iterations):
        forward, back = operand.multiply_both(state)
        length = _length(back)
        if length == 0.0:
            return 0.0, state
        sigma, state = length / _length(forward), back / length
    return sigma, state


def _iterate_across(
    operand: BlockedMatrix, state: NDArray[np.float64], iterations: int
) -> tuple[float, NDArray[np.float64]]:
    """State on the storage's rows: the second product of an iteration shares its pass with the next one's first."""
    across = operand.multiply_transposed(state)
    for iteration in range(iterations):
        length = _length(across)
        if length == 0.0:
            return 0.0, state
        if iteration < iterations - 1:
            forward, across = operand.multiply_both(across / length)
        else:
            forward = operand.multiply(across / length)
    sigma = _length(forward)
    return sigma, forward / sigma


def _length(vector: NDArray[np.float64]) -> float:
    return math.sqrt(float(vector @ vector))


def operator_power_iteration(
    forward: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    adjoint: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    state: NDArray[Any],
    iterations: int,
) -> PowerResult:
    """Run k power iterations through a linear map A, the state u on the side of its output.

        v = n(Aᵀu),  u' = n(A v),  σ = ‖A v‖

    Args:
        forward: Returns A x for x of any shape.
        adjoint: Returns Aᵀ y for y of the shape of A's output.
        state: u, of the shape of A's output.
        iterations: k, at least 1.

    Returns:
        σ and the new u, float32. A map that takes the state to 0 gives σ = 0 and the state as it came.
    """
    u = np.asarray(state, np.float64)
    sigma = 0.0
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            across = adjoint(u)
            length = _length(across.reshape(-1))
            image = forward(across / length) if length else across
            sigma = _length(image.reshape(-1)) if length else 0.0
            if sigma == 0.0:
                break
            u = image / sigma
    return PowerResult(sigma, u.astype(np.float32))
