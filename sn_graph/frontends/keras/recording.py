"""The kernels of a Keras model as tensors from outside: which they are, and how layers come to read them.

A wrapped kernel has one slot for each call of its layer, so that calls can be told apart, and one more for readings
outside of the wrapper. Nothing is assigned: the model stays as it is.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.frontends.keras.frameworks import Generation, require
from sn_graph.frontends.keras.wrappers import Wrapper, walk_layers

OUTSIDE = -1  # the "call" that stands for readings outside of the wrapper


@dataclass(frozen=True, eq=False)
class Kernel:
    """A kernel that becomes an input of the traced function.

    Attributes:
        name: Of the initializer that it will be.
        variable: The framework's variable.
        layer: The layer that owns it, inside the wrapper where there is one.
        wrapper: The SpectralNormalization around it, or None.
    """

    name: str
    variable: Any
    layer: Any
    wrapper: Wrapper | None = None


@dataclass(frozen=True)
class Slot:
    """An input of the converted graph that stands for a kernel: by its index, in one call of its wrapper."""

    kernel: int
    call: int

    @property
    def name(self) -> str:
        """The name of the input."""
        return f"sn_kernel_{self.kernel}_{'outside' if self.call == OUTSIDE else self.call}"


def kernels_of(model: Any, wrapped: Sequence[Wrapper]) -> tuple[Kernel, ...]:
    """Return the kernels to trace as inputs: every wrapped one, and those of convolutions.

    The latter, so that they come out as they are, because a BatchNormalization behind would be fused into them.
    """
    found = {
        id(wrapper.variable): Kernel(wrapper.weight, wrapper.variable, wrapper.layer.layer, wrapper)
        for wrapper in wrapped
    }
    for path, layer in walk_layers(model):
        for attribute in ("kernel", "depthwise_kernel", "pointwise_kernel") if _is_convolution(layer) else ():
            variable = getattr(layer, attribute, None)
            if variable is not None and hasattr(variable, "dtype") and "float" in str(variable.dtype):
                found.setdefault(id(variable), Kernel(f"{path}/{attribute}", variable, layer))
    return tuple(found.values())


def _is_convolution(layer: object) -> bool:
    return any(
        kind.__name__ in _CONVOLUTIONS and kind.__module__.split(".")[0] in ("keras", "tf_keras")
        for kind in type(layer).__mro__
    )


_CONVOLUTIONS = frozenset(
    {"BaseConv", "BaseConvTranspose", "BaseDepthwiseConv", "BaseSeparableConv"}  # Keras 3
    | {"Conv", "DepthwiseConv", "SeparableConv"}  # tf_keras
)


class Recorder:
    """Gives the layers their kernels' tensors while a model is traced, and notes each call of a wrapper."""

    def __init__(self, kernels: Sequence[Kernel], expected: Sequence[int]) -> None:
        self._kernels = kernels
        self.slots = [Slot(place, call) for place, count in enumerate(expected) for call in (*range(count), OUTSIDE)]
        self.counts = [0] * len(kernels)
        self.calls: list[Slot] = []
        self.outputs: list[str] = []
        self.refusal: ModelError | None = None  # kept here, because Keras wraps what is raised inside a call
        self.truncated: list[str] = []  # wrappers whose output Keras casts to integers

    @contextmanager
    def substituted(self, generation: Generation, tensors: Sequence[Any]) -> Iterator[None]:
        """Let every layer read its tensors in place of its variable."""
        self.counts, self.calls = [0] * len(self._kernels), []
        self.truncated = []
        given = dict(zip(self.slots, tensors, strict=True))
        with ExitStack() as stack:
            assigners = _keras_3_assigners if generation is Generation.KERAS_3 else _legacy_assigners
            for place, assign in enumerate(stack.enter_context(assigners(self._kernels))):
                assign(given[Slot(place, OUTSIDE)])
                wrapper = self._kernels[place].wrapper
                if wrapper is not None:
                    stack.enter_context(patched_call(wrapper.layer, self._watch(place, wrapper, given, assign)))
            yield

    def _watch(
        self, place: int, wrapper: Wrapper, given: dict[Slot, Any], assign: Callable[[Any], None]
    ) -> Callable[..., Any]:
        tf = require("tensorflow", "a Keras model")
        original, graph = wrapper.layer.call, tf.compat.v1.get_default_graph()

        def call(*args: Any, **kwargs: Any) -> Any:
            if tf.compat.v1.get_default_graph() is not graph or _in_vectorized_map(args, kwargs):
                self.refusal = ModelError(
                    f"layer '{wrapper.path}' is called inside a loop or branch, where each turn would normalize it "
                    "again, and no plan can say that",
                    do="call it outside",
                )
            if training_of(args, kwargs) is True:
                self.refusal = ModelError(
                    f"layer '{wrapper.path}' is called with training=True in inference too, and no file can hold that",
                    do="pass on the model's own training argument",
                )
            if self.refusal is not None:
                raise self.refusal
            slot = Slot(place, self.counts[place])
            self.counts[place] += 1
            self.calls.append(slot)
            outside = given[Slot(place, OUTSIDE)]
            assign(given.get(slot, outside))
            try:
                result = original(*args, **kwargs)
            finally:
                assign(outside)
            if not result.dtype.is_floating:
                self.truncated.append(wrapper.path)
            return result

        unconverted: Callable[..., Any] = tf.autograph.experimental.do_not_convert(call)
        return unconverted


def training_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """Return the `training` of a SpectralNormalization's call."""
    return kwargs.get("training", args[1] if len(args) > 1 else False)


def _in_vectorized_map(*arguments: Any) -> bool:
    """Say whether a call is the one that tf.vectorized_map makes for all turns: it depends on their placeholder."""
    tf = require("tensorflow", "a Keras model")
    waiting = [value.op for value in tf.nest.flatten(arguments) if hasattr(value, "op")]
    seen = set()
    while waiting:
        operation = waiting.pop()
        if operation.type == "PlaceholderWithDefault":
            return True
        if operation.name not in seen:
            seen.add(operation.name)
            waiting += [tensor.op for tensor in operation.inputs]
    return False


_Assigners = list[Callable[[Any], None]]


@contextmanager
def _keras_3_assigners(kernels: Sequence[Kernel]) -> Iterator[_Assigners]:
    """Give a function for each kernel that lets its variable read as a tensor, for as long as the context lasts."""
    keras = require("keras", "a Keras model")
    with keras.StatelessScope() as scope:
        yield [
            lambda tensor, variable=kernel.variable: scope.add_update((variable, tensor))  # type: ignore[misc]
            for kernel in kernels
        ]


@contextmanager
def _legacy_assigners(kernels: Sequence[Kernel]) -> Iterator[_Assigners]:
    """As `_keras_3_assigners`: tf_keras has no such scope, so the layer's attribute is exchanged and put back."""
    tf = require("tensorflow", "a Keras model")
    holders = [_holder(kernel) for kernel in kernels]

    def assigner(holder: tuple[Any, str] | None) -> Callable[[Any], None]:
        def assign(tensor: Any) -> None:
            if holder is not None:
                layer, attribute = holder
                # Past Layer.__setattr__, which would track it. Under mixed precision the variable casts itself.
                layer.__dict__[attribute] = tf.cast(tensor, layer.compute_dtype)

        return assign

    try:
        yield [assigner(holder) for holder in holders]
    finally:
        for kernel, holder in zip(kernels, holders, strict=True):
            if holder is not None:
                layer, attribute = holder
                layer.__dict__[attribute] = kernel.variable


def _holder(kernel: Kernel) -> tuple[Any, str] | None:
    """Return the layer and attribute that hold a kernel; None for one that is not wrapped, which does not matter."""
    for layer in (kernel.layer, *kernel.layer.submodules):
        for attribute, value in vars(layer).items():
            if value is kernel.variable:
                return layer, attribute
    if kernel.wrapper is None:
        return None
    raise ModelError(
        f"'{kernel.name}' is not an attribute of its layer",
        "so it can't be followed",
        "give the layer a `kernel`",
    )


@contextmanager
def patched_call(layer: Any, call: Callable[..., Any]) -> Iterator[None]:
    """Let a layer take its calls by another function, for as long as the context lasts."""
    before = layer.__dict__.get("call")
    layer.__dict__["call"] = call  # past Layer.__setattr__, which would track it
    try:
        yield
    finally:
        del layer.__dict__["call"]
        if before is not None:
            layer.__dict__["call"] = before
