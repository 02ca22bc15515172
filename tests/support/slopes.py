"""Networks of slope-restricted neurons, and inequalities checked in rational arithmetic."""

from collections.abc import Sequence
from fractions import Fraction
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from sn_graph.spectral.lmi import SlopeProblem
from tests.support.places import ROOT

Real = NDArray[np.float64]
Exact = list[list[Fraction]]


def layered(weights: Sequence[Real], low: float = 0.0, high: float = 1.0) -> SlopeProblem:
    """W_L φ(… φ(W_1 x))."""
    inputs, count = weights[0].shape[1], sum(len(weight) for weight in weights[:-1])
    matrix = np.zeros((count, inputs + count))
    row, column = 0, 0
    for weight in weights[:-1]:
        matrix[row : row + len(weight), column : column + weight.shape[1]] = weight
        column, row = inputs + row, row + len(weight)
    output = np.zeros((len(weights[-1]), inputs + count))
    output[:, column : column + weights[-1].shape[1]] = weights[-1]
    return SlopeProblem(matrix, np.full(count, low), np.full(count, high), output)


def drawn(seed: int, inputs: int, neurons: int, outputs: int, density: float = 0.6) -> SlopeProblem:
    """A network of neurons that read the first input and some of what is before them, with slopes of all kinds."""
    generator = np.random.default_rng(seed)
    chosen = generator.random((neurons, inputs + neurons)) < density
    chosen[:, 0] = True
    weights = generator.standard_normal((neurons, inputs + neurons)) * chosen
    weights[:, inputs:] = np.tril(weights[:, inputs:], -1)
    kinds = np.array([(0.0, 1.0), (0.2, 1.0), (-0.3, 1.2), (-1.0, 1.0), (0.0, 0.25)])
    low, high = kinds[generator.integers(len(kinds), size=neurons)].T.reshape(2, neurons)
    output = generator.standard_normal((outputs, inputs + neurons)) * (
        generator.random((outputs, inputs + neurons)) < density
    )
    return SlopeProblem(weights, low, high, output)


def with_slopes(problem: SlopeProblem, slopes: Real) -> Real:
    """The matrix of the network whose neurons are z_i = s_i w_iᵀ[x; z]."""
    inputs = problem.weights.shape[1] - len(problem.low)
    values = np.zeros((problem.weights.shape[1], inputs))
    values[:inputs] = np.eye(inputs)
    for index, row in enumerate(problem.weights):  # forwards: a solver that pivots loses neurons of small scales
        values[inputs + index] = slopes[index] * (row @ values)
    return np.asarray(problem.output @ values)


def attained(problem: SlopeProblem) -> float:
    """The largest norm over all choices of the ends of the slopes: each is a network of the class."""
    ends = list(zip(problem.low, problem.high, strict=True))
    return max(float(np.linalg.norm(with_slopes(problem, np.array(slopes)), 2)) for slopes in product(*ends))


def exact(values: Real) -> Exact:
    return [[Fraction(float(value)) for value in row] for row in values]


def inequality(problem: SlopeProblem, bound: float, multipliers: Real) -> Exact:
    """P(bound², λ), exactly."""
    count, columns = problem.weights.shape
    inputs = columns - count
    matrix = [[Fraction(0)] * columns for _ in range(columns)]
    for i in range(inputs):
        matrix[i][i] += Fraction(bound) ** 2
    for index, weights in enumerate(exact(problem.weights)):
        p, q = ([-Fraction(float(end[index])) * weight for weight in weights] for end in (problem.low, problem.high))
        p[inputs + index] += 1
        q[inputs + index] += 1
        factor = Fraction(float(multipliers[index]))
        for i in range(columns):
            for j in range(columns):
                matrix[i][j] += factor * (p[i] * q[j] + q[i] * p[j])
    for row in exact(problem.output):
        for i in range(columns):
            for j in range(columns):
                matrix[i][j] -= row[i] * row[j]
    return matrix


def is_semidefinite(matrix: Exact) -> bool:
    """Elimination in rational arithmetic; a pivot of 0 needs a row of zeros."""
    rest, size = [list(row) for row in matrix], len(matrix)
    for k in range(size):
        if rest[k][k] < 0 or (rest[k][k] == 0 and any(rest[k][k + 1 :])):
            return False
        for i in range(k + 1, size):
            if rest[k][i] != 0:
                factor = rest[i][k] / rest[k][k]
                for j in range(i, size):
                    rest[i][j] -= factor * rest[k][j]
                    rest[j][i] = rest[i][j]
    return True


def published(name: str) -> list[Real]:
    """The layers of one of LipSDP's example networks."""
    path = Path(ROOT) / "../shared/certify" / f"{name}_weights.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not here")
    with np.load(path) as file:
        return [file[key] for key in sorted(file.files)]
