"""Building: from a model to the network between a chosen input and output, at the sizes that it may have.

Where the first axis of the inputs counts samples and each sample goes its own way, the network holds one of them, and
its constant is that of any batch. That is proven at two sizes of the batch: in each, every step keeps the samples
apart, and nothing that decides what a step does follows from the batch's size. Other sizes that are not known get an
example, and the steps' constants must then hold for all sizes.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper

from sn_graph.certify.network import Network, Source, agree, sample_axes
from sn_graph.certify.question import FLOATS, Question
from sn_graph.certify.steps import MOST, OpenSize, Operand, Shape, Unbounded
from sn_graph.certify.walk import Walk
from sn_graph.errors import ModelError
from sn_graph.model import Model, Value

# Examples of a size that is not known, the first that the model can take; the second is another, to tell what follows.
EXAMPLES = (32, 64, 28, 224, 16, 8, 4, 2, 128, 256, 299, 512, 12, 1)
# Batches at which it is proven that samples go their own way: at both, and not by chance of one number.
BATCHES = (2, 3)


@dataclass(frozen=True)
class Sizes:
    """The sizes at which a network is made.

    Attributes:
        known: By name, of all dynamic dimensions.
        batch: What the sources' first axis is instead of their own; None for their own.
    """

    known: Mapping[str, int]
    batch: int | None = None


def network_of(
    model: Model,
    *,
    inputs: Sequence[str] = (),
    output: str | None = None,
    dims: Mapping[str, int] | None = None,
) -> Network | Unbounded:
    """Make the network of a model between its inputs and an output; see `Question.of` and `build`."""
    return build(model, Question.of(model, inputs, output, dims))


def build(model: Model, question: Question) -> Network | Unbounded:
    """Make the network that a question is about.

    Returns:
        The network, or the node that leaves it without a bound.

    Raises:
        ModelError: The model can't be used, or a size must be known that is not.
    """
    return _Builder(model, question).build()


class _Builder:
    def __init__(self, model: Model, question: Question) -> None:
        self._model, self._question = model, question

    def build(self) -> Network | Unbounded:
        batch, open_ = self._question.batch(), self._question.unknown()
        samples = batch if isinstance(batch, str) and batch in open_ else None
        rest = [name for name in open_ if name != samples]
        example, other = self._examples(rest, samples)
        if samples is not None:
            first, second = ({**sizes, samples: size} for sizes, size in zip((example, other), BATCHES, strict=True))
            if self._is_apart(Sizes({**example, samples: 1}), Sizes(first), Sizes(second), samples):
                return self._made({**example, samples: 1}, rest, {**other, samples: 1}, samples=1)
            rest = [*rest, samples]
            example, other = first, second
        elif isinstance(batch, int) and batch > 1 and self._is_apart(Sizes(example, 1), Sizes(example), None, ""):
            return self._made(example, rest, other, samples=1, batch=1, whole=batch)
        count = example.get(batch, batch) if isinstance(batch, str) else batch
        return self._made(example, rest, other, samples=int(count or 1), apart=count == 1)

    def _examples(self, names: Sequence[str], samples: str | None) -> tuple[dict[str, int], dict[str, int]]:
        """Return sizes that the model takes, and others."""
        known = {**self._question.dims}
        if not names:
            return known, known
        last: ModelError | None = None
        taken: list[dict[str, int]] = []
        for size in EXAMPLES:
            tried = {**known, **dict.fromkeys(names, size)}
            try:
                self._walk(Sizes({**tried, **({samples: 1} if samples else {})}))
            except ModelError as error:
                last = last or error
                continue
            taken.append(tried)
            if len(taken) == 2:
                return taken[0], taken[1]
        if taken:
            sizes = ", ".join(f"--dim {name}={taken[0][name]}" for name in names)
            raise ModelError("the model does not take every size of its input", do=f"give the sizes, as with {sizes}")
        raise ModelError(
            f"no example of the sizes {', '.join(names)} fits the model",
            last.reason if last is not None else "",
            f"give them with {' '.join(f'--dim {name}=N' for name in names)}",
        )

    def _is_apart(self, one: Sizes, several: Sizes, more: Sizes | None, batch: str) -> bool:
        """Say whether each sample goes its own way, as it does alone.

        Args:
            one: The sizes for a batch of one.
            several: Those for a batch.
            more: Those for a batch of yet another size, the other open sizes being others too; None where the batch's
                size is fixed.
            batch: The name of its size; "" where that is fixed.
        """
        try:
            others = self._walk(one if more is None else more)
            # What follows from the batch's size must decide nothing: it is open here, and a rule that needs it raises.
            walks = [self._walk(several, others[0].shapes, frozenset({batch})), others]
            if more is not None:
                walks.append(self._walk(one))
        except (ModelError, OpenSize):
            return False
        ends = [value for _, value in walks if isinstance(value, Operand)]
        if len(ends) < len(walks):
            return len(ends) == 0  # then there is no constant at all, whatever the batch
        first, second, *third = (
            self._network(walk, end, Sizes({}), 0, False) for (walk, _), end in zip(walks, ends, strict=True)
        )
        if more is None:
            return agree(first, second)
        # Of sizes other than the batch's, the second network has others: samples stand along the same axes there.
        return agree(first, *third) and sample_axes(second) == sample_axes(first)

    def _made(
        self,
        example: Mapping[str, int],
        open_: Sequence[str],
        other: Mapping[str, int],
        *,
        samples: int,
        batch: int | None = None,
        whole: int | None = None,
        apart: bool = True,
    ) -> Network | Unbounded:
        """Make the network at sizes of which some are open."""
        sizes = Sizes(example, batch)
        try:
            others = self._walk(Sizes(other, batch))[0].shapes if open_ else {}
            walk, value = self._walk(sizes, others, frozenset(open_))
        except OpenSize as error:
            raise self.unknown_size(open_, str(error)) from None
        if isinstance(value, Unbounded):
            return value
        return self._network(walk, value, sizes, samples, apart, whole, open_)

    @staticmethod
    def unknown_size(names: Sequence[str], why: str) -> ModelError:
        """Return the error that asks for sizes."""
        return ModelError(
            f"the size {', '.join(names)} of the input is not known",
            why,
            f"give it with {' '.join(f'--dim {name}=N' for name in names)}",
        )

    def _walk(
        self, sizes: Sizes, others: Mapping[str, Shape] | None = None, open_: frozenset[str] = frozenset()
    ) -> tuple[Walk, Operand | Unbounded]:
        question = self._question
        operands: dict[str, Operand] = {}
        for value in question.sources:
            shape = self._shape(value, sizes)
            dtype = helper.tensor_dtype_to_np_dtype(value.element_type)
            operands[value.name] = Operand(value.name, shape, dynamic=self._is_open(value, open_), dtype=dtype)
        for value in question.others:
            operands[value.name] = self._parameter(value, sizes, open_)
        walk = Walk(self._model, operands, others)
        return walk, walk.value(question.output)

    def _is_open(self, value: Value, open_: frozenset[str]) -> bool:
        return "" in open_ or any(key in open_ for key in self._question.sized(value))

    def _shape(self, value: Value, sizes: Sizes) -> Shape:
        keys = self._question.sized(value)
        shape = [sizes.known[key] if isinstance(key, str) else key for key in keys]
        if sizes.batch is not None and keys[:1] == (self._question.batch(),):
            shape[0] = sizes.batch
        if math.prod(shape) > MOST:
            raise ModelError(
                f"input '{value.name}' of shape {shape} has more elements than are made", do="give smaller ones"
            )
        return tuple(shape)

    def _parameter(self, value: Value, sizes: Sizes, open_: frozenset[str]) -> Operand:
        """Return another input as a constant of which nothing but its shape is known."""
        shape = self._shape(value, sizes)
        if value.element_type == TensorProto.UNDEFINED:
            raise ModelError(f"input '{value.name}' is a {value.type}", "for which no rule is known")
        array = _example(value, shape)
        return Operand(
            value.name, shape, array, frozenset({f"input '{value.name}'"}), self._is_open(value, open_), array.dtype
        )

    def _network(
        self,
        walk: Walk,
        value: Operand,
        sizes: Sizes,
        samples: int,
        apart: bool,
        whole: int | None = None,
        open_: Sequence[str] = (),
    ) -> Network:
        question = self._question
        sources = []
        for one in question.sources:
            shape = walk.shapes[one.name]
            stored = shape if whole is None else (whole, *shape[1:])
            sources.append(Source(one.name, shape, stored, helper.tensor_dtype_to_np_dtype(one.element_type)))
        constant = None if value.array is None else np.asarray(value.array, np.float64)
        return Network(
            sources=tuple(sources),
            output=value.name,
            constant=constant,
            steps=() if constant is not None else walk.steps(value.name),
            dynamic=frozenset(walk.dynamic),
            samples=samples,
            is_per_sample=apart,
            parameters={one.name: _example(one, walk.shapes[one.name]) for one in question.others},
            sizes=dict(sizes.known),
            open=tuple(open_),
        )


def _example(value: Value, shape: Shape) -> NDArray[Any]:
    """Return elements for an input that may have any: standard normal floats, zeros, and true."""
    dtype = helper.tensor_dtype_to_np_dtype(value.element_type)
    if value.element_type in FLOATS:
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return np.full(shape, dtype.kind == "b").astype(dtype)
