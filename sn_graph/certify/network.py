"""Networks: what a graph computes between its chosen input and output, as steps in the order of the graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from sn_graph.certify.steps import Array, Shape, Step


@dataclass(frozen=True)
class Source:
    """An input whose changes count.

    Attributes:
        name: As in the model.
        shape: Its shape in the network; the batch axis is 1 long where each sample is proven to go its own way.
        stored_shape: Its shape as the model runs: that of a witness, at the sizes that the network stands for.
        dtype: The type of its elements in the model.
    """

    name: str
    shape: Shape
    stored_shape: Shape
    dtype: np.dtype[Any]


@dataclass(frozen=True, eq=False)
class Network:
    """A graph from one input, or several jointly, to one output.

    Attributes:
        sources: The inputs.
        output: The name of the value that leaves.
        constant: The output's elements, where it does not depend on the sources; else None.
        steps: Every step that the output needs, each behind those that it reads.
        dynamic: The values whose sizes may be others than those that they have here.
        samples: How many samples of the batch the network holds; 1 where each goes its own way.
        is_per_sample: Whether that is proven, so that the constants hold for a batch of any size.
        parameters: Values of the model's other inputs for which the network computes; the constants hold for any.
        sizes: The sizes that dynamic dimensions have here.
        open: The dynamic dimensions for which the constants must hold whatever their size.
    """

    sources: tuple[Source, ...]
    output: str
    constant: Array | None
    steps: tuple[Step, ...]
    dynamic: frozenset[str]
    samples: int
    is_per_sample: bool
    parameters: Mapping[str, Array] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    open: tuple[str, ...] = ()

    @property
    def output_shape(self) -> Shape:
        """The shape of the output."""
        if self.constant is not None:
            return self.constant.shape
        return self.shapes[self.output]

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of each value, by name."""
        found = {source.name: source.shape for source in self.sources}
        found.update((step.result, step.shape) for step in self.steps)
        return found

    def values(self, inputs: Mapping[str, Array] | Sequence[Array]) -> dict[str, Array]:
        """Return all values of the network, float64, for its sources' by name or in their order."""
        given = inputs if isinstance(inputs, Mapping) else dict(zip(self.names, inputs, strict=True))
        found = {source.name: np.asarray(given[source.name], np.float64) for source in self.sources}
        for step in self.steps:
            found[step.result] = step.forward(*(found[name] for name in step.operands))
        return found

    @property
    def names(self) -> tuple[str, ...]:
        """The sources' names."""
        return tuple(source.name for source in self.sources)

    def forward(self, *inputs: Array) -> Array:
        """Return the output for the sources' values."""
        return self.constant if self.constant is not None else self.values(inputs)[self.output]

    def push(self, values: Mapping[str, Array], tangents: Sequence[Array]) -> Array:
        """Return the Jacobian times tangents of the sources, at `values` as `values()` gave them."""
        if self.constant is not None:
            return np.zeros(self.constant.shape)
        found = dict(zip(self.names, tangents, strict=True))
        for step in self.steps:
            operands = [values[name] for name in step.operands]
            found[step.result] = step.push(operands, [found[name] for name in step.operands])
        return found[self.output]

    def pull(self, values: Mapping[str, Array], cotangent: Array) -> tuple[Array, ...]:
        """Return the transposed Jacobian times a cotangent of the output, one array a source."""
        found: dict[str, Array] = {} if self.constant is not None else {self.output: cotangent}
        for step in reversed(self.steps):
            if step.result not in found:
                continue
            operands = [values[name] for name in step.operands]
            for name, part in zip(step.operands, step.pull(operands, found.pop(step.result)), strict=True):
                found[name] = found[name] + part if name in found else part
        return tuple(found.get(source.name, np.zeros(source.shape)) for source in self.sources)


def needed(steps: Sequence[Step], output: str) -> tuple[Step, ...]:
    """Return the steps that a value needs."""
    wanted, kept = {output}, []
    for step in reversed(steps):
        if step.result in wanted:
            kept.append(step)
            wanted.update(step.operands)
    return tuple(reversed(kept))


def sample_axes(network: Network) -> dict[str, int] | None:
    """Follow the samples of the sources' first axes through a network.

    Returns:
        The axis of each value along which they stand, if each sample goes its own way, the same for all; None where
        they meet.
    """
    axes: dict[str, int | None] = {source.name: 0 for source in network.sources}
    for step in network.steps:
        axes[step.result] = step.carry([axes[name] for name in step.operands])
        if axes[step.result] is None:
            return None
    return {name: axis for name, axis in axes.items() if axis is not None}


def agree(first: Network, *others: Network) -> bool:
    """Say whether networks of one model, for a batch and for one sample, do the same to each sample by itself.

    They do where samples go their own way in the first, the others make the same steps, and all values have the same
    shapes there but for the size of the axes along which samples stand. Of one sample those axes can't be told from
    others that are 1 long.
    """
    axes = sample_axes(first)
    return axes is not None and all(_is_alike(first, axes, other) for other in others)


def _is_alike(first: Network, axes: Mapping[str, int], other: Network) -> bool:
    """Say whether a network is another one for another batch."""
    kinds = [[(step.result, step.rule, type(step)) for step in network.steps] for network in (first, other)]
    batch, shapes = other.sources[0].shape[0], other.shapes
    if kinds[0] != kinds[1] or shapes.keys() != axes.keys():
        return False
    return all(
        shapes[name] == (*shape[: axes[name]], batch, *shape[axes[name] + 1 :]) for name, shape in first.shapes.items()
    )
