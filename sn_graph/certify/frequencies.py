"""Level 3 on convolutional segments: one matrix inequality for each frequency of a circular embedding.

Take a segment whose values are stencils of its atoms (`stencils`). Put each value's window on a circle: that of value v
has N_v = K q_v places an axis, one K for all, and q_v times as many places as the coarsest one, so that a stencil of
stride s leads from N to N/s places. Sequences on it repeat up to a sign, x[a + N] = e^{2πiφ} x[a] with φ = 0 or 1/2.
Stencils of such sequences fall apart into one matrix for each of the K frequencies an axis: the q frequencies
κ ≡ k (mod K) of an atom lead to those of a value that are equal to them mod its own N,

    v̂(κ) = s^(−1/2) Σ_{κ' ≡ κ (mod N_v)} F(κ') â(κ'),     F(κ') = Σ_t k_t e^{2πi(κ' + φ)(t + r)/N_a}                (1)

in unitary transforms. For the difference of two runs of the segment let δ hold the atoms' differences in their windows,
and 0 outside. Then

 1. (1) gives the values' differences in their windows, if N_a exceeds every place that is read for one inside, and what
    lies before 0 too: then a place outside a window is one that the nodes pad with 0, and nothing comes around.
 2. A neuron in its window has (δz − aδs)(δz − bδs) ≤ 0. Outside it δz = 0, while (1) gives δs any value: the left side
    is ab δs², so that the inequality holds there too if ab ≤ 0. Sectors are widened to contain 0: [0.2, 1] becomes
    [0, 1].
 3. A linear value that is read outside its window, where (1) would go on and the nodes have 0, becomes an atom of its
    own, a mask: itself inside, 0 outside, so a neuron of the sector [0, 1].

So with multipliers λ that are the same at all places of a channel, hence at all of its frequencies (Parseval),
P_k(ρ, λ) ≥ 0 at every k gives ρ‖δx‖² ≥ ‖δy‖² on the circle, and the segment's end is a part of that: L ≤ √ρ, as for
layers without space (`spectral.lmi.bound`). Frequencies k and −k − 2φ have complex conjugate matrices, up to the order
of aliases; one of each pair is looked at. The embedding is that of `spectral.convolution.embedding`; sectors that hold
outside windows, ties over aliases, and masks are ours.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.expansion import Atom, Expansion, Kind, expand
from sn_graph.certify.segments import Segment
from sn_graph.certify.stencils import Stencil, Stencils
from sn_graph.certify.steps import Array, Elementwise
from sn_graph.spectral.linalg import UNIT, gamma
from sn_graph.spectral.lmi import FrequencyProblem

Frequencies = NDArray[np.int64]
"""[frequencies, rank], each 0 … K − 1."""

# Roundings of one e^{iθ}, θ being a whole number of parts of the circle.
PHASE = 32


@dataclass(frozen=True, eq=False)
class Circle:
    """A segment on a circle.

    Attributes:
        expansion: Its values in terms of its atoms.
        end: The value that it ends with.
        finer: q of each atom and value, one an axis.
        period: K, one an axis.
        twist: 2φ: 0 or 1.
    """

    expansion: Expansion[Stencil]
    end: str
    finer: Mapping[str, tuple[int, ...]]
    period: tuple[int, ...]
    twist: int = 1

    @classmethod
    def of(cls, segment: Segment, twist: int = 1) -> "Circle | None":
        """Put a segment on the least circle; None where a step is neither a stencil nor a neuron."""
        found = expand(segment, Stencils())
        if found is None or len(segment.starts) != 1 or not any(map(_neuron, found.atoms.values())):
            return None
        if not all(atom.kind is Kind.START or _neuron(atom) for atom in found.atoms.values()):
            return None
        finer = _densities(found, segment.end)
        if finer is None:
            return None
        made = cls(found, segment.end, finer, (1,) * len(finer[segment.end]), twist)
        return cls(found, segment.end, finer, made._least_period(), twist)

    def _least_period(self) -> tuple[int, ...]:
        rank = len(self.period)
        needed = [1] * rank
        for name, terms in self._read:
            for key, form in terms.items():
                for axis in range(rank):
                    first, last = form.reads(axis)
                    size = form.input_size[axis]
                    fine = -(-max(size, last + 1, size - first) // self.finer[key][axis])
                    coarse = -(-form.output_size[axis] // self.finer[name][axis])
                    needed[axis] = max(needed[axis], fine, coarse)
        return tuple(needed)

    @cached_property
    def neurons(self) -> list[tuple[str, Atom]]:
        """The atoms that are neurons, in order, by their keys."""
        return [(key, atom) for key, atom in self.expansion.atoms.items() if _neuron(atom)]

    @property
    def _read(self) -> list[tuple[str, Mapping[str, Stencil]]]:
        """What counts: what each neuron reads, by the neuron's key, because it lies on the same circle, and the end."""
        found = [(key, _argument(self.expansion, key)) for key, _ in self.neurons]
        return [*found, (self.end, self.expansion.terms[self.end])]

    def aliases(self, key: str) -> int:
        """Return how many frequencies of an atom or value meet at one k."""
        return math.prod(self.finer[key])

    @cached_property
    def places(self) -> dict[str, slice]:
        """The columns of each atom: its frequencies one behind the other, all channels of each."""
        found, count = {}, 0
        for key, atom in self.expansion.atoms.items():
            width = self.aliases(key) * atom.shape[1]
            found[key] = slice(count, count + width)
            count += width
        return found

    @property
    def order(self) -> int:
        """The order of each matrix inequality: inputs longer than what reads them are shortened."""
        neurons = sum(self.aliases(key) * atom.shape[1] for key, atom in self.neurons)
        whole = max(place.stop for place in self.places.values())
        last = next(iter(self.expansion.terms[self.end].values()))
        return int(neurons + min(whole - neurons, neurons + self.aliases(self.end) * len(last.kernel)))

    @cached_property
    def frequencies(self) -> Frequencies:
        """One of each pair k, −k − 2φ."""
        grids = np.meshgrid(*(np.arange(count) for count in self.period), indexing="ij")
        index = np.stack([grid.ravel() for grid in grids], axis=1)
        mirrored = (-index - self.twist) % np.array(self.period)
        weight = np.array([math.prod(self.period[axis + 1 :]) for axis in range(len(self.period))])
        return np.asarray(index[index @ weight <= mirrored @ weight], np.int64)

    def problem(self, frequencies: Frequencies) -> FrequencyProblem:
        """Return the matrix inequalities of some frequencies."""
        low, high, tie = [], [], []
        for number, (key, atom) in enumerate(self.neurons):
            repeats = self.aliases(key)
            ends = _sector(atom)
            low.append(np.tile(ends[0], repeats))
            high.append(np.tile(ends[1], repeats))
            tie.append(np.tile(np.arange(len(ends[0])) + (number << 32), repeats))
        parts = [self._rows(name, terms, frequencies) for name, terms in self._read]
        weights = np.concatenate([values for values, _ in parts[:-1]], axis=1)
        weights_error = np.concatenate([errors for _, errors in parts[:-1]], axis=0)
        output, output_error = parts[-1]
        return FrequencyProblem(
            weights,
            np.concatenate(low),
            np.concatenate(high),
            output,
            np.concatenate(tie).astype(np.int64),
            weights_error,
            output_error,
        )

    def _rows(
        self, name: str, terms: Mapping[str, Stencil], frequencies: Frequencies
    ) -> tuple[NDArray[np.complex128], Array]:
        """A value's rows of all its frequencies, and a bound of each element's error."""
        width = max(place.stop for place in self.places.values())
        height = self.aliases(name) * len(next(iter(terms.values())).kernel)
        values = np.zeros((len(frequencies), height, width), np.complex128)
        errors = np.zeros((height, width))
        for key, form in terms.items():
            self._write(values, errors, name, key, form, frequencies)
        return values, errors

    def _write(
        self,
        values: NDArray[np.complex128],
        errors: Array,
        name: str,
        key: str,
        form: Stencil,
        frequencies: Frequencies,
    ) -> None:
        own, other = self.finer[name], self.finer[key]
        rank, (outputs, inputs) = len(own), form.kernel.shape[:2]
        scale = 1.0 / math.sqrt(math.prod(form.strides))
        terms = math.prod(form.taps) + 4 * rank + PHASE * rank
        error = scale * (1.0 + 16.0 * UNIT) * (form.error + gamma(terms) * form.sizes)
        kernel = form.kernel.reshape(outputs * inputs, -1)
        for place, alias in enumerate(np.ndindex(*other)):
            target = np.ravel_multi_index(tuple(a % q for a, q in zip(alias, own, strict=True)), own)
            wave = self._waves(key, form, frequencies, alias)
            symbol = (wave.real @ kernel.T) + 1j * (wave.imag @ kernel.T)
            rows = slice(int(target) * outputs, (int(target) + 1) * outputs)
            start = self.places[key].start + place * inputs
            columns = slice(start, start + inputs)
            values[:, rows, columns] = scale * symbol.reshape(-1, outputs, inputs)
            errors[rows, columns] = error

    def _waves(self, key: str, form: Stencil, frequencies: Frequencies, alias: Sequence[int]) -> NDArray[np.complex128]:
        """e^{2πi(κ + φ)(t + r)/N} of all taps [frequencies, taps], κ = k + K · alias."""
        wave = np.ones((len(frequencies), 1), np.complex128)
        for axis, finer in enumerate(self.finer[key]):
            parts = 2 * self.period[axis] * finer
            whole = 2 * (frequencies[:, axis] + self.period[axis] * alias[axis]) + self.twist
            taps = np.arange(form.taps[axis]) + form.offsets[axis]
            angle = 2.0 * np.pi * ((whole[:, None] * taps) % parts) / parts
            along = np.exp(1j * angle)
            wave = (wave[:, :, None] * along[:, None, :]).reshape(len(frequencies), -1)
        return wave


def _neuron(atom: Atom) -> bool:
    return atom.kind is Kind.MASK or (atom.kind is Kind.STEP and isinstance(atom.step, Elementwise))


def _argument(expansion: Expansion[Stencil], key: str) -> Mapping[str, Stencil]:
    """What a neuron reads."""
    step = expansion.atoms[key].step
    return expansion.arguments[key] if step is None else expansion.terms[step.operands[0]]


def _sector(atom: Atom) -> tuple[Array, Array]:
    """The slopes of each channel, widened over space and to contain 0."""
    channels = atom.shape[1]
    if not isinstance(atom.step, Elementwise) or atom.kind is Kind.MASK:
        return np.zeros(channels), np.ones(channels)
    low, high = (np.broadcast_to(end, atom.shape).reshape(channels, -1) for end in (atom.step.low, atom.step.high))
    return np.minimum(low.min(axis=1), 0.0), np.maximum(high.max(axis=1), 0.0)


def _densities(expansion: Expansion[Stencil], end: str) -> dict[str, tuple[int, ...]] | None:
    """The q of each atom, by its key, and of the end; None where two ways to a value have different strides."""
    rank = len(next(iter(expansion.atoms.values())).shape) - 2
    found: dict[str, tuple[Fraction, ...]] = {}

    def of_value(terms: Mapping[str, Stencil]) -> tuple[Fraction, ...] | None:
        ways = {
            tuple(fine / stride for fine, stride in zip(found[key], form.strides, strict=True))
            for key, form in terms.items()
        }
        return ways.pop() if len(ways) == 1 else None

    for key, atom in expansion.atoms.items():
        density = (Fraction(1),) * rank if atom.kind is Kind.START else of_value(_argument(expansion, key))
        if density is None:
            return None
        found[key] = density
    last = of_value(expansion.terms[end])
    if last is None:
        return None
    found[end] = last
    least = [math.lcm(*(density[axis].denominator for density in found.values())) for axis in range(rank)]
    return {
        key: tuple(int(part * whole) for part, whole in zip(density, least, strict=True))
        for key, density in found.items()
    }
