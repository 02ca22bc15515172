"""Runs: models run by plain onnxruntime and by sessions, against the oracle."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

import sn_graph as sn
from sn_graph import proofs
from sn_graph.model import Model
from sn_graph.passes import Insert, InsertOptions, PassResult
from sn_graph.plan import make_plan
from sn_graph.rewrite.insertion import StateLayout, StateMode
from sn_graph.runtime.session import StatefulSession
from tests.support.builders import Array, model_of, node, saved, value
from tests.support.networks import discriminator
from tests.support.oracle import power_iteration, seeded

Feeds = dict[str, Array]
LAYOUTS, MODES = list(StateLayout), list(StateMode)
STEPS = (1, 10, 100)
SINGLE = 1e-5  # of the largest value: float32 sums of a few dozen terms, in another order


ONNXRUNTIME = tuple(map(int, onnxruntime.__version__.split(".")[:2]))


# Plain runs


def session(model: onnx.ModelProto, level: str = "ORT_ENABLE_ALL") -> onnxruntime.InferenceSession:
    options = one_thread()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def one_thread() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return options


def run(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs without optimizations, which may round in another way."""
    outputs: list[Array] = session(model, "ORT_DISABLE_ALL").run(None, feeds)
    return outputs


def evaluated(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs by onnx's own evaluator, which knows types that onnxruntime has no kernel for."""
    found: Any = ReferenceEvaluator(model).run(None, dict(feeds))
    return list(found)


def newest_opset() -> int:
    """The newest opset that both onnx and onnxruntime know."""
    for opset in range(onnx.defs.onnx_opset_version(), 20, -1):
        graph = onnx.helper.make_graph([node("Relu", ["x"])], "g", [value("x", [1])], [value("y", [1])])
        try:
            session(model_of(graph, opset, 10))
        except Exception:  # onnxruntime's own error types are not public
            continue
        return opset
    raise AssertionError


def close(actual: Array, expected: Array, tolerance: float, what: str) -> None:
    assert actual.shape == expected.shape, what
    scale = float(np.abs(expected.astype(np.float64)).max())
    error = float(np.abs(actual.astype(np.float64) - expected.astype(np.float64)).max())
    assert error <= tolerance * scale, f"{what}: {error / scale:.3g} of the largest value"


def run_by_name(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs by name, with optimizations."""
    running = session(model)
    names = [output.name for output in running.get_outputs()]
    return dict(zip(names, running.run(names, dict(feeds)), strict=True))


# Folded models


def fold_file(proto: onnx.ModelProto, folder: Path, **options: Any) -> tuple[onnx.ModelProto, PassResult]:
    """Fold by a file, and prove the file as the command does; return what was written."""
    result = sn.fold(saved(proto, folder / "in.onnx"), **options)
    assert proofs.save(result, folder / "out.onnx").verified == "run"
    written = onnx.load(folder / "out.onnx")
    onnx.checker.check_model(written)
    return written, result


# Inserted models


def tensors(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    """Every initializer, and the tensor of every Constant node by its output's name, subgraphs included."""
    for tensor in getattr(graph, "initializer", ()):
        yield tensor.name, tensor
    for one in graph.node:
        for attribute in one.attribute:
            if one.op_type == "Constant" and attribute.name == "value":
                yield one.output[0], attribute.t
            if attribute.HasField("g"):
                yield from tensors(attribute.g)


def divided(model: onnx.ModelProto, sigmas: Mapping[str, float]) -> onnx.ModelProto:
    """A copy with each weight (wherever a constant of that name stands) divided by its σ, in float64."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    found = set()
    held: list[onnx.GraphProto | onnx.FunctionProto] = [copy.graph, *copy.functions]
    for graph in held:
        for name, tensor in tensors(graph):
            if name in sigmas:
                found.add(name)
                array = numpy_helper.to_array(tensor)
                own = tensor.name
                tensor.CopyFrom(numpy_helper.from_array((array.astype(np.float64) / sigmas[name]).astype(array.dtype)))
                tensor.name = own
    assert found == set(sigmas)
    return copy


def check(
    model: onnx.ModelProto,
    matrices: Mapping[str, Array],
    feeds: Mapping[str, Array],
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
    u: dict[str, Array] = {name: seeded(name, len(m), seed) for name, m in matrices.items()}
    pairs = {"sn_u": "sn_u.next"} if packed else {f"{name}.sn_u": f"{name}.sn_u.next" for name in matrices}
    state: Feeds = {}
    for name, array in [("sn_u", np.concatenate(list(u.values())))] if packed else [(f"{n}.sn_u", u[n]) for n in u]:
        state[name] = array.reshape(-1, 1)
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
            sigma[name], u[name] = power_iteration(m, u[name], k)
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


# Sessions


def inserted(
    source: onnx.ModelProto | Model,
    layout: StateLayout = StateLayout.PACKED,
    mode: StateMode = StateMode.DEFAULT,
    seed: int = 0,
    **parameters: Any,
) -> Model:
    """What Insert makes of a model, by Keras's convention; `parameters` are the plan's."""
    model = Model.open(source)
    plan = replace(make_plan(model, convention="keras"), **parameters)
    return Insert(InsertOptions(layout=layout, mode=mode, seed=seed))(model, plan).model


def stateful(
    layout: StateLayout = StateLayout.PACKED, mode: StateMode = StateMode.DEFAULT, **parameters: Any
) -> StatefulSession:
    """A session of `discriminator`, inserted."""
    return StatefulSession(inserted(discriminator(), layout, mode, **parameters), session_options=one_thread())


def assert_same_state(
    left: StatefulSession | Mapping[str, Array], right: StatefulSession | Mapping[str, Array]
) -> None:
    ours, theirs = (side.state() if isinstance(side, StatefulSession) else side for side in (left, right))
    assert list(ours) == list(theirs)
    for name in ours:
        np.testing.assert_array_equal(ours[name], theirs[name])
