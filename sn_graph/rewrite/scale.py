"""Scaling: multiplying what some readers of a weight read by a number.

A weight that is stored as floats is multiplied itself; of a quantized one the scale of its DequantizeLinear is, which
multiplies it exactly. What must keep the original keeps it: the others get a copy.

One scale that divides and multiplies, as in QONNX's Quant, goes with the weight: round(c·W / c·s) · c·s. The division
may round otherwise then, so that an element between two integers becomes the other. Such an element is moved into the
middle of those that become its own: every integer stays.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.errors import ModelError, leave_out
from sn_graph.model import Model, Scope
from sn_graph.plan import Target
from sn_graph.rewrite.rewire import Copy, Rewiring
from sn_graph.sites import Quantization, Quantizer, WeightUse


@dataclass(frozen=True)
class Rescaled:
    """One tensor that was multiplied by a number.

    Attributes:
        scope, name: The tensor of the result: the scope's path, and the initializer or the Constant node's output.
        original: The name of the tensor in the source whose elements it holds times `factor`.
        factor: The number.
        site: The id of the weight that it was done for: weights may share a scale, of which each then gets a copy.
        by: The quantizer that makes integers of the tensor; None where none does. Those stay, and elements may move.
    """

    scope: str
    name: str
    original: str
    factor: float
    site: str
    by: Quantizer | None = None


class Scaling:
    """Scales the weights of one model, in place.

    Attributes:
        rescaled: The tensors that were multiplied, in order.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._graph = model.graph
        self._rewiring = Rewiring(model.graph)
        self.rescaled: list[Rescaled] = []
        self._reading: dict[tuple[Scope, str], set[tuple[int, int]]] = {}

    @property
    def copies(self) -> tuple[Copy, ...]:
        """What was added for readers that must not read the original."""
        return tuple(self._rewiring.copies)

    def divide(self, target: Target, divisors: Sequence[float], bound: float) -> None:
        """Multiply a weight by bound/σ, for σ one divisor for all its uses, or one for each.

        Raises:
            ModelError: The weight's type holds nothing of use at that norm, or no float64 holds the factor.
        """
        factors = [_factor(target, bound, divisor) for divisor in divisors]
        groups = [target.uses] if len(factors) == 1 else [(use,) for use in target.uses]
        for group, factor in zip(groups, factors, strict=True):
            in_place = group is groups[-1] and not target.splits
            if target.site.quantization is not None:
                self._scale_quantization(target, group, factor, in_place)
            else:
                self._scale_weight(target, group, factor, in_place)

    def _scale_weight(self, target: Target, uses: Sequence[WeightUse], factor: float, in_place: bool) -> None:
        site, name, tensor = target.site, target.site.weight, target.tensor
        if not in_place:
            name, tensor = self._rewiring.copy_constant(site.scope, site.weight)
            self._rewiring.redirect(uses, name)
        self._model.scale(tensor, factor)
        self.rescaled.append(Rescaled(site.scope.id, name, site.weight, factor, target.id))

    def _scale_quantization(self, target: Target, uses: Sequence[WeightUse], factor: float, in_place: bool) -> None:
        """Multiply the scale that `uses` are dequantized with; what else reads that scale keeps the original."""
        weight, tensor, integers = target.site.weight, target.tensor, None
        dequantizers = {id(q.node.proto): q for use in uses if isinstance(q := use.quantization, Quantization)}
        divided = next((q.quantizer for q in dequantizers.values() if q.rounds), None)
        if divided is not None:
            integers = divided.integers(self._model, self._model.array(tensor))
            if not in_place:
                weight, tensor = self._rewiring.copy_constant(target.site.scope, weight)
        copies = {} if in_place else self._rewiring.redirect(uses, weight)
        own = {(id(q.node.proto), q.scale_input) for q in dequantizers.values()}
        done: dict[str, Rescaled] = {}
        scales: list[onnx.TensorProto] = []
        for quantization in dequantizers.values():
            scope, original = quantization.scale_owner, quantization.scale_name
            if original not in done:
                name, scale = original, quantization.scale
                readers = self._readers(scope, original)
                if copies or len(readers) > len(readers & own):
                    name, scale = self._rewiring.copy_constant(scope, original)
                _require_scale(self._model, target, scale, factor)
                self._model.scale(scale, factor)
                done[original] = Rescaled(scope.id, name, original, factor, target.id)
                scales.append(scale)
            if done[original].name != original:
                reader = copies.get(id(quantization.node)) or quantization.node.proto
                self._readers(scope, original).discard((id(reader), quantization.scale_input))
                reader.input[quantization.scale_input] = self._through_identities(quantization, done[original].name)
        self.rescaled += done.values()
        if divided is not None and integers is not None:
            self._scale_divided(target, tensor, factor, integers, [divided.by(scale) for scale in scales])
            self.rescaled.append(Rescaled(target.site.scope.id, weight, target.site.weight, factor, target.id, divided))

    def _scale_divided(
        self,
        target: Target,
        tensor: onnx.TensorProto,
        factor: float,
        integers: NDArray[np.floating],
        quantizers: Sequence[Quantizer],
    ) -> None:
        """Multiply a weight that quantizers divide by scales that were multiplied; each integer stays."""
        model = self._model
        model.scale(tensor, factor)
        for quantizer in quantizers:
            moved = quantizer.integers(model, model.array(tensor)) != integers
            if moved.any():
                model.replace(tensor, np.where(moved, quantizer.centred(model, integers), model.array(tensor)))
        if any((quantizer.integers(model, model.array(tensor)) != integers).any() for quantizer in quantizers):
            raise ModelError(
                f"weight '{target.id}' can't be folded",
                f"because {target.site.dtype} can't hold it so that its quantizer rounds it to the same integers",
                f"{leave_out(target.site.weight)}, or use insert",
            )

    def _through_identities(self, quantization: Quantization, name: str) -> str:
        """Return what to read in place of the scale that an Identity may hand on: `name`, through copies of those."""
        scope, read, passed = quantization.node.scope, quantization.node.proto.input[quantization.scale_input], []
        while read != quantization.scale_name and (maker := self._graph.producer(scope, read)) is not None:
            passed.append(maker)
            scope, read = maker.scope, maker.proto.input[0]
        for maker in reversed(passed):
            name = self._rewiring.copy_reading(maker, name).output[0]
        return name

    def _readers(self, scope: Scope, name: str) -> set[tuple[int, int]]:
        """Return what still reads a value: the `id` of a NodeProto, 0 for what is no node, and the place there."""
        own = next(other for other in self._graph.scopes if other.proto is scope.proto)  # the plan's index may be older
        if (own, name) not in self._reading:  # else each of a thousand weights would list all that read its scale
            uses = self._graph.uses(own, name)
            self._reading[own, name] = {(0 if use.node is None else id(use.node.proto), use.index) for use in uses}
        return self._reading[own, name]


# The smallest normal number of each type: a weight of a smaller norm would be rounded away.
_SMALLEST = {"float16": 2.0**-14, "bfloat16": 2.0**-126, "float32": 2.0**-126, "float64": 2.0**-1022}


def _require_scale(model: Model, target: Target, scale: onnx.TensorProto, factor: float) -> None:
    """Raise ModelError where a scale would be rounded to 0, and so the weight."""
    before, after = model.array(scale), model.array(scale, factor)
    if np.any((after == 0) & (before != 0)):
        raise ModelError(
            f"weight '{target.id}' would become 0",
            f"because its scale, in {before.dtype.name}, would",
            "give a larger --bound",
        )


def _factor(target: Target, bound: float, sigma: float) -> float:
    factor = bound / sigma
    smallest = _SMALLEST.get(target.site.dtype or "", 0.0)
    if bound < smallest:
        raise ModelError(
            f"weight '{target.id}' can't get norm {bound:g}",
            f"because {target.site.dtype} holds nothing of use below {smallest:.2g}",
            "give a larger --bound",
        )
    if not 0.0 < factor < math.inf:
        raise ModelError(
            f"weight '{target.id}' of norm {sigma:.3g} can't get norm {bound:g}",
            "because no float64 holds the factor",
            f"{leave_out(target.site.weight)}, or give another --bound",
        )
    return factor
