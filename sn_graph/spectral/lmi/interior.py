"""A primal-dual interior point method for  min ρ,  P(ρ, λ) ≥ 0,  λ ≥ 0.

Its dual is  max ⟨CᴴC, X⟩,  ⟨E, X⟩ = 1,  s_i = −⟨A_i, X⟩ ≥ 0,  X ≥ 0.  The direction is the one of Helmberg, Rendl,
Vanderbei & Wolkowicz (1996, SIAM J. Optim. 6), Kojima et al. and Monteiro (HKM),

    X + dX = μZ − sym(X dP Z),    Z = P⁻¹,    s_i + ds_i = (μ − s_i dλ_i)/λ_i,

put into the dual's equations, with Mehrotra's predictor and corrector. The direction does not change under congruence,
so scales of the neurons don't matter to it. P > 0 holds throughout, so that every iterate's ρ is a bound but for
rounding; X may be infeasible at the start, which is X = μZ.

What comes out is proven by `proof`, and may be as sloppy as it likes.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from scipy.linalg import cho_factor, cho_solve
from scipy.linalg.lapack import dtrtri, ztrtri

from sn_graph.spectral.lmi.pencil import Pencil
from sn_graph.spectral.lmi.problem import Field, Real

LIMIT = 60
# Where the duality gap, relative to ρ, ends the search: the proof costs about as much.
GAP = 5e-9
# How far a step goes to the boundary.
NEAR = 0.95
# Iterates from which on a step has to be longer than this, or the search has stalled.
SHORT = 1e-3
# What is added to a Schur system that is not definite, relative to its diagonal.
SHIFTS = (0.0, 1e-14, 1e-12, 1e-10)
# Up to here eigenvalues tell how far a step may go; above, Lanczos.
EIGENVALUES = 128
LANCZOS_STEPS = 24
# Below, the inverses of triangular matrices are taken over the whole batch at once.
BATCHED = 32


@dataclass(frozen=True)
class Iterate:
    """A point with P(ρ, λ) > 0, but for rounding.

    Attributes:
        rho, multipliers: ρ and λ [groups].
        gap: The duality gap relative to ρ; not a bound of anything while X is infeasible.
    """

    rho: float
    multipliers: Real
    gap: float


def minimise(pencil: Pencil, start: Iterate, deadline: float | None = None, gap: float = GAP) -> list[Iterate]:
    """Minimise ρ from a start with P > 0.

    Args:
        pencil: The inequality.
        start: With P(ρ, λ) > 0.
        deadline: When to stop, by time.monotonic.
        gap: Where to stop.

    Returns:
        All iterates, the start first; the last ones are the best.
    """
    iterates = [start]
    state = _State.at(pencil, start) if pencil.inputs else None
    while state is not None and len(iterates) <= LIMIT:
        if deadline is not None and time.monotonic() > deadline:
            break
        try:
            state = state.step()
        except np.linalg.LinAlgError:
            break
        if state is None:
            break
        iterates.append(Iterate(state.rho, state.multipliers, state.gap))
        if state.done(gap):
            break
    return iterates


@dataclass
class _State:
    pencil: Pencil
    rho: float
    multipliers: Real
    slack: Real  # s
    dual: Field  # P
    dual_root: Field  # the inverse of its Cholesky factor
    primal: Field  # X
    primal_root: Field
    last_step: float = 1.0

    @classmethod
    def at(cls, pencil: Pencil, start: Iterate) -> "_State | None":
        dual = pencil.matrix(start.rho, start.multipliers)
        root = inverse_factor(dual)
        if root is None:
            return None
        inverse = _squared(root)
        places = np.arange(pencil.inputs)
        scale = 1.0 / float(inverse[:, places, places].real.sum())
        primal = scale * inverse
        primal_root = inverse_factor(primal)
        if primal_root is None:
            return None
        return cls(pencil, start.rho, start.multipliers, scale / start.multipliers, dual, root, primal, primal_root)

    @property
    def gap(self) -> float:
        return self._complementarity() / max(abs(self.rho), 1e-300)

    def done(self, gap: float) -> bool:
        return self.gap <= gap

    def _complementarity(self) -> float:
        return float((self.primal * self.dual.conj()).sum().real + self.slack @ self.multipliers)

    def step(self) -> "_State | None":
        """One predictor and corrector; None where no step is possible any more."""
        pencil = self.pencil
        inverse = _squared(self.dual_root)
        system = pencil.schur(self.primal, inverse)
        places = np.arange(1, len(system))
        system[places, places] += self.slack / self.multipliers
        solve = _solver(system)
        if solve is None:
            return None
        count = pencil.order * len(pencil.weights) + len(self.multipliers)
        mu = self._complementarity() / count
        target_inner = pencil.inner(inverse)

        def direction(target: float, bent: Field | None, bent_slack: Real) -> tuple[Real, Real, Field, Field]:
            right = target * target_inner
            right[1:] += (target - bent_slack) / self.multipliers
            right[0] -= 1.0
            if bent is not None:
                right -= pencil.inner(bent)
            change = solve(right)
            dual = pencil.derivative(float(change[0]), change[1:])
            primal = target * inverse - self.primal - _symmetric(self.primal @ dual @ inverse)
            if bent is not None:
                primal -= bent
            slack = (target - bent_slack - self.slack * change[1:]) / self.multipliers - self.slack
            return change, slack, dual, primal

        zero = np.zeros(len(self.multipliers))
        change, slack, dual, primal = direction(0.0, None, zero)
        reach_primal, reach_dual = self._reach(primal, dual, slack, change[1:])
        after = float(
            ((self.primal + reach_primal * primal) * (self.dual + reach_dual * dual).conj()).sum().real
            + (self.slack + reach_primal * slack) @ (self.multipliers + reach_dual * change[1:])
        )
        ratio = min(1.0, max(0.0, after / (mu * count)))
        power = max(1.0, 3.0 * min(reach_primal, reach_dual) ** 2)
        centring = min(1.0, ratio**power)
        if min(reach_primal, reach_dual) < 0.1:
            centring = max(centring, 0.5)
        bent = _symmetric(primal @ dual @ inverse)
        change, slack, dual, primal = direction(centring * mu, bent, slack * change[1:])
        if not (np.isfinite(change).all() and np.isfinite(primal).all()):
            return None
        reach_primal, reach_dual = self._reach(primal, dual, slack, change[1:])
        return self._moved(change, slack, primal, reach_primal, reach_dual)

    def _reach(self, primal: Field, dual: Field, slack: Real, multipliers: Real) -> tuple[float, float]:
        """How far X and s, and P and λ, may go."""
        first = min(_ray(self.slack, slack), _depth(self.primal_root, primal))
        second = min(_ray(self.multipliers, multipliers), _depth(self.dual_root, dual))
        return min(1.0, NEAR * first), min(1.0, NEAR * second)

    def _moved(
        self, change: Real, slack: Real, primal: Field, reach_primal: float, reach_dual: float
    ) -> "_State | None":
        for _ in range(8):
            new_dual = self.pencil.matrix(
                self.rho + reach_dual * float(change[0]), self.multipliers + reach_dual * change[1:]
            )
            root = inverse_factor(new_dual)
            if root is not None:
                break
            reach_dual *= 0.7
        else:
            return None
        for _ in range(8):
            new_primal = self.primal + reach_primal * primal
            primal_root = inverse_factor(new_primal)
            if primal_root is not None:
                break
            reach_primal *= 0.7
        else:
            return None
        last = max(reach_primal, reach_dual)
        if max(last, self.last_step) < SHORT:
            return None
        return _State(
            self.pencil,
            self.rho + reach_dual * float(change[0]),
            self.multipliers + reach_dual * change[1:],
            self.slack + reach_primal * slack,
            new_dual,
            root,
            new_primal,
            primal_root,
            last,
        )


def _symmetric(matrix: Field) -> Field:
    return np.asarray((matrix + matrix.conj().transpose(0, 2, 1)) / 2.0)


def inverse_factor(matrix: Field) -> Field | None:
    """L⁻¹ [F, N, N] of every matrix L Lᴴ, or None where one is not positive definite."""
    try:
        factor: Field = np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return None
    if matrix.shape[-1] < BATCHED:
        root = np.asarray(np.linalg.inv(factor))
    else:
        invert = ztrtri if np.iscomplexobj(factor) else dtrtri
        # LAPACK reads the transpose of a C-ordered matrix.
        root = np.stack([np.asarray(invert(part.T, lower=0)[0]).T for part in factor])
    return root if np.isfinite(root).all() else None


def _squared(root: Field) -> Field:
    """P⁻¹ = L⁻ᴴ L⁻¹."""
    return np.asarray(root.conj().transpose(0, 2, 1) @ root)


def _solver(system: Real) -> Callable[[Real], Real] | None:
    """What solves the Schur system, with one refinement; None where it is not definite even with a little added."""
    scale = 1.0 / np.sqrt(np.maximum(system.diagonal(), 1e-300))
    scaled = system * scale * scale[:, None]
    for shift in SHIFTS:
        try:
            factor = cho_factor(scaled + shift * np.eye(len(scaled)), lower=True, check_finite=False)
        except np.linalg.LinAlgError:
            continue
        return partial(_solved, scaled, factor, scale)
    return None


def _solved(scaled: Real, factor: tuple[Real, bool], scale: Real, right: Real) -> Real:
    first = cho_solve(factor, right * scale, check_finite=False)
    rest = right * scale - scaled @ first
    return np.asarray((first + cho_solve(factor, rest, check_finite=False)) * scale)


def _ray(values: Real, change: Real) -> float:
    with np.errstate(divide="ignore"):
        steps = np.where(change < 0.0, -values / change, np.inf)
    return float(steps.min(initial=np.inf))


def _depth(root: Field, change: Field) -> float:
    """The largest α with L Lᴴ + α D ≥ 0, about, for inverse factors and changes [F, N, N]."""
    if root.shape[-1] <= EIGENVALUES:
        least = float(np.linalg.eigvalsh(_symmetric(root @ change @ root.conj().transpose(0, 2, 1)))[:, 0].min())
    else:
        least = _least(root, change)
    return -1.0 / least if least < 0.0 else math.inf


def _least(root: Field, change: Field) -> float:
    """A number about below the least eigenvalue of L⁻¹ D L⁻ᴴ over all blocks, by Lanczos on all of them at once."""
    count, order = root.shape[:2]
    vectors = np.zeros((count, LANCZOS_STEPS + 1, order), dtype=root.dtype)
    first = np.random.default_rng(0).standard_normal((count, order))
    vectors[:, 0] = first / np.linalg.norm(first, axis=1)[:, None]
    tridiagonal = np.zeros((count, LANCZOS_STEPS, LANCZOS_STEPS))
    adjoint = root.conj().transpose(0, 2, 1)
    last = np.zeros(count)
    for step in range(LANCZOS_STEPS):
        image = (root @ (change @ (adjoint @ vectors[:, step, :, None])))[..., 0]
        before = vectors[:, : step + 1]
        for _ in range(2):
            parts = (before.conj() @ image[..., None])[..., 0]
            image = image - (parts[:, None, :] @ before)[:, 0]
            tridiagonal[:, step, step] += parts[:, step].real
        last = np.linalg.norm(image, axis=1)
        vectors[:, step + 1] = image / np.maximum(last, 1e-300)[:, None]
        if step + 1 < LANCZOS_STEPS:
            tridiagonal[:, step, step + 1] = tridiagonal[:, step + 1, step] = last
    values, small = np.linalg.eigh(tridiagonal)
    return float((values[:, 0] - last * np.abs(small[:, -1, 0])).min())
