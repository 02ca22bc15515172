"""Norms: has each folded weight, as runtimes read it from the written file, the norm that was promised?

    exact    |σ − c| ≤ 2e-6·c, and what rounding to the types on the way may do (of an operator norm: 1e-5, and the
             width that its enclosure had)
    upper    σ ≤ c, proven
    power    nothing is promised, because what the weight was divided by is an estimate; nor of a σ that was given

σ is computed anew, of other bytes and so from another start: by LAPACK, or by Lanczos from the vector that was found
before, which costs half of finding it. An upper bound is one factorization. The operator norm costs what it did before.

A type of 16 bits rounds too coarsely for σ of what is read to tell whether the divisor was right. There σ of the source
is computed anew; the structure proof shows that the file holds W·factor but for the type's rounding.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import VerificationFailed
from sn_graph.model import Model
from sn_graph.norms import Enclosure, Operators, SigmaMethod
from sn_graph.passes import FoldOptions, PassResult
from sn_graph.plan import Plan, Target
from sn_graph.proofs.readers import Reads
from sn_graph.proofs.rounding import target_types
from sn_graph.report import SiteRecord
from sn_graph.sites import Quantization, WeightUse
from sn_graph.spectral.matrix import (
    ROUNDING,
    certified_divisor,
    is_within,
    leading_singular_triplet,
    spectral_norm,
    upper_bound,
)

Tensors = Mapping[tuple[str, str], NDArray[Any]]
"""The scaled tensors of the written file, by the id of their scope and their name."""

_EXACT = 2e-6
_OPERATOR_EXACT = 1e-5


def check_norms(result: PassResult, source: Model, reads: Reads, tensors: Tensors) -> None:
    """Check the norm of each weight that fold scaled.

    Args:
        result: What fold made, and by which method.
        source: The model before.
        reads: Which tensors the uses read.
        tensors: The tensors that were scaled, as the written file holds them.

    Raises:
        VerificationFailed: A norm is not what was promised.
    """
    options, plan = result.options, result.plan
    if plan is None or not isinstance(options, FoldOptions) or options.known is not None:
        return
    if options.sigma is SigmaMethod.POWER:
        return
    check = _Check(result, plan, source, reads, tensors, Operators(source))
    judges = {
        ("matrix", SigmaMethod.EXACT): check.exact,
        ("matrix", SigmaMethod.UPPER): check.upper,
        ("operator", SigmaMethod.EXACT): check.exact_operator,
        ("operator", SigmaMethod.UPPER): check.upper_operator,
    }
    records = {record.id: record for record in result.sites if record.status == "folded"}
    for target in plan.targets():
        if target.id in records:
            judges[plan.norm, options.sigma](target, records[target.id])


@dataclass(frozen=True, eq=False)
class _Check:
    result: PassResult
    plan: Plan
    source: Model
    reads: Reads
    tensors: Tensors
    operators: Operators

    def exact(self, target: Target, record: SiteRecord) -> None:
        """Judge the norm of a weight's matrix that was divided by its norm."""
        bound, right = self.plan.bound_of(target), self.result.vectors.get(target.id)
        if not _is_coarse(target, bound):
            norms = [_norm(matrix, right) for matrix, _ in self._matrices(target)]
            allowed = bound * (_EXACT + 2.0 * _unit(target))
            if all(abs(norm - bound) <= allowed for norm in norms):
                return
        unrounded = _norm(target.matrix(self.source), right) * (bound / _used(record))
        if not abs(unrounded - bound) <= _EXACT * bound:
            raise _refused(target, unrounded, f"{bound:g}")

    def upper(self, target: Target, record: SiteRecord) -> None:
        """Judge the norm of a weight's matrix that was divided by a bound."""
        bound = self.plan.bound_of(target)
        for matrix, use in self._matrices(target):
            # The others are for bounds that hold too narrowly for a factorization at the bound itself.
            proven = is_within(matrix, bound) or upper_bound(matrix) <= bound
            if not (proven or self._is_certified(target, use, _used(record))):
                raise _refused(target, spectral_norm(matrix), f"at most {bound:g}")

    def exact_operator(self, target: Target, record: SiteRecord) -> None:
        """Judge the norm of what the consumers do with a weight that was divided by it."""
        bound = self.plan.bound_of(target)
        width = (record.sigma_operator_upper or 0.0) / (record.sigma_operator or 1.0)
        if not _is_coarse(target, bound):
            found = self.operators.enclose_read(target, partial(self._read, target))
            if _meets(found, bound, width, 2.0 * _unit(target)):
                return
        if not _meets(self._unrounded(target).times(bound / _used(record)), bound, width, 0.0):
            raise _refused(target, self._unrounded(target).times(bound / _used(record)).lower, f"{bound:g}")

    def upper_operator(self, target: Target, record: SiteRecord) -> None:
        """Judge the norm of what the consumers do with a weight that was divided by a bound."""
        bound, found = self.plan.bound_of(target), self.operators.enclose_read(target, partial(self._read, target))
        if found.upper <= bound:
            return
        unit = ROUNDING.get(target.array(self.source).dtype)
        if unit is not None and self._is_rounded_once(target) and found.lower <= bound:
            # The lemma that bounds the rounding beforehand: `sn_graph.norms.divisor`.
            rounding = 2.0 * unit * self.operators.magnitude(target)
            if _used(record) >= (self._unrounded(target).upper + rounding) * (1.0 + 4.0 * unit):
                return
        raise _refused(target, found.upper, f"at most {bound:g}")

    def _unrounded(self, target: Target) -> Enclosure:
        stored = target.array(self.source)
        return self.operators.enclose_read(target, lambda _: [stored])

    def _matrices(self, target: Target) -> Iterator[tuple[NDArray[Any], WeightUse]]:
        """Yield each different matrix that runtimes read, with a use that reads it."""
        seen = set()
        for turn, use in enumerate(target.uses):
            key = (self.reads[target.id, turn], use.rounded_to)
            if key not in seen:
                seen.add(key)
                yield from ((target.view.matrix(weight), use) for weight in self._read(target, use))

    def _read(self, target: Target, use: WeightUse) -> Iterator[NDArray[Any]]:
        """Yield a weight as runtimes read it at one of its uses, from the tensors of the written file."""
        quantization = use.quantization
        place = target.site.scope.id
        if isinstance(quantization, Quantization):
            place = quantization.scale_owner.id
        for name in sorted(self.reads[target.id, target.uses.index(use)]):
            weight = self.tensors[place, name]
            if isinstance(quantization, Quantization):
                weight = quantization.multiplied(self.source, self.source.array(target.tensor), weight)
            if target.site.sparse is not None:
                weight = target.site.sparse.dense(self.source, weight)
            yield from use.readings(weight)

    def _is_certified(self, target: Target, use: WeightUse, used: float) -> bool:
        """Say whether the lemma that bounds one rounding beforehand proves the norm of a use to be within the bound."""
        matrix = target.matrix(self.source)
        plain = self._is_rounded_once(target) and not use.rounded_to and matrix.dtype in ROUNDING
        return plain and used >= certified_divisor(matrix, self.plan.bound_of(target))

    def _is_rounded_once(self, target: Target) -> bool:
        finer = all(np.can_cast(target.array(self.source).dtype, to) for use in target.uses for to in use.rounded_to)
        return finer and target.site.quantization is None and not self.source.is_scaled(target.tensor)


def _used(record: SiteRecord) -> float:
    return record.sigma_used or 0.0


def _norm(matrix: NDArray[Any], right: NDArray[np.float64] | None) -> float:
    """Return σ, from its right vector where that is known."""
    return spectral_norm(matrix) if right is None else leading_singular_triplet(matrix, right).sigma


def _meets(found: Enclosure, bound: float, width: float, allowed: float) -> bool:
    """Say whether an enclosure is one of the bound, as wide as it was before, but for a relative deviation."""
    margin = _OPERATOR_EXACT + allowed
    return found.lower <= bound * width * (1.0 + margin) and found.upper >= bound * (1.0 - margin)


def _is_coarse(target: Target, bound: float) -> bool:
    """Say whether rounding, to 16 bits or to subnormal numbers, may move the norm by as much as is to be told."""
    least = max(float(_limits(dtype).tiny) for dtype in target_types(target))
    return 2.0 * _unit(target) > _EXACT or bound < 1e6 * least


def _unit(target: Target) -> float:
    """What rounding to the types on the way changes an element by, relatively."""
    return sum((float(_limits(dtype).eps) / 2.0 for dtype in target_types(target)), start=0.0)


def _limits(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]


def _refused(target: Target, norm: float, promised: str) -> VerificationFailed:
    return VerificationFailed(f"the folded weight '{target.id}' has norm {norm:.9g} where {promised} was promised")
