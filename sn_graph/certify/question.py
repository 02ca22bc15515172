"""Questions: between which inputs and output of a model, at which sizes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import TensorProto

from sn_graph.errors import ModelError, UsageError
from sn_graph.model import Model, Value, describe
from sn_graph.state import read_inserted

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16})


@dataclass(frozen=True)
class Question:
    """What is asked of a model.

    Attributes:
        sources: The inputs whose changes count.
        others: The other inputs, which may have any value.
        output: The name of the output.
        dims: Sizes of dynamic dimensions by name.
    """

    sources: tuple[Value, ...]
    others: tuple[Value, ...]
    output: str
    dims: Mapping[str, int]

    @classmethod
    def of(cls, model: Model, inputs: Sequence[str], output: str | None, dims: Mapping[str, int] | None) -> "Question":
        """Choose the inputs and the output.

        Args:
            model: The model.
            inputs: The inputs whose changes count, jointly; none for the only float input that there is.
            output: The output; None for the only one.
            dims: Sizes of dynamic dimensions by name; `input[axis]` for one without a name.

        Raises:
            ModelError: The question is open, or insert wrote the model.
            UsageError: An input, output or dimension is unknown.
        """
        if read_inserted(model) is not None:
            raise ModelError(
                f"{model.name} was written by insert, and its weights move with u",
                "so no constant holds from run to run",
                "fold it, or strip it, and certify the result",
            )
        values, ends = _ends(model)
        floats = [value for value in values if value.element_type in FLOATS]
        sources = _chosen("input", inputs, floats, values)
        if len(sources) > 1 and not inputs:
            names = ", ".join(value.name for value in sources)
            raise ModelError(
                f"{model.name} has several float inputs: {names}",
                "and their constants are different",
                "name one with --input, or several for that of all jointly",
            )
        wanted = [value for value in ends if value.element_type in FLOATS] or ends
        targets = _chosen("output", [] if output is None else [output], wanted, ends)
        if len(targets) > 1:
            names = ", ".join(value.name for value in targets)
            raise ModelError(
                f"{model.name} has several outputs: {names}",
                "and their constants are different",
                "name one with --output",
            )
        found = cls(
            tuple(sources), tuple(value for value in values if value not in sources), targets[0].name, dims or {}
        )
        found._require_known_dims()
        return found

    @property
    def names(self) -> str:
        """The names of the sources."""
        return ", ".join(value.name for value in self.sources)

    def _require_known_dims(self) -> None:
        names = self.unknown(everything=True)
        for name, size in self.dims.items():
            if name not in names:
                known = f"choose from {', '.join(sorted(names))}" if names else "all its sizes are known"
                raise UsageError(f"no input of the model has a dynamic dimension '{name}'", do=known)
            if size < 1:
                raise UsageError(f"dimension '{name}' can't have the size {size}", do="give 1 or more")

    def keys(self, value: Value) -> tuple[int | str, ...]:
        """Return the dimensions of an input: a number, or the name of a dynamic one: its own, or `input[axis]`."""
        if value.shape is None:
            raise ModelError(
                f"input '{value.name}' has no rank", "so the network has no sizes", "export the model with its shapes"
            )
        return tuple(dim if dim is not None else f"{value.name}[{axis}]" for axis, dim in enumerate(value.shape))

    def unknown(self, everything: bool = False) -> list[str]:
        """Return the names of dynamic dimensions without a size in `dims`, in the order of the inputs."""
        values = (*self.sources, *(value for value in self.others if value.shape is not None))
        found = dict.fromkeys(key for value in values for key in self.keys(value) if isinstance(key, str))
        return [name for name in found if everything or name not in self.dims]

    def batch(self) -> int | str | None:
        """Return the first dimension of the sources, where they all have the same; None where not."""
        first = {self.sized(value)[:1] for value in self.sources}
        (only,) = first if len(first) == 1 else ((),)
        return only[0] if only else None

    def sized(self, value: Value) -> tuple[int | str, ...]:
        """Return the dimensions of an input with the sizes of `dims` filled in."""
        return tuple(self.dims.get(key, key) if isinstance(key, str) else key for key in self.keys(value))


def float_names(model: Model) -> tuple[list[str], list[str]]:
    """Return the names of a model's float inputs, and of its float outputs."""
    inputs, outputs = ([value.name for value in part if value.element_type in FLOATS] for part in _ends(model))
    return inputs, outputs


def _ends(model: Model) -> tuple[list[Value], list[Value]]:
    """Return what is fed to a model, and what it gives."""
    graph = model.proto.graph
    held = {tensor.name for tensor in graph.initializer} | {one.values.name for one in graph.sparse_initializer}
    outputs = {info.name: describe(info) for info in graph.output}
    return [describe(info) for info in graph.input if info.name not in held], list(outputs.values())


def _chosen(what: str, names: Sequence[str], floats: Sequence[Value], values: Sequence[Value]) -> list[Value]:
    if not names:
        if not floats:
            raise ModelError(
                f"the model has no {'float ' if what == 'input' else ''}{what}",
                "so it has no Lipschitz constant",
                "certify the part that reads floats, behind what looks up or converts" if what == "input" else "",
            )
        return list(floats)
    known = {value.name: value for value in values}
    chosen = []
    for name in dict.fromkeys(names):
        if name not in known:
            raise UsageError(f"the model has no {what} '{name}'", do=f"choose from {', '.join(known) or 'nothing'}")
        if what == "input" and known[name] not in floats:
            raise UsageError(
                f"input '{name}' is {known[name].type}, whose changes have no size",
                do=f"choose from {', '.join(value.name for value in floats) or 'nothing'}",
            )
        chosen.append(known[name])
    return chosen
