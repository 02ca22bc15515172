"""Calls: a node as its rule sees it: what it reads, how often it is called, and how its steps are made."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.steps.maps import Array, LinearMap, Shape
from sn_graph.certify.steps.step import (
    Bounded,
    Elementwise,
    Function,
    Joined,
    Linear,
    NoBound,
    OpenSize,
    Step,
    Univariate,
)
from sn_graph.errors import ModelError
from sn_graph.model import Node

SIZES = "a size"
"""What the values of a constant depend on, where they follow from a size that is dynamic."""

ROUNDED = "a size, in steps"
"""What they depend on besides, where arithmetic made them that may do something else from some size on."""

MOST = 1 << 27
"""More elements than that are not made for a value: 1 GiB in float64."""

_FLOAT: np.dtype[Any] = np.dtype(np.float32)


@dataclass(frozen=True, eq=False)
class Operand:
    """What a node reads: a value that depends on the chosen input, or a constant.

    Attributes:
        name: The value's name in the network; of a constant, that in the file.
        shape: Its shape.
        array: The elements of a constant, in the type that it has in the graph; None for what depends on the input.
        depends: What a constant's elements follow from, besides what the file holds: `SIZES`, or "input 'mask'".
            `array` are then the elements at the sizes, and for values of those inputs, that the network stands for.
        dynamic: Whether some of its sizes may be others.
        dtype: Its type in the graph.
        open: Which elements of a constant that depends on `SIZES` do; None where all do, or none.
    """

    name: str
    shape: Shape
    array: NDArray[Any] | None = None
    depends: frozenset[str] = frozenset()
    dynamic: bool = False
    dtype: np.dtype[Any] = _FLOAT
    open: NDArray[np.bool_] | None = None

    @property
    def is_float(self) -> bool:
        """Whether its elements are floats."""
        return self.dtype.kind == "f" or self.dtype.name == "bfloat16"

    @property
    def is_constant(self) -> bool:
        """Whether it does not depend on the chosen input."""
        return self.array is not None


@dataclass(frozen=True, eq=False)
class Call:
    """A node with what it reads.

    Attributes:
        node: The node; in a function's body, with the attributes that its caller gives.
        path: Its place as reports write it.
        opset: The version of its operator set.
        operands: What its inputs are, None where one is left out.
        results: The names of its outputs in the network, "" where one is left out.
        evaluate: Returns the outputs of a node for arrays, as onnx's operators compute them.
    """

    node: Node
    path: str
    opset: int
    operands: tuple[Operand | None, ...]
    results: tuple[str, ...]
    evaluate: Callable[[Node, Sequence[NDArray[Any] | None]], Sequence[NDArray[Any]]]

    def given(self, place: int) -> Operand | None:
        """Return an operand; None where it is left out."""
        return self.operands[place] if place < len(self.operands) else None

    def operand(self, place: int) -> Operand:
        """Return an operand that must be there."""
        found = self.given(place)
        if found is None:
            raise ModelError(f"node '{self.path}' lacks its input {place}", do="export or download the model again")
        return found

    def varying(self, place: int = 0) -> Operand:
        """Return an operand that must depend on the input, or can't be handled otherwise."""
        found = self.operand(place)
        if found.is_constant:
            raise NoBound(f"its input {place} is a constant, and no rule is known for that")
        return found

    def constant(self, place: int, what: str = "") -> NDArray[Any]:
        """Return the elements of a constant on which the bound depends; raises NoBound where it is none.

        Args:
            place: Which input.
            what: How to call it: "weight".
        """
        found = self.operand(place)
        called = what or f"input {place}"
        if found.array is None:
            raise NoBound(f"its {called} depends on the network's input")
        self.require_certain(found, called)
        return found.array

    def require_certain(self, operand: Operand, called: str) -> None:
        """Raise where the elements of a constant are those of a size, or of an input, that is not fixed."""
        others = operand.depends - {SIZES, ROUNDED}
        if others:
            known = " and ".join(sorted(others))
            raise NoBound(f"its {called} follows from {known}, whose values are not known")
        if operand.depends:
            raise OpenSize(f"the {called} of {self.path} follows from a size that is dynamic")

    def optional(self, place: int, what: str = "") -> NDArray[Any] | None:
        """Return the elements of a constant as `constant` does; None where it is left out."""
        return None if self.given(place) is None else self.constant(place, what)

    def finite(self, place: int, what: str = "") -> Array:
        """Return the elements of a float constant in float64. Raises ModelError where they hold NaN or infinity."""
        array = np.asarray(self.constant(place, what), np.float64)
        self.require_finite(array, self.operand(place).name)
        return array

    def require_finite(self, array: NDArray[Any], name: str) -> None:
        """Raise ModelError where a constant that a bound rests on holds NaN or infinity."""
        bad = int(array.size - np.count_nonzero(np.isfinite(array)))
        if bad:
            raise ModelError(
                f"'{name}', which node '{self.path}' reads, holds {bad} NaN or infinite values",
                "so the network has no Lipschitz constant",
                "repair the model",
            )

    def offset(self, place: int) -> Array:
        """Return the elements of a constant that moves the result and changes no difference, in float64."""
        operand = self.operand(place)
        array = np.asarray(operand.array, np.float64)
        if np.isinf(array).any():
            raise NoBound(f"its input {place} holds infinite elements", "mask by a large number")
        self.require_finite(array, operand.name)
        return array

    def require_room(self, shape: Sequence[int], what: str = "a value") -> None:
        """Raise ModelError where something would have more elements than are made.

        A few bytes of attributes can ask for terabytes. Rules that make arrays of a size which the node chooses ask
        this before they do; `linear` and `bounded` ask it for every step.

        Args:
            shape: Its shape.
            what: How to call it: "a table of windows".
        """
        if math.prod(shape) > MOST:
            raise ModelError(
                f"node '{self.path}' ({self.node.op_type}) asks for {what} of shape {[int(size) for size in shape]}",
                f"which has more than the {MOST:,} elements that are made at most",
                "give smaller inputs with --dim name=N, or repair its attributes",
            )

    # Making steps

    def linear(
        self,
        parts: Sequence[tuple[Operand, LinearMap]],
        *,
        offset: Array | None = None,
        disjoint: bool = False,
        rule: str = "",
        note: str = "",
        output: int = 0,
    ) -> Linear:
        """Make a linear step of the node out of its operands and what is done to each.

        Raises ValueError where the results, or the offset, do not fit.
        """
        shapes = {part.output_shape for _, part in parts}
        for shape in shapes:
            self.require_room(shape)
        fitting = shapes if offset is None else {np.broadcast_shapes(offset.shape, *shapes)}
        if len(shapes) != 1 or fitting != shapes or any(one.shape != part.input_shape for one, part in parts):
            raise ValueError(
                f"shapes that do not fit: {', '.join(str(list(shape)) for shape in sorted(shapes | fitting))}"
            )
        return Linear(
            node=self.node,
            rule=rule or self.node.op_type,
            operands=tuple(operand.name for operand, _ in parts),
            result=self.results[output],
            shape=parts[0][1].output_shape,
            note=note,
            path=self.path,
            parts=tuple(part for _, part in parts),
            offset=offset,
            disjoint=disjoint,
        )

    def elementwise(
        self,
        low: float | Array,
        high: float | Array,
        apply: Univariate,
        derivative: Univariate,
        *,
        x: Operand | None = None,
        rule: str = "",
        note: str = "",
        parameters: Sequence[Array] = (),
    ) -> Elementwise:
        """Make a step that is one function of each element of an operand, by default the first."""
        operand = self.varying() if x is None else x
        return Elementwise(
            node=self.node,
            rule=rule or self.node.op_type,
            operands=(operand.name,),
            result=self.results[0],
            shape=operand.shape,
            note=note,
            path=self.path,
            low=low,
            high=high,
            apply=apply,
            derivative=derivative,
            parameters=tuple(parameters),
        )

    def bounded(
        self,
        operands: Sequence[Operand],
        shape: Shape,
        function: Function,
        constants: Sequence[float],
        *,
        over_all_sizes: Sequence[float | None] | None = None,
        join: Joined = Joined.SUM,
        mixed: frozenset[int] | None = None,
        rule: str = "",
        note: str = "",
        output: int = 0,
    ) -> Bounded:
        """Make a step of another kind, with its constants."""
        self.require_room(shape)
        return Bounded(
            node=self.node,
            rule=rule or self.node.op_type,
            operands=tuple(operand.name for operand in operands),
            result=self.results[output],
            shape=shape,
            note=note,
            path=self.path,
            function=function,
            constants=tuple(constants),
            over_all_sizes=None if over_all_sizes is None else tuple(over_all_sizes),
            join=join,
            mixed=mixed,
        )

    def renamed(self, place: int, result: str) -> "Call":
        """Return the call with another name for one of its outputs."""
        results = list(self.results)
        results[place] = result
        return replace(self, results=tuple(results))


Made = Step | Sequence[Step] | Operand
"""What a rule gives: the steps of its outputs, or, where the result is a constant or an operand as it is, that."""
