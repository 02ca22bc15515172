"""Checks of certify's rules against onnxruntime, finite differences and random pairs of inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sn_graph.certify import Network, network_of
from sn_graph.certify.product import product_bounds
from sn_graph.certify.steps import Unbounded
from sn_graph.model import Model

Array = NDArray[np.float64]
SCALES = (0.1, 1.0, 10.0)


def one_node(
    op_type: str,
    shape: Sequence[int | str],
    *constants: Any,
    x_at: int = 0,
    outputs: int = 1,
    opset: int = 17,
    domain: str = "",
    **attributes: Any,
) -> onnx.ModelProto:
    """A model of one node that reads the input x, as its input `x_at`, and constants; None leaves an input out."""
    names, held = [], []
    for place, array in enumerate(constants):
        if array is None:
            names.append("")
            continue
        names.append(f"c{place}")
        held.append(numpy_helper.from_array(np.asarray(array), f"c{place}"))
    names.insert(x_at, "x")
    made = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(op_type, names, made, domain=domain, **attributes)
    return whole([node], shape, held, made[0], opset)


def whole(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    held: Sequence[onnx.TensorProto] | Mapping[str, Any] = (),
    output: str = "y",
    opset: int = 17,
) -> onnx.ModelProto:
    """A model from the input x to one output."""
    tensors = (
        [numpy_helper.from_array(np.asarray(array), name) for name, array in held.items()]
        if isinstance(held, Mapping)
        else list(held)
    )
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
        tensors,
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def nodes(*parts: Any, x: Any = (1, 24), held: Any = None, opset: int = 17) -> onnx.ModelProto:
    """A model of (op_type, inputs, output[, attributes]) nodes."""
    made = [helper.make_node(op, inputs, [output], **(rest[0] if rest else {})) for op, inputs, output, *rest in parts]
    return whole(made, x, held or {}, opset=opset)


def network(model: onnx.ModelProto, **options: Any) -> Network:
    made = network_of(Model.open(model), **options)
    assert isinstance(made, Network), made
    return made


def refused(model: onnx.ModelProto, **options: Any) -> Unbounded:
    made = network_of(Model.open(model), **options)
    assert isinstance(made, Unbounded), made
    return made


def constant(made: Network) -> float:
    """What level 1 proves."""
    if made.constant is not None:
        return 0.0
    bounds = product_bounds(made)
    assert not isinstance(bounds, Unbounded), bounds
    return next((one.bound for one in bounds if one.step.result == made.output), 1.0)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, x: Array) -> Array:
    return np.asarray(session(model).run(None, {"x": x.astype(np.float32)})[0], np.float64)


def check(model: onnx.ModelProto, *, tight: bool = False, scales: Sequence[float] = SCALES, **options: Any) -> float:
    """Check a network against onnxruntime and against itself; return the proven constant.

    The forward is that of onnxruntime, to float32's rounding; the push is the forward's difference; push and pull are
    adjoint; no quotient exceeds the constant, and where it is `tight`, power iteration on the Jacobian attains it.
    """
    made = network(model, **options)
    proven = constant(made)
    runtime = session(model)
    rng = np.random.default_rng(0)
    (source,) = made.sources
    best = 0.0
    for scale in scales:
        x = (scale * rng.standard_normal(source.shape)).astype(np.float32).astype(np.float64)
        ours = made.forward(x)
        fed = np.broadcast_to(x, source.stored_shape).astype(np.float32)
        theirs = np.asarray(runtime.run(None, {"x": fed})[0], np.float64)
        if made.samples == 1:  # of several samples that are the same
            theirs = theirs[tuple(slice(0, size) for size in ours.shape)]
        assert ours.shape == theirs.shape
        room = 2e-5 * max(1.0, float(np.abs(theirs).max(initial=0.0)), float(np.abs(x).max(initial=0.0)))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=room)
        best = max(best, check_jacobian(made, x, rng, proven))
    if tight:
        assert best >= proven * (1.0 - 1e-6)
    return proven


def check_jacobian(made: Network, x: Array, rng: np.random.Generator, proven: float) -> float:
    """Check push and pull at a point, and quotients around it; return the largest that was found."""
    values = made.values([x])
    v = rng.standard_normal(x.shape)
    u = rng.standard_normal(made.output_shape)
    moved = made.push(values, [v])
    (back,) = made.pull(values, u)
    size = max(1.0, proven) * float(np.linalg.norm(v) * np.linalg.norm(u))
    assert abs(float((moved * u).sum()) - float((v * back).sum())) <= 1e-12 * size
    step = 1e-6 * max(1.0, float(np.abs(x).max(initial=0.0)))
    ahead, behind = made.forward(x + step * v), made.forward(x - step * v)
    difference = (ahead - behind) / (2.0 * step)
    # A kink between the two ends moves single elements; most agree.
    close = np.isclose(difference, moved, rtol=1e-4, atol=1e-4 * (1.0 + float(np.abs(moved).max(initial=0.0))))
    assert close.mean() >= 0.9 if close.size else True
    best = 0.0
    for _ in range(30):  # power iteration
        length = float(np.linalg.norm(v))
        if length == 0.0:
            break
        moved = made.push(values, [v / length])
        best = max(best, float(np.linalg.norm(moved)))
        (v,) = made.pull(values, moved)
    for size in (1e-3, 0.1, 1.0, 10.0):
        other = x + size * rng.standard_normal(x.shape)
        distance = float(np.linalg.norm(other - x))
        if distance > 0.0:
            quotient = float(np.linalg.norm(made.forward(other) - made.forward(x))) / distance
            best = max(best, quotient)
    assert best <= proven * (1.0 + 1e-9) + 1e-12
    return best
