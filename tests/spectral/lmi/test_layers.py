"""Bounds of chains, against the whole inequality, ECLipsE-Fast and rational arithmetic."""

import math
import time
from collections.abc import Sequence
from itertools import pairwise

import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.spectral.lmi import LmiBound, chain_bound, lipschitz_bound, proven_bound
from sn_graph.spectral.lmi import layers as module
from sn_graph.spectral.lmi.blocks import proven_chain
from sn_graph.spectral.lmi.chain import living, prepared
from tests.support.slopes import Real, attained, inequality, is_semidefinite, layered


def drawn_layers(seed: int, sizes: Sequence[int]) -> list[Real]:
    generator = np.random.default_rng(seed)
    return [generator.standard_normal((rows, columns)) for columns, rows in pairwise(sizes)]


def eclipse(depth: int, width: int) -> list[Real]:
    """One of ECLipsE's networks, by the rule of YuezhuXu/ECLipsE, ECLipsE_paper/generate_random_weights.py."""
    random = np.random.RandomState(width * 7 + depth * 13)
    sizes, weights = [4, *[width] * (depth - 1), 1], []
    for columns, rows in pairwise(sizes):
        norm = random.uniform(0.4, 1.8)
        weight = random.randn(rows, columns)
        weights.append(norm * weight / np.linalg.norm(weight, 2))
    return weights


def fast(weights: Sequence[Real]) -> float:
    """ECLipsE-Fast as its paper has it: X_{i+1} = λI − λ²/4 W X⁻¹Wᵀ, λ = 2/λ_max(W X⁻¹Wᵀ)."""
    form = np.eye(weights[0].shape[1])
    for weight in weights[:-1]:
        inner = weight @ np.linalg.inv(form) @ weight.T
        scale = 2.0 / np.linalg.eigvalsh(inner)[-1]
        form = scale * np.eye(len(weight)) - scale**2 / 4.0 * inner
    return float(np.sqrt(np.linalg.eigvalsh(weights[-1] @ np.linalg.solve(form, weights[-1].T))[-1]))


def by_blocks(weights: Sequence[Real], low: float = 0.0, high: float = 1.0, error: float = 0.0) -> LmiBound:
    """The way of long chains, for a short one."""
    sizes = [len(weight) for weight in weights[:-1]]
    errors = [np.full(weight.shape, error) if error else None for weight in weights]
    lows, highs = ([np.full(size, end) for size in sizes] for end in (low, high))
    return module._by_blocks(weights, lows, highs, errors, None, 8)


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(1, 5), min_size=3, max_size=5),
    st.sampled_from([(0.0, 1.0), (0.2, 1.0), (-0.2, 1.1), (-1.0, 1.0)]),
)
def test_blocks_hold_in_rational_arithmetic(seed: int, sizes: list[int], slopes: tuple[float, float]) -> None:
    weights = drawn_layers(seed, sizes)
    bound = by_blocks(weights, *slopes)
    problem = layered(weights, *slopes)
    assert bound.value < math.inf
    assert (bound.multipliers >= 0.0).all()
    assert is_semidefinite(inequality(problem, bound.value, bound.multipliers))
    if len(problem.low) <= 10:
        assert attained(problem) <= bound.value


@pytest.mark.parametrize("slopes", [(0.0, 1.0), (0.1, 1.0), (-0.5, 1.0)])
@pytest.mark.parametrize("sizes", [(3, 8, 9, 7, 8, 2), (40, 6, 6, 6), (2, 12, 3, 12, 12, 3)])
def test_blocks_are_about_as_good_as_the_whole(sizes: tuple[int, ...], slopes: tuple[float, float]) -> None:
    weights = drawn_layers(0, sizes)
    whole = lipschitz_bound(layered(weights, *slopes)).value
    assert whole * (1 - 1e-6) <= by_blocks(weights, *slopes).value <= whole * 1.01


def test_windows_of_one_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no window holds two layers the answer lies between the whole's and the closed form's."""
    monkeypatch.setattr("sn_graph.spectral.lmi.windows.FEW", 5)
    monkeypatch.setattr("sn_graph.spectral.lmi.windows.NEURONS", 5)
    weights = eclipse(8, 12)
    whole = lipschitz_bound(layered(weights)).value
    value = by_blocks(weights).value
    assert whole * (1 - 1e-6) <= value <= 0.5 * fast(weights)
    assert value < 2.0 * whole


@pytest.mark.parametrize(("depth", "width", "limit"), [(2, 80, 0.3718), (5, 20, 0.1453)])
def test_published_networks(depth: int, width: int, limit: float) -> None:
    weights = eclipse(depth, width)
    norms = math.prod(float(np.linalg.norm(weight, 2)) for weight in weights)
    zeros, ones = [0.0] * (depth - 1), [1.0] * (depth - 1)
    assert chain_bound(weights, zeros, ones).value <= limit * norms


@pytest.mark.parametrize(("depth", "width"), [(3, 8), (5, 20), (10, 60), (30, 20), (100, 20)])
def test_never_above_the_closed_form(depth: int, width: int) -> None:
    """Even where no time is left; the proof's rounding is the 1e-6."""
    weights = eclipse(depth, width)
    zeros, ones = [0.0] * (depth - 1), [1.0] * (depth - 1)
    bound = chain_bound(weights, zeros, ones, deadline=time.monotonic() - 1.0)
    assert bound.value <= fast(weights) * (1.0 + 1e-6)
    assert bound.iterations <= 1


@pytest.mark.parametrize("seed", range(3))
def test_bottlenecks(seed: int) -> None:
    """Two neurons that carry everything, and scales that differ, on which other solvers stall: the gap closes."""
    weights = drawn_layers(seed, (2, 22, 2, 60, 60, 3))
    zeros, ones = [0.0] * 4, [1.0] * 4
    whole = chain_bound(weights, zeros, ones)
    assert whole.value < 0.6 * fast(weights)
    problem = layered(weights)
    better = proven_bound(
        problem, whole.multipliers * (1.0 + 1e-4 * np.random.default_rng(seed).random(len(problem.low)))
    )
    assert better.value >= whole.value * (1.0 - 1e-7)
    assert whole.value <= by_blocks(weights).value <= 1.05 * whole.value


@pytest.mark.parametrize(("depth", "width"), [(40, 6), (16, 10)])
def test_sixty_digits_of_a_long_chain(depth: int, width: int) -> None:
    """P ≥ 0 by eliminating layer after layer in 60 digits, with the multipliers that were returned."""
    weights = eclipse(depth, width)
    bound = by_blocks(weights)
    assert bound.value < 0.1 * fast(weights)
    with mpmath.workdps(60):
        form = mpmath.mpf(bound.value) ** 2 * mpmath.eye(4)
        for weight, each in zip(weights, np.split(bound.multipliers, depth - 1), strict=False):
            diagonal = mpmath.diag([mpmath.mpf(float(value)) for value in each])
            mixed = diagonal * mpmath.matrix(weight.tolist())
            form = 2 * diagonal - mixed * mpmath.inverse(form) * mixed.T
            form = (form + form.T) / 2
            mpmath.cholesky(form)  # raises where it is not definite
        last = mpmath.matrix(weights[-1].tolist())
        mpmath.cholesky(form - last.T * last)


def test_a_long_chain_gains() -> None:
    weights = eclipse(30, 20)
    bound = chain_bound(weights, [0.0] * 29, [1.0] * 29, deadline=time.monotonic() + 2.0)
    assert bound.value < 0.5 * fast(weights)
    assert bound.multipliers.shape == (29 * 20,)


@pytest.mark.parametrize("scale", [1e-30, 1e-5, 1e5, 1e30])
def test_scales(scale: float) -> None:
    weights = drawn_layers(1, (3, 6, 5, 6, 2))
    value = by_blocks(weights).value
    for index in range(4):
        changed = [weight * (scale if i == index else 1.0) for i, weight in enumerate(weights)]
        assert by_blocks(changed).value == pytest.approx(value * scale, rel=1e-4)
    assert by_blocks([weight * scale for weight in weights]).value == pytest.approx(value * scale**4, rel=1e-4)


def test_zero_rows_dead_neurons_and_zero_layers() -> None:
    weights = drawn_layers(2, (4, 6, 7, 5, 2))
    weights[0][2] = 0.0
    weights[1][:, 3] = 0.0
    weights[2][:, [0, 1]] = 0.0
    weights[1][[2, 4]] = 0.0
    weights[0][:, 1] = 0.0
    bound = by_blocks(weights)
    assert bound.value == pytest.approx(lipschitz_bound(layered(weights)).value, rel=1e-2)
    assert (bound.multipliers[[2, 3, 6, 7, 8, 10]] == 0.0).all()
    weights[2][:] = 0.0
    assert by_blocks(weights).value == 0.0
    assert by_blocks(weights, error=1e-6).value > 0.0


def test_rank_deficient() -> None:
    """Equal rows, an output of rank 1, and a bottleneck of one neuron."""
    generator = np.random.default_rng(3)
    row = generator.standard_normal((1, 5))
    weights = [np.repeat(row, 6, axis=0), np.ones((4, 6)), np.ones((1, 4)), np.ones((3, 1)), np.ones((2, 3))]
    exact = float(np.linalg.norm(row)) * 6 * 4 * 3 * math.sqrt(2.0)
    assert exact * (1 - 1e-12) <= by_blocks(weights).value <= exact * 1.001


@pytest.mark.parametrize("size", [1e-12, 1e-9, 1e-6])
def test_errors_of_the_layers(size: float) -> None:
    """The bound of every chain within the errors, with the same multipliers."""
    weights, generator = drawn_layers(4, (2, 3, 4, 2)), np.random.default_rng(4)
    bound = by_blocks(weights, error=size)
    assert bound.value < by_blocks(weights).value * 1.01
    for _ in range(5):
        moved = [weight + 0.999 * size * np.sign(generator.standard_normal(weight.shape)) for weight in weights]
        assert is_semidefinite(inequality(layered(moved), bound.value, bound.multipliers))


@pytest.mark.parametrize("kind", ["noise", "rounded", "zero", "negative", "nan", "infinite", "tiny", "huge"])
def test_any_multipliers_are_proven_or_refused(kind: str) -> None:
    weights, generator = drawn_layers(5, (3, 4, 4, 2)), np.random.default_rng(5)
    low, high = [np.zeros(4)] * 2, [np.ones(4)] * 2
    errors: list[Real | None] = [None] * 3
    found = prepared(weights, errors, low, high, living(weights, errors, low, high))
    assert found is not None
    chain, multipliers, rho = found
    changed = [each * 0.999 for each in multipliers]
    match kind:
        case "noise":
            changed = [each * (1.0 + 1e-4 * generator.random(4)) for each in changed]
        case "rounded":
            changed = [each.astype(np.float16).astype(np.float64) for each in changed]
        case "tiny":
            changed[1] = changed[1] * 1e-6
        case _:
            changed[0] = changed[0].copy()
            changed[0][1] = {"zero": 0.0, "negative": -1.0, "nan": math.nan, "infinite": math.inf, "huge": 1e30}[kind]
    proven = proven_chain(chain, changed)
    if proven is not None:
        problem = layered([np.asarray(weight) for weight in chain.weights])
        assert is_semidefinite(inequality(problem, math.sqrt(proven) * (1.0 + 1e-15), proven * np.concatenate(changed)))
        assert proven >= 0.5 * rho
    assert (proven is not None) == (kind in ("noise", "rounded", "tiny"))


def test_what_cannot_be_used() -> None:
    weights = drawn_layers(6, (3, 4, 2))
    with pytest.raises(ValueError, match="do not follow each other"):
        chain_bound([weights[0], weights[0]], [0.0], [1.0])
    with pytest.raises(ValueError, match="not an interval"):
        chain_bound(weights, [1.0], [0.0])
    with pytest.raises(ValueError, match="not a finite number"):
        chain_bound(weights, [0.0], [1.0], errors=[-1.0, 0.0])
    with pytest.raises(ValueError, match="not of float64 or shorter"):
        chain_bound([weights[0].astype(np.longdouble), weights[1]], [0.0], [1.0])
    shorter = [weight.astype(np.float32) for weight in weights]
    wider = [weight.astype(np.float64) for weight in shorter]
    assert chain_bound(shorter, [0.0], [1.0]).value == chain_bound(wider, [0.0], [1.0]).value  # type: ignore[arg-type]
    broken = [weights[0] * math.nan, weights[1]]
    assert chain_bound(broken, [0.0], [1.0]).value == math.inf
    assert by_blocks([weights[0] * 1e300, weights[1] * 1e300]).value == math.inf


def test_no_neurons_and_linear_ones() -> None:
    matrix = drawn_layers(7, (5, 3))
    norm = float(np.linalg.norm(matrix[0], 2))
    assert norm <= chain_bound(matrix, [], []).value <= norm * (1 + 1e-7)
    weights = drawn_layers(8, (3, 4, 4, 2))
    product = float(np.linalg.norm(weights[2] @ weights[1] @ weights[0], 2))
    assert product <= by_blocks(weights, 1.0, 1.0).value <= product * 1.01


def test_the_whole_and_the_blocks_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain between the two limits takes the better of both; one above has blocks only."""
    weights = drawn_layers(9, (3, 12, 12, 12, 2))
    zeros, ones = [0.0] * 3, [1.0] * 3
    whole = chain_bound(weights, zeros, ones)
    monkeypatch.setattr(module, "SMALL_CHAIN", 10)
    assert chain_bound(weights, zeros, ones).value == pytest.approx(whole.value, rel=1e-6)
    monkeypatch.setattr(module, "WHOLE_CHAIN", 10)
    blocks = chain_bound(weights, zeros, ones)
    assert blocks.proven_by == "Cholesky factorizations of neighbour blocks"
    assert whole.value <= blocks.value <= whole.value * 1.01
