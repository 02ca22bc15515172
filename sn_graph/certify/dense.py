"""Level 3 on small segments: the network of slope-restricted neurons, written out.

Activations are the neurons, z_i = φ_i(w_iᵀ[x; z]), x the segment's starts side by side, and y = C[x; z] its end; what
lies between is composed to W and C by `matrices`, with a proven bound of its rounding. `spectral.lmi` proves the rest.
"""

import math
from dataclasses import dataclass

import numpy as np

from sn_graph.certify.expansion import Atom, Expansion, Kind, expand
from sn_graph.certify.lowered import lowered
from sn_graph.certify.matrices import Matrices, Matrix
from sn_graph.certify.segments import Segment
from sn_graph.certify.steps import Array, Elementwise
from sn_graph.spectral.lmi import SlopeProblem

# Elements of W, 128 MB.
LARGEST = 1 << 24


@dataclass(frozen=True)
class Size:
    """How large a problem is.

    Attributes:
        inputs, neurons, outputs: n, m and k.
    """

    inputs: int
    neurons: int
    outputs: int

    @classmethod
    def of(cls, segment: Segment) -> "Size | None":
        """Count; None where a step is no neuron, or nothing bends."""
        whole = lowered(segment)
        if whole is None:
            return None
        neurons = sum(math.prod(step.shape) for step in whole.steps if isinstance(step, Elementwise))
        inputs = sum(math.prod(shape) for shape in whole.starts.values())
        outputs = math.prod(whole.shapes[whole.end])
        return cls(inputs, neurons, outputs) if neurons else None

    @property
    def fits(self) -> bool:
        """Whether it is written out at all."""
        return (self.neurons + self.outputs) * (self.inputs + self.neurons) <= LARGEST

    @property
    def order(self) -> int:
        """The order of the matrix inequality: longer inputs are replaced by as many as read them."""
        return min(self.inputs, self.neurons + self.outputs) + self.neurons


def slope_problem(segment: Segment) -> SlopeProblem | None:
    """Write a segment out; None where it has a step that is no neuron, or is too large."""
    whole = lowered(segment)
    found = None if whole is None else expand(whole, Matrices(LARGEST))
    if whole is None or found is None or not all(map(_is_known, found.atoms.values())):
        return None
    return _Writer(whole, found).problem()


def _is_known(atom: Atom) -> bool:
    return atom.kind is Kind.START or (atom.kind is Kind.STEP and isinstance(atom.step, Elementwise))


@dataclass(frozen=True, eq=False)
class Layers:
    """A chain of layers, as `spectral.lmi.chain_bound` takes it.

    Attributes:
        weights: W_1, …, W_l.
        low, high: The slopes behind each but the last.
        errors: How far each weight may be from the exact one.
    """

    weights: tuple[Array, ...]
    low: tuple[Array, ...]
    high: tuple[Array, ...]
    errors: tuple[float, ...]


def widths(segment: Segment) -> list[int] | None:
    """Return how wide the activations of a chain are, its starts before them and its end behind; None for others."""
    whole = lowered(segment)
    if whole is None or len(whole.starts) != 1:
        return None
    (before,) = whole.starts
    found = [math.prod(whole.starts[before])]
    # What every path passes is a chain, if nothing is read again behind an activation.
    seen = {before}
    for step in whole.steps:
        if not seen.issuperset(step.operands):
            return None
        if isinstance(step, Elementwise):
            seen = {step.result}
            found.append(math.prod(step.shape))
        else:
            seen.add(step.result)
    return [*found, math.prod(whole.shapes[whole.end])]


def layers_of(segment: Segment) -> Layers | None:
    """Write a chain out, a matrix a layer; None for what is none, or too large."""
    whole = lowered(segment) if widths(segment) is not None else None
    found = None if whole is None else expand(whole, Matrices(LARGEST))
    if whole is None or found is None or not all(map(_is_known, found.atoms.values())):
        return None
    steps = [atom.step for atom in found.atoms.values() if isinstance(atom.step, Elementwise)]
    forms: list[Matrix] = []
    for name in [*(step.operands[0] for step in steps), whole.end]:
        terms = list(found.terms[name].values())
        if len(terms) != 1:
            return None
        forms += terms
    low, high = (
        tuple(np.broadcast_to(end, step.shape).reshape(-1).astype(np.float64) for step, end in pairs)
        for pairs in ([(step, step.low) for step in steps], [(step, step.high) for step in steps])
    )
    if not all(np.isfinite(end).all() for end in (*low, *high)):
        return None
    return Layers(tuple(form.dense() for form in forms), low, high, tuple(form.error for form in forms))


class _Writer:
    def __init__(self, segment: Segment, expansion: Expansion[Matrix]) -> None:
        self._segment, self._expansion = segment, expansion
        self._places: dict[str, slice] = {}
        count = 0
        for key, atom in expansion.atoms.items():
            size = math.prod(atom.shape)
            self._places[key] = slice(count, count + size)
            count += size
        self._columns = count

    def problem(self) -> SlopeProblem | None:
        steps = [atom.step for atom in self._expansion.atoms.values() if isinstance(atom.step, Elementwise)]
        if not steps:
            return None
        low = np.concatenate([np.broadcast_to(step.low, step.shape).reshape(-1) for step in steps])
        high = np.concatenate([np.broadcast_to(step.high, step.shape).reshape(-1) for step in steps])
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            return None
        weights, weights_error = np.zeros((2, len(low), self._columns))
        row = 0
        for step in steps:
            size = math.prod(step.shape)
            self._write(weights, weights_error, slice(row, row + size), step.operands[0])
            row += size
        output, output_error = np.zeros((2, math.prod(self._segment.shapes[self._segment.end]), self._columns))
        self._write(output, output_error, slice(0, len(output)), self._segment.end)
        return SlopeProblem(
            weights, low.astype(np.float64), high.astype(np.float64), output, weights_error, output_error
        )

    def _write(self, values: Array, errors: Array, rows: slice, name: str) -> None:
        """Write a value's rows, in terms of the atoms that it is made of."""
        for key, form in self._expansion.terms[name].items():
            values[rows, self._places[key]] = form.dense()
            # The norm of a difference bounds each of its elements.
            errors[rows, self._places[key]] = form.error
