"""Witnesses: the two inputs of a network that attain the lower end of its constant."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.attained import search
from sn_graph.certify.network import Network
from sn_graph.certify.steps import Array, Linear
from sn_graph.progress import Progress, silent


@dataclass(frozen=True, eq=False)
class Witness:
    """Two inputs of a model, each array by its input's name and shaped as it.

    Attributes:
        x0, x1: The inputs that count, in the model's types.
        parameters: The model's other inputs, the same in both.
        quotient: ‖f(x1) − f(x0)‖ / ‖x1 − x0‖.
    """

    x0: Mapping[str, NDArray[Any]]
    x1: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, NDArray[Any]]
    quotient: float


# Products of a convolution that one evaluation may take, for each second of the search, which needs some of them.
RATE = 1e8


class _Evaluated:
    """A network at an input that is one vector: see `attained.Evaluated`."""

    def __init__(self, network: Network, x: Array) -> None:
        self._network = network
        with np.errstate(all="ignore"):
            self._values = network.values(_split(network, x))

    @property
    def output(self) -> Array:
        return self._values[self._network.output].reshape(-1)

    def pull(self, cotangent: Array) -> Array:
        with np.errstate(all="ignore"):
            parts = self._network.pull(self._values, cotangent.reshape(self._network.output_shape))
        return np.concatenate([part.reshape(-1) for part in parts])


def witnesses(network: Network, seconds: float, progress: Progress = silent) -> list[Witness]:
    """Search for inputs whose outputs lie far apart, for so long; the best first, none where none was found.

    The quotients are those of the network in float64, at inputs rounded to the model's types.
    """
    length = sum(int(np.prod(source.shape)) for source in network.sources)
    if length == 0 or network.constant is not None or 0 in network.output_shape:
        return []
    products = sum(part.products for step in network.steps if isinstance(step, Linear) for part in step.parts)
    if products > RATE * seconds:
        return []
    found = search(lambda x: _Evaluated(network, x), length, seconds, progress=progress)
    made = [measured(network, *(_split(network, end) for end in one.ends)) for one in found]
    return sorted((one for one in made if one.quotient > 0.0), key=lambda one: -one.quotient)


def measured(network: Network, first: Sequence[Array], second: Sequence[Array]) -> Witness:
    """Return two inputs of a network as a witness: rounded to the model's types, as long as its batch, and measured.

    Args:
        network: The network.
        first, second: An array a source.
    """
    with np.errstate(all="ignore"):
        ends = [
            [part.astype(source.dtype) for part, source in zip(parts, network.sources, strict=True)]
            for parts in (first, second)
        ]
        wide = [[part.astype(np.float64) for part in parts] for parts in ends]
        quotient = quotient_of(*zip(*wide, strict=True), [network.forward(*parts) for parts in wide])
    x0, x1 = (dict(zip(network.names, parts, strict=True)) for parts in ends)
    return _whole(network, Witness(x0, x1, network.parameters, quotient))


def quotient_of(*pairs: Sequence[NDArray[Any]]) -> float:
    """Return how far the last pair of arrays lies apart, by how far those before it do together, or 0."""
    *inputs, outputs = pairs
    moved = distance_of(inputs)
    quotient = distance_of([outputs]) / moved if moved > 0.0 else 0.0
    return quotient if math.isfinite(quotient) else 0.0


def distance_of(pairs: Iterable[Sequence[NDArray[Any]]]) -> float:
    """Return how far pairs of arrays lie apart, together."""
    with np.errstate(all="ignore"):
        return math.hypot(*(float(np.linalg.norm(np.subtract(b, a, dtype=np.float64))) for a, b in pairs))


def _whole(network: Network, witness: Witness) -> Witness:
    """Return a witness of one sample as inputs of the model: the other samples are the same in both."""
    x0, x1 = dict(witness.x0), dict(witness.x1)
    for source in network.sources:
        if source.shape != source.stored_shape:
            first = np.broadcast_to(x0[source.name], source.stored_shape).copy()
            second = first.copy()
            second[:1] = x1[source.name]
            x0[source.name], x1[source.name] = first, second
    return replace(witness, x0=x0, x1=x1)


def _split(network: Network, x: Array) -> list[Array]:
    parts, start = [], 0
    for source in network.sources:
        size = int(np.prod(source.shape))
        parts.append(x[start : start + size].reshape(source.shape))
        start += size
    return parts
