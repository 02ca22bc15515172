"""Baked weights, against the runs of the inserted model that they are taken from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from sn_graph.bake import bake, fold_inserted
from sn_graph.errors import ModelError
from sn_graph.inserted import read_inserted, site_vectors
from sn_graph.insertion import StateLayout
from sn_graph.model import Model
from sn_graph.passes.insert import Insert, InsertOptions
from sn_graph.plan import make_plan
from sn_graph.runtime.session import StatefulSession
from sn_graph.state import skeleton_hash
from tests.inserted import (
    LAYOUTS,
    SHAPES,
    branched,
    inserted,
    network,
    one_thread,
    quantized,
    weights,
    x_of,
)

# Bake


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_baked_weights_are_those_of_the_last_run(layout: StateLayout, dtype: str, tmp_path: Path) -> None:
    values = weights(dtype)
    running = StatefulSession(inserted(network(values, dtype), layout))
    for _ in range(4):
        last = running.run(None, {"x": x_of(dtype=dtype)})
    running.bake(tmp_path / "baked.onnx")
    baked = onnx.load(tmp_path / "baked.onnx")
    assert skeleton_hash(Model.open(baked)) == skeleton_hash(Model.open(network(values, dtype)))
    eps = float(np.finfo(dtype).eps)
    for tensor in baked.graph.initializer:
        if tensor.name in values:
            back = numpy_helper.to_array(tensor).astype(np.float64) * running.sigma[tensor.name]
            np.testing.assert_allclose(back, values[tensor.name], rtol=2 * eps, atol=1e-7 if dtype == "float16" else 0)
    found = ort.InferenceSession(tmp_path / "baked.onnx", one_thread()).run(None, {"x": x_of(dtype=dtype)})
    for ours, theirs in zip(found, last, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=20 * eps * float(np.abs(theirs).max()))


def test_bake_follows_bound_and_clip() -> None:
    model = inserted(network(weights()), bound=2.7, clip=True)
    running = StatefulSession(model)
    last = running.run(None, {"x": x_of()})[0]
    sigma = running.sigma
    assert {name: norm > 2.7 for name, norm in sigma.items()} == dict(zip(sigma, [True, False, True], strict=True))
    result = fold_inserted(model, sigma)
    assert [site.status for site in result.sites] == ["folded", "unchanged", "folded"]
    found = ort.InferenceSession(result.to_proto().SerializeToString(), one_thread()).run(["y"], {"x": x_of()})[0]
    np.testing.assert_allclose(found, last, rtol=0, atol=1e-5 * float(np.abs(last).max()))


@pytest.mark.parametrize("make", [quantized, branched])
def test_bake_of_quantized_and_captured_weights(make: Callable[[], onnx.ModelProto]) -> None:
    model = inserted(make())
    running, x = StatefulSession(model), {"x": np.linspace(-1, 2, 6, dtype=np.float32).reshape(1, 6)}
    last = running.run(None, x)[0]
    baked = bake(model, running.sigma).to_proto()
    options = one_thread()  # optimized, onnxruntime makes MatMulNBits of the quantized one, which rounds x to 8 bits
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = ort.InferenceSession(baked.SerializeToString(), options).run(None, x)[0]
    np.testing.assert_allclose(found, last, rtol=0, atol=1e-6 * float(np.abs(last).max()))
    assert [node.op_type for node in baked.graph.node] == [node.op_type for node in make().graph.node]


def test_what_can_not_be_baked() -> None:
    plain, model = Model.open(network(weights())), inserted(network(weights()))
    with pytest.raises(ModelError, match="nothing to bake"):
        bake(plain, {})
    with pytest.raises(ModelError, match="no σ is known of weight 'dense/kernel'"):
        bake(model, {"conv/kernel": 1.0})
    changed = model.copy()
    changed.proto.graph.node[-1].name = "renamed"
    with pytest.raises(ModelError, match="changed by another tool"):
        bake(changed, dict.fromkeys(SHAPES, 1.0))


def test_a_weight_of_several_sigmas_gets_the_last(tmp_path: Path) -> None:
    """Keras writes W/σ back at each call of the layer."""
    twice = network(weights())
    twice.graph.node.append(helper.make_node("Gemm", ["y", "head/kernel"], ["again"], name="twice"))
    twice.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, None))
    source = Model.open(twice)
    plan = make_plan(source)
    sites = tuple(replace(site, per_use=site.id == "head/kernel") for site in plan.sites)
    per_use = source.copy()
    Insert(InsertOptions()).apply(per_use, replace(plan, sites=sites))
    running = StatefulSession(per_use)
    running.run(None, {"x": x_of()})
    running.bake(tmp_path / "baked.onnx")
    found = {one.name: numpy_helper.to_array(one) for one in onnx.load(tmp_path / "baked.onnx").graph.initializer}
    matrix = weights()["head/kernel"].astype(np.float64)
    metadata = read_inserted(per_use)
    assert metadata is not None
    u = site_vectors(per_use, metadata)["head/kernel"].astype(np.float64)
    for _ in range(2):
        v = matrix.T @ u if len(u) == len(matrix) else matrix @ u
        v /= np.linalg.norm(v)
        t = matrix @ v if len(u) == len(matrix) else matrix.T @ v
        u = t / np.linalg.norm(t)
    np.testing.assert_allclose(found["head/kernel"], matrix / np.linalg.norm(t), rtol=1e-5, atol=1e-7)
    assert running.sigma["head/kernel"] == pytest.approx(np.linalg.norm(t), rel=1e-5)
