"""Runs of a session, with onnxruntime's failures turned into one line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.runtime.engine.providers import one_line
from sn_graph.runtime.engine.values import flatten, from_ort_value, is_extended, to_ort_value

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


def run_named(
    session: InferenceSession, feeds: Mapping[str, NDArray[Any]], *, label: str = "the model"
) -> dict[str, NDArray[Any]]:
    """Run a session once; return its outputs by name, in the order of the graph.

    A sequence output `y` gives `y[0]`, `y[1]`, …; a map gives `y.keys` and `y.values`; an optional without a value
    gives nothing.

    Args:
        session: The session.
        feeds: An array for each input, by its name.
        label: What messages call the model.

    Raises:
        ModelError: onnxruntime refuses the feeds or fails in a node, or an output is not made of dense tensors.
    """
    given = session.get_outputs()
    names, types = [output.name for output in given], [output.type for output in given]
    extended = any(is_extended(value.type) for value in [*session.get_inputs(), *given])
    fed = {name: to_ort_value(array) for name, array in feeds.items()} if extended else dict(feeds)
    try:
        outputs = session.run_with_ort_values(names, fed) if extended else session.run(names, fed)
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items()) or "no inputs"
        raise ModelError(
            f"onnxruntime can't run {label} on {shapes}",
            one_line(error),
            "set dynamic sizes with --dim name=SIZE, or give fitting inputs with --inputs file.npz",
        ) from error
    values = [from_ort_value(value) for value in outputs] if extended else outputs
    outputs_of = zip(names, values, types, strict=True)
    return {key: array for output in outputs_of for key, array in flatten(*output)}
