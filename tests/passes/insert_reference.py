"""What an inserted model must give: the iteration in float64, and the original run with its weights divided by σ."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import sn_graph as sn

Array = NDArray[Any]
Feeds = dict[str, Array]
SINGLE = 1e-5  # of the largest value: float32 sums of a few dozen terms, in another order
STEPS = (1, 10, 100)


def newest_opset() -> int:
    """The newest opset that both onnx and onnxruntime know."""
    for opset in range(onnx.defs.onnx_opset_version(), 20, -1):
        graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [value("x", [1])], [value("y", [1])])
        try:
            session(model_of(graph, opset=opset, ir=10))
        except Exception:  # onnxruntime's own error types are not public
            continue
        return opset
    raise AssertionError


def value(name: str, shape: Sequence[int | str] | None, code: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, code, shape)


def model_of(graph: onnx.GraphProto, opset: int = 17, ir: int = 8, **more: Any) -> onnx.ModelProto:
    domains = {"": opset, "com.microsoft": 1, "local": 1}
    opsets = [helper.make_opsetid(domain, version) for domain, version in domains.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=ir, **more)


def network(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Array | onnx.TensorProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str] = ("y",),
    opset: int = 17,
    ir: int = 8,
    dtype: str = "float32",
    functions: Sequence[onnx.FunctionProto] = (),
    integers: Sequence[str] = (),
) -> onnx.ModelProto:
    """A model of these nodes; inputs and outputs are of `dtype`, those in `integers` int64."""
    code = {"float32": 1, "float16": 10, "float64": 11, "bfloat16": 16}[dtype]
    tensors = []
    for name, weight in weights.items():
        tensor = weight if isinstance(weight, onnx.TensorProto) else numpy_helper.from_array(weight)
        tensor.name = name
        tensors.append(tensor)
    graph = helper.make_graph(
        nodes,
        "g",
        [value(name, shape, TensorProto.INT64 if name in integers else code) for name, shape in inputs.items()],
        [value(name, None, code) for name in outputs],
        tensors,
    )
    return model_of(graph, opset, ir, functions=functions)


def session(model: onnx.ModelProto, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def seeded(name: str, length: int, seed: int = 0) -> Array:
    """The rule of the seed: standard normal, of length 1, by the site's id; the state is float32."""
    u = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(length)
    return (u / np.linalg.norm(u)).astype(np.float32).astype(np.float64)


def iterate(m: Array, u: Array, count: int = 1) -> tuple[float, Array]:
    """w = n(Mᵀs), s' = n(M w), σ = ‖M w‖, n(x) = x / max(‖x‖, 1e-12); the state on the rows of M."""
    m, u, sigma = m.astype(np.float64), u.astype(np.float64), 0.0
    for _ in range(count):
        w = m.T @ u
        w = w / max(float(np.linalg.norm(w)), 1e-12)
        t = m @ w
        sigma = float(np.linalg.norm(t))
        u = t / max(sigma, 1e-12)
    return sigma, u


def tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every initializer, and the tensor of every Constant node by its output's name, subgraphs included."""
    for tensor in getattr(graph, "initializer", ()):
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                yield node.output[0], attribute.t
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def divided(model: onnx.ModelProto, sigmas: Mapping[str, float]) -> onnx.ModelProto:
    """A copy with each weight (wherever a constant of that name stands) divided by its σ, in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = set()
    for graph in (copy.graph, *copy.functions):
        for name, tensor in tensors(graph):
            if name in sigmas:
                found.add(name)
                array = numpy_helper.to_array(tensor)
                own = tensor.name
                tensor.CopyFrom(numpy_helper.from_array((array.astype(np.float64) / sigmas[name]).astype(array.dtype)))
                tensor.name = own
    assert found == set(sigmas)
    return copy


def close(actual: Array, expected: Array, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, what
    scale = float(np.abs(expected.astype(np.float64)).max())
    error = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max())
    assert error <= tolerance * scale, f"{what}: {error / scale:.3g} of the largest value"


def check(
    model: onnx.ModelProto,
    matrices: Mapping[str, Array],
    feeds: Feeds,
    *,
    names: Mapping[str, str] | None = None,
    k: int = 1,
    divide: Callable[[float], float] = lambda sigma: sigma,
    tolerance: float = SINGLE,
    state_tolerance: float | None = None,
    steps: Sequence[int] = STEPS,
    seed: int = 0,
    level: str = "ORT_ENABLE_ALL",
    **options: Any,
) -> onnx.ModelProto:
    """Insert, run 100 steps by plain onnxruntime, and compare y, u.next and σ with the reference at some of them.

    Args:
        model, feeds: What is run.
        matrices: For each site's id, in the order of the sites, M with its state on the rows.
        names: For an id that is not the constant's own name: what `divided` finds.
        k, divide: Iterations a run; what the weight is divided by, from σ.
        tolerance: Of outputs; `state_tolerance` of u and σ (the same by default), of the largest value.
        options: Of insert.
    """
    result = sn.insert(model, power_iterations=k, seed=seed, **options)
    inserted = result.to_proto()
    assert [site.id for site in result.sites if site.status == "inserted"] == list(matrices)
    running = session(inserted, level)
    packed = options.get("state_layout", "packed") == "packed"
    u = {name: seeded(name, len(m), seed) for name, m in matrices.items()}
    pairs = {"sn_u": "sn_u.next"} if packed else {f"{name}.sn_u": f"{name}.sn_u.next" for name in matrices}
    state: Feeds = {}
    for name, array in [("sn_u", np.concatenate(list(u.values())))] if packed else [(f"{n}.sn_u", u[n]) for n in u]:
        state[name] = array.astype(np.float32).reshape(-1, 1)
    if options.get("state_mode", "default") == "default":
        defaults = dict(tensors(inserted.graph))
        for name, array in state.items():
            np.testing.assert_array_equal(numpy_helper.to_array(defaults[name]), array)
    outputs = [output.name for output in inserted.graph.output]
    own = [output.name for output in model.graph.output]
    assert outputs[: len(own)] == own
    slack = state_tolerance or tolerance
    sigma = dict.fromkeys(matrices, 0.0)
    for step in range(1, max(steps) + 1):
        given = dict(zip(outputs, running.run(None, {**feeds, **state}), strict=True))
        for name, m in matrices.items():
            sigma[name], u[name] = iterate(m, u[name], k)
        if step in steps:
            by_name = {(names or {}).get(name, name): divide(value) for name, value in sigma.items()}
            expected = session(divided(model, by_name)).run(None, feeds)
            for name, reference in zip(own, expected, strict=True):
                close(given[name], reference, tolerance, f"{name} of step {step}")
            nexts = [given["sn_u.next"]] if packed else [given[f"{name}.sn_u.next"] for name in matrices]
            close(np.concatenate(nexts), np.concatenate(list(u.values())).reshape(-1, 1), slack, f"u of step {step}")
            sigmas = [given["sn_sigma"]] if packed else [given[f"{name}.sn_sigma"] for name in matrices]
            close(np.concatenate(sigmas), np.array(list(sigma.values())), slack, f"σ of step {step}")
        state = {name: given[following] for name, following in pairs.items()}
    return inserted


def evaluated(model: onnx.ModelProto, feeds: Feeds) -> list[Array]:
    """Outputs by onnx's own evaluator, which knows types that onnxruntime has no kernel for."""
    found: list[Array] = ReferenceEvaluator(model).run(None, feeds)
    return found


def drawn(*shape: int, seed: int = 0, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def saved(model: onnx.ModelProto, path: Path) -> Path:
    onnx.save(model, path)
    return path


def constant(output: str, array: Array) -> onnx.NodeProto:
    return helper.make_node("Constant", [], [output], value=numpy_helper.from_array(array))


def branch(name: str, nodes: list[onnx.NodeProto], weights: dict[str, Array] | None = None) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(array, key) for key, array in (weights or {}).items()]
    return helper.make_graph(nodes, name, [], [value(nodes[-1].output[0], None)], tensors)


def function(
    name: str, inputs: list[str], nodes: list[onnx.NodeProto], opset: int = 17, outputs: tuple[str, ...] = ("y",)
) -> onnx.FunctionProto:
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    return helper.make_function("local", name, inputs, list(outputs), nodes, opsets)


def call(name: str, inputs: list[str], output: str) -> onnx.NodeProto:
    return helper.make_node(name, inputs, [output], domain="local")


def strips_to(inserted: onnx.ModelProto, model: onnx.ModelProto) -> None:
    assert sn.strip(inserted).to_proto() == model
    onnx.checker.check_model(shaped(inserted))


def shaped(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose outputs have some shape, as the checker wants it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    waiting = [copy.graph]
    while waiting:
        graph = waiting.pop()
        for output in graph.output:
            output.type.tensor_type.shape.SetInParent()
        waiting += [a.g for one in graph.node for a in one.attribute if a.HasField("g")]
    return copy
