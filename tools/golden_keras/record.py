"""Record what SpectralNormalization does to each case, and tf2onnx's export of the layer: runs inside a generation.

    python -m tools.golden_keras.record GENERATION OUT.npz

Which Keras that is, the environment decides (environments.py); nothing of sn-graph is imported. Every case has the keys

    <case>/input, <case>/kernel, <case>/u, <case>/onnx      before the first call; the model's bytes
    <case>/k<K>/step<N>/output, …/kernel, …/u               after N calls with training=True, K iterations each
    versions                                                of the packages that made them
"""

from __future__ import annotations

import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
import tf2onnx

from tools.export_models.renumber import renumber
from tools.golden_keras.cases import LIVE, POWER_ITERATIONS, STEPS, Case, cases_of

Golden = dict[str, np.ndarray[Any, Any]]
layers = tf.keras.layers
OPSET = 15  # tf2onnx's default
FAR = 1_000_000  # beyond tf2onnx's own counters; renumber makes small numbers of these


def package() -> str:
    """Return the package that tf.keras is here: keras (2 or 3) or tf_keras."""
    return str(layers.Layer.__module__).split(".")[0]


def generation() -> str:
    """Return which generation runs here: "2.15", "2.21" (tf_keras) or "3"."""
    major, minor, *_ = version(package()).split(".")
    return LIVE if major == LIVE else f"{major}.{minor}"


def versions() -> list[str]:
    """Return the packages that made the records, with their versions."""
    names = dict.fromkeys((package().replace("_", "-"), "tensorflow-cpu", "tf2onnx", "numpy"))
    return [f"{name} {version(name)}" for name in names]


def record(case: Case) -> Golden:
    """Record a case with each number of power iterations, always from the same kernel and u."""
    x = case.input()
    golden: Golden = {f"{case.name}/input": x}
    for iterations in POWER_ITERATIONS:
        wrapper = build(case, x, iterations)
        if iterations == POWER_ITERATIONS[0]:
            golden[f"{case.name}/kernel"] = wrapper.kernel.numpy()
            golden[f"{case.name}/u"] = wrapper.vector_u.numpy()
            golden[f"{case.name}/onnx"] = np.frombuffer(export(wrapper.layer, x), np.uint8)
        for step in range(1, max(STEPS) + 1):
            y = wrapper(tf.constant(x), training=True)
            if step in STEPS:
                require_stored(wrapper, x, y)
                prefix = f"{case.name}/k{iterations}/step{step}"
                golden[f"{prefix}/output"] = y.numpy()
                golden[f"{prefix}/kernel"] = wrapper.kernel.numpy()
                golden[f"{prefix}/u"] = wrapper.vector_u.numpy()
    return golden


def build(case: Case, x: np.ndarray[Any, Any], iterations: int) -> Any:
    """Return the wrapped layer with the case's own kernel, u and bias."""
    wrapper = layers.SpectralNormalization(getattr(layers, case.layer)(**case.arguments), power_iterations=iterations)
    wrapper(tf.constant(x), training=False)  # builds it
    bias = getattr(wrapper.layer, "bias", None)
    kernel, u, offset = case.weights(tuple(wrapper.kernel.shape), () if bias is None else tuple(bias.shape))
    wrapper.kernel.assign(kernel)
    wrapper.vector_u.assign(u)
    if bias is not None:
        bias.assign(offset)
    return wrapper


def require_stored(wrapper: Any, x: np.ndarray[Any, Any], y: Any) -> None:
    """Refuse a generation whose inference is not the last training call's, bit for bit: the records stand for both."""
    if not np.array_equal(wrapper(tf.constant(x), training=False).numpy(), y.numpy()):
        raise ValueError(f"{wrapper.layer.name}: training=False does not use the kernel that training=True stored")


def export(layer: Any, x: np.ndarray[Any, Any]) -> bytes:
    """Return tf2onnx's export of a layer without its wrapper, opset 15, dynamic batch, input "x", output "y"."""
    signature = [tf.TensorSpec((None, *x.shape[1:]), x.dtype, name="x")]
    # A grouped convolution is compiled by XLA otherwise, and exports as a call of a function that ONNX lacks.
    tf.config.run_functions_eagerly(True)
    try:
        function = tf.function(lambda x: {"y": layer(x)}, input_signature=signature)
        model, _ = tf2onnx.convert.from_function(function, input_signature=signature, opset=OPSET)
    finally:
        tf.config.run_functions_eagerly(False)
    model.ClearField("doc_string")
    order_nodes(model.graph)
    name_integers(model)
    renumber(model)
    onnx.checker.check_model(model, full_check=True)
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def order_nodes(graph: onnx.GraphProto) -> None:
    """Put the nodes in the order in which the outputs need them: tf2onnx walks sets, and two runs may differ."""
    producers = {name: node for node in graph.node for name in node.output}
    ordered: list[onnx.NodeProto] = []

    def visit(name: str) -> None:
        node = producers.get(name)
        if node is not None and not any(node is one for one in ordered):
            for needed in node.input:
                visit(needed)
            ordered.append(node)

    for output in graph.output:
        visit(output.name)
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered]
    del graph.node[:]
    graph.node.extend(kept)


def name_integers(model: onnx.ModelProto) -> None:
    """Number the integer constants: tf2onnx names them by addresses, and after either of two equal ones."""
    integers = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.INT64}
    names: dict[str, str] = {}
    for node in model.graph.node:
        for place, name in enumerate(node.input):
            if name in integers:
                node.input[place] = names.setdefault(name, f"integers__{FAR + len(names)}")
    for tensor in model.graph.initializer:
        tensor.name = names.get(tensor.name, tensor.name)


def main(expected: str, path: Path) -> None:
    """Record every case into `path`. Raises SystemExit where another generation is installed than `expected`."""
    if generation() != expected:
        raise SystemExit(f"this environment holds Keras {generation()}, not {expected}; give the Python that has it")
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    # Any: to its types savez would take one of the arrays for its own flag
    golden: dict[str, Any] = {"versions": np.array(versions())}
    for case in cases_of(expected):
        golden |= record(case)
    np.savez_compressed(path, **golden)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
