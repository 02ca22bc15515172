"""Baked weights, against the runs of the inserted model that they are taken from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from sn_graph.bake import bake, fold_inserted
from sn_graph.errors import ModelError
from sn_graph.insertion import StateLayout
from sn_graph.model import Model
from sn_graph.passes.insert import Insert, InsertOptions
from sn_graph.plan import load_plan, make_plan, save_plan
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


def test_what_can_not_be_baked(tmp_path: Path) -> None:
    plain, model = Model.open(network(weights())), inserted(network(weights()))
    with pytest.raises(ModelError, match="nothing to bake"):
        bake(plain, {})
    with pytest.raises(ModelError, match="no σ is known of weight 'dense/kernel'"):
        bake(model, {"conv/kernel": 1.0})
    changed = model.copy()
    changed.proto.graph.node[-1].name = "renamed"
    with pytest.raises(ModelError, match="changed by another tool"):
        bake(changed, dict.fromkeys(SHAPES, 1.0))
    twice = network(weights())
    twice.graph.node.append(helper.make_node("Gemm", ["y", "head/kernel"], ["again"], name="twice"))
    twice.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, None))
    source = Model.open(twice)
    save_plan(make_plan(source), tmp_path / "plan.json")
    content = (
        (tmp_path / "plan.json").read_text().replace('"id": "head/kernel",', '"id": "head/kernel", "per_use": true,')
    )
    (tmp_path / "plan.json").write_text(content)
    per_use = source.copy()
    Insert(InsertOptions()).apply(per_use, load_plan(tmp_path / "plan.json", source))
    running = StatefulSession(per_use)
    running.run(None, {"x": x_of()})
    with pytest.raises(ModelError, match="another σ at each of its uses"):
        running.bake(tmp_path / "never.onnx")
    assert not (tmp_path / "never.onnx").exists()
