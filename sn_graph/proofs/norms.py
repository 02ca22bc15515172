"""Norms: has each folded weight, as runtimes read it from the written file, the norm that was promised?

    exact    |σ − c| ≤ 2e-6·c, and what rounding to the types on the way may do (of an operator norm: 1e-5, and the
             width that its enclosure had)
    upper    σ ≤ c, proven
    power    nothing is promised, because what the weight was divided by is an estimate

σ is computed anew, of other bytes and so from another start: by LAPACK, or by Lanczos from the vector that was found
before, which costs half of finding it. An upper bound is one factorization. The operator norm costs what it did before.
"""

import math
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
from sn_graph.proofs.readers import scaled_for
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


def check_norms(result: PassResult, source: Model, tensors: Tensors) -> None:
    """Check the norm of each weight that fold scaled.

    Args:
        result: What fold made, and by which method.
        source: The model before.
        tensors: The tensors that were scaled, as the written file holds them.

    Raises:
        VerificationFailed: A norm is not what was promised.
    """
    options, plan = result.options, result.plan
    if plan is None or not isinstance(options, FoldOptions) or options.known is not None:
        return
    if options.sigma is SigmaMethod.POWER:
        return
    check = _Check(result, plan, source, tensors, Operators(source))
    records = {record.id: record for record in result.sites if record.status == "folded"}
    for target in plan.targets():
        if target.id in records:
            judge = check.operator if plan.norm == "operator" else check.matrix
            judge(target, records[target.id], options.sigma)


@dataclass(frozen=True, eq=False)
class _Check:
    result: PassResult
    plan: Plan
    source: Model
    tensors: Tensors
    operators: Operators

    def matrix(self, target: Target, record: SiteRecord, method: SigmaMethod) -> None:
        """Judge the norm of a weight's matrix."""
        bound, right = self.plan.bound, self.result.vectors.get(target.id)
        for use in {use.rounded_to: use for use in reversed(target.uses)}.values():
            for weight in self._read(target, use):
                matrix = target.view.matrix(weight)
                if method is SigmaMethod.UPPER:
                    # The others are for bounds that hold too narrowly for a factorization at the bound itself.
                    proven = is_within(matrix, bound) or upper_bound(matrix) <= bound
                    if not (proven or self._is_certified(target, use, record.sigma_used or 0.0)):
                        raise _refused(target, spectral_norm(matrix), f"at most {bound:g}")
                    continue
                norm = spectral_norm(matrix) if right is None else leading_singular_triplet(matrix, right).sigma
                allowed = bound * (_EXACT + 2.0 * _unit(target)) + _lost(target, matrix)
                if not abs(norm - bound) <= allowed:
                    self._require_rounding(target, record, norm, matrix)

    def operator(self, target: Target, record: SiteRecord, method: SigmaMethod) -> None:
        """Judge the norm of what a weight's consumers do."""
        bound, found = self.plan.bound, self.operators.enclose_read(target, partial(self._read, target))
        if method is SigmaMethod.UPPER:
            if not found.lower <= bound:
                raise _refused(target, found.lower, f"at most {bound:g}")
            return
        before = Enclosure(record.sigma_operator or 0.0, record.sigma_operator_upper or 0.0)
        width = before.upper / before.lower if before.lower else 1.0
        allowed = 2.0 * _unit(target)
        if not _meets(found, bound, width, allowed):
            # Where rounding explains it, the norm was right before.
            factor, stored = bound / (record.sigma_used or 1.0), target.array(self.source)
            unrounded = self.operators.enclose_read(target, lambda _: [stored]).times(factor)
            explained = _unit(target) * 1.01 * self.operators.magnitude(target) * factor / bound
            if not (_meets(unrounded, bound, width, 0.0) and _meets(found, bound, width, explained)):
                raise _refused(target, found.lower, f"{bound:g}")

    def _read(self, target: Target, use: WeightUse) -> Iterator[NDArray[Any]]:
        """Yield a weight as runtimes read it at one of its uses, from the tensors of the written file."""
        quantization = use.quantization
        place = target.site.scope.id
        if isinstance(quantization, Quantization):
            place = quantization.scale_owner.id
        for name in sorted(scaled_for(target, target.uses.index(use), self.result.rescaled)):
            weight = self.tensors[place, name]
            if isinstance(quantization, Quantization):
                weight = quantization.multiplied(self.source, self.source.array(target.tensor), weight)
            yield from use.readings(weight)

    def _require_rounding(self, target: Target, record: SiteRecord, norm: float, matrix: NDArray[Any]) -> None:
        """Raise where a norm is off by more than rounding the elements can explain.

        It moves the norm by u‖M‖_F at most, and usually by much less than u‖M‖₂.
        """
        bound = self.plan.bound
        unrounded = spectral_norm(target.matrix(self.source)) * (bound / (record.sigma_used or 1.0))
        frobenius = float(np.linalg.norm(matrix.astype(np.float64)))
        explained = _unit(target) * 1.01 * frobenius + _lost(target, matrix)
        if not (abs(unrounded - bound) <= _EXACT * bound and abs(norm - unrounded) <= explained + _EXACT * bound):
            raise _refused(target, norm, f"{bound:g}")

    def _is_certified(self, target: Target, use: WeightUse, used: float) -> bool:
        """Say whether the lemma that bounds one rounding beforehand proves the norm of a use to be within the bound."""
        plain = not use.rounded_to and target.site.quantization is None and not self.source.is_scaled(target.tensor)
        matrix = target.matrix(self.source)
        return plain and matrix.dtype in ROUNDING and used >= certified_divisor(matrix, self.plan.bound)


def _meets(found: Enclosure, bound: float, width: float, allowed: float) -> bool:
    """Say whether an enclosure is one of the bound, as wide as it was before, but for a relative deviation."""
    margin = _OPERATOR_EXACT + allowed
    return found.lower <= bound * width * (1.0 + margin) and found.upper >= bound * (1.0 - margin)


def _unit(target: Target) -> float:
    """What rounding to the types on the way changes an element by, relatively."""
    return sum((float(_limits(dtype).eps) / 2.0 for dtype in target_types(target)), start=0.0)


def _lost(target: Target, matrix: NDArray[Any]) -> float:
    """What rounding to subnormal numbers may do to a norm."""
    least = max(float(_limits(dtype).smallest_subnormal) for dtype in target_types(target))
    return least * math.sqrt(matrix.size)


def _limits(dtype: np.dtype[Any]) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]


def _refused(target: Target, norm: float, promised: str) -> VerificationFailed:
    return VerificationFailed(
        f"the folded weight '{target.id}' has norm {norm:.9g} where {promised} was promised",
        "so what it was divided by is not its norm",
    )
