"""Level 2: linear steps are composed before a norm is taken.

Every value is Σ_a M_a a + offset in terms of a segment's atoms (`expansion`). If atom a changes by at most L_a, then

    ‖δv‖ ≤ Σ_a ‖M_a‖ L_a                                                                                       (1)

where M_a holds whatever lies between: a Conv and the BatchNormalization behind it, a skip and what it goes around
(I + W), a product behind a product. Level 1 bounds ‖M_a‖ by products and sums of norms instead, which is never less;
but it adds disjoint parts as √Σ², so that (1) can be more. Each value gets the least of (1) and of what its own step
gives.

‖M_a‖ is certified as the norm of a single node is: of a stencil by `spectral.convolution`, of a matrix by one Cholesky
factorization of its Gram matrix (`spectral.matrix.bound`), and what rounding may have done to the composed map is
added.
"""

import time
from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from sn_graph.certify.expansion import Expansion, Forms, Kind, expand
from sn_graph.certify.matrices import Matrices
from sn_graph.certify.segments import Segment
from sn_graph.certify.stencils import Stencils
from sn_graph.certify.steps import Linear, product, total

# Elements of a matrix whose norm is worth its factorization, and of those of all steps together.
DENSE, TOGETHER = 1 << 23, 1 << 27


class Normed(Protocol):
    """A form that knows a bound of its norm, and how long that takes."""

    @property
    def seconds(self) -> float:
        """About how long `norm` takes."""

    def norm(self) -> float:
        """Return a number that ‖M‖₂ does not exceed."""


N = TypeVar("N", bound=Normed)
Factors = Mapping[str, tuple[float, ...]]
"""The Lipschitz constants of each step in each operand, by its result."""


def fused_bound(segment: Segment, factors: Factors, deadline: float | None = None) -> float:
    """Bound the Lipschitz constant of a segment with its linear steps composed.

    Args:
        segment: The segment, at sizes that are known.
        factors: Those of level 1.
        deadline: When no further composition is begun, by time.monotonic.

    Returns:
        The bound, at most that of level 1.
    """
    known = _walked(segment, factors, {})
    known = _tightened(segment, factors, Stencils(), known, deadline)
    matrices = Matrices(min(DENSE, TOGETHER // max(1, len(segment.steps))))
    return _tightened(segment, factors, matrices, known, deadline)[segment.end]


def _tightened(
    segment: Segment, factors: Factors, forms: Forms[N], known: Mapping[str, float], deadline: float | None
) -> dict[str, float]:
    if deadline is not None and time.monotonic() > deadline:
        return dict(known)
    found = expand(segment, forms)
    return dict(known) if found is None else _Fused(segment, factors, found, known, deadline).bounds()


def _walked(segment: Segment, factors: Factors, better: Mapping[str, float]) -> dict[str, float]:
    """Level 1 along the segment, with better bounds of some values."""
    bounds = dict.fromkeys(segment.starts, 1.0)
    for step in segment.steps:
        own = step.combined(factors[step.result], [bounds[name] for name in step.operands])
        bounds[step.result] = min(own, better.get(step.result, own))
    return bounds


class _Fused(Generic[N]):
    """The bounds of a segment's values, each the least that is known."""

    def __init__(
        self,
        segment: Segment,
        factors: Factors,
        expansion: Expansion[N],
        known: Mapping[str, float],
        deadline: float | None,
    ) -> None:
        self._segment, self._factors, self._expansion = segment, factors, expansion
        self._known, self._deadline = known, deadline
        masks = {atom.name for atom in expansion.atoms.values() if atom.kind is Kind.MASK}
        self._composed = _composed(segment) | masks

    def bounds(self) -> dict[str, float]:
        """Return a Lipschitz constant of each value in the starts."""
        bounds = dict.fromkeys(self._segment.starts, 1.0)
        for step in self._segment.steps:
            operands = [bounds[name] for name in step.operands]
            own = min(step.combined(self._factors[step.result], operands), self._known[step.result])
            if step.result in self._composed and own > 0.0 and not self._is_late():
                own = min(own, self._through_atoms(step.result, bounds, own))
            bounds[step.result] = own
        return bounds

    def _is_late(self, seconds: float = 0.0) -> bool:
        return self._deadline is not None and time.monotonic() + seconds > self._deadline

    def _through_atoms(self, name: str, bounds: Mapping[str, float], limit: float) -> float:
        """(1), unless the value is an atom itself; beyond `limit` it is of no use."""
        key = f"{name}~mask"
        terms = self._expansion.arguments.get(key, self._expansion.terms[name])
        parts: list[float] = []
        for key, form in terms.items():
            atom = self._expansion.atoms[key]
            if atom.name == name:
                return limit
            if self._is_late(form.seconds):
                return limit
            parts.append(product(form.norm(), bounds[atom.name]))
            if total(parts) >= limit:
                return limit
        return total(parts)


def _composed(segment: Segment) -> set[str]:
    """The values whose composed map may be less than the product: linear, behind linear steps, and read by others.

    A value that linear steps alone read counts through those.
    """
    linear = {step.result: step for step in segment.steps if isinstance(step, Linear)}
    read = {name for step in segment.steps if not isinstance(step, Linear) for name in step.operands}
    many = {
        name for name, step in linear.items() if len(step.operands) > 1 or any(one in linear for one in step.operands)
    }
    return many & (read | {segment.end})
