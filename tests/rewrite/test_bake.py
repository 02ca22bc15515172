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

import sn_graph as sn
from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.passes import Insert, InsertOptions
from sn_graph.plan import make_plan
from sn_graph.rewrite import bake, insertion_plan, restore
from sn_graph.rewrite.insertion import StateLayout
from sn_graph.runtime.session import StatefulSession
from sn_graph.state import Inserted, read_inserted, site_vectors, skeleton_hash
from tests.support.builders import initializers
from tests.support.networks import SHAPES, branched, called, discriminator, quantized, weights, x_of
from tests.support.oracle import power_iteration
from tests.support.runs import LAYOUTS, inserted, one_thread


def metadata(model: Model) -> Inserted:
    found = read_inserted(model)
    assert found is not None
    return found


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_baked_weights_are_those_of_the_last_run(layout: StateLayout, dtype: str, tmp_path: Path) -> None:
    values = weights(dtype)
    running = StatefulSession(inserted(discriminator(values, dtype), layout))
    for _ in range(4):
        last = running.run(None, {"x": x_of(dtype=dtype)})
    running.bake(tmp_path / "baked.onnx")
    baked = onnx.load(tmp_path / "baked.onnx")
    assert skeleton_hash(Model.open(baked)) == skeleton_hash(Model.open(discriminator(values, dtype)))
    eps = float(np.finfo(dtype).eps)
    for tensor in baked.graph.initializer:
        if tensor.name in values:
            back = numpy_helper.to_array(tensor).astype(np.float64) * running.sigma[tensor.name]
            np.testing.assert_allclose(back, values[tensor.name], rtol=2 * eps, atol=1e-7 if dtype == "float16" else 0)
    found = ort.InferenceSession(tmp_path / "baked.onnx", one_thread()).run(None, {"x": x_of(dtype=dtype)})
    for ours, theirs in zip(found, last, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=20 * eps * float(np.abs(theirs).max()))


def test_bake_follows_bound_and_clip(tmp_path: Path) -> None:
    model = inserted(discriminator(weights()), bound=2.7, clip=True)
    running = StatefulSession(model)
    last = running.run(None, {"x": x_of()})[0]
    sigma = running.sigma
    assert {name: norm > 2.7 for name, norm in sigma.items()} == dict(zip(sigma, [True, False, True], strict=True))
    running.save_state(tmp_path / "state.safetensors")
    result = sn.fold(model, state=tmp_path / "state.safetensors")
    assert [site.status for site in result.sites] == ["folded", "unchanged", "folded"]
    baked = bake(model, metadata(model), sigma).to_proto()
    assert baked == result.to_proto()
    found = ort.InferenceSession(baked.SerializeToString(), one_thread()).run(["y"], {"x": x_of()})[0]
    np.testing.assert_allclose(found, last, rtol=0, atol=1e-5 * float(np.abs(last).max()))


@pytest.mark.parametrize("make", [quantized, branched])
def test_bake_of_quantized_and_captured_weights(make: Callable[[], onnx.ModelProto]) -> None:
    model = inserted(make())
    running, x = StatefulSession(model), {"x": np.linspace(-1, 2, 6, dtype=np.float32).reshape(1, 6)}
    last = running.run(None, x)[0]
    baked = bake(model, metadata(model), running.sigma).to_proto()
    options = one_thread()  # optimized, onnxruntime makes MatMulNBits of the quantized one, which rounds x to 8 bits
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    found = ort.InferenceSession(baked.SerializeToString(), options).run(None, x)[0]
    np.testing.assert_allclose(found, last, rtol=0, atol=1e-6 * float(np.abs(last).max()))
    assert [node.op_type for node in baked.graph.node] == [node.op_type for node in make().graph.node]


def test_what_can_not_be_baked() -> None:
    model = inserted(discriminator())
    with pytest.raises(ModelError, match="no σ is known of weight 'dense/kernel'"):
        bake(model, metadata(model), {"conv/kernel": 1.0})
    with pytest.raises(ModelError, match="the u of weight 'conv/kernel' is orthogonal to it"):
        bake(model, metadata(model), dict.fromkeys(SHAPES, 0.0))
    changed = model.copy()
    changed.proto.graph.node[-1].name = "renamed"
    with pytest.raises(ModelError, match="changed by another tool"):
        bake(changed, metadata(model), dict.fromkeys(SHAPES, 1.0))


def test_a_weight_of_several_sigmas_gets_the_last(tmp_path: Path) -> None:
    """Keras writes W/σ back at each call of the layer."""
    twice = discriminator(weights())
    twice.graph.node.append(helper.make_node("Gemm", ["y", "head/kernel"], ["again"], name="twice"))
    twice.graph.output.append(helper.make_tensor_value_info("again", TensorProto.FLOAT, None))
    source = Model.open(twice)
    plan = make_plan(source)
    sites = tuple(replace(site, per_use=site.id == "head/kernel") for site in plan.sites)
    per_use = Insert(InsertOptions())(source, replace(plan, sites=sites)).model
    running = StatefulSession(per_use)
    running.run(None, {"x": x_of()})
    running.bake(tmp_path / "baked.onnx")
    found = initializers(tmp_path / "baked.onnx")
    matrix = weights()["head/kernel"].astype(np.float64)
    u = site_vectors(per_use, metadata(per_use))["head/kernel"]
    sigma, _ = power_iteration(matrix if len(u) == len(matrix) else matrix.T, u, 2)
    np.testing.assert_allclose(found["head/kernel"], matrix / sigma, rtol=1e-5, atol=1e-7)
    assert running.sigma["head/kernel"] == pytest.approx(sigma, rel=1e-5)


@pytest.mark.parametrize("make", [discriminator, quantized, branched, called])
def test_the_plan_of_an_insertion_is_read_back_from_its_metadata(make: Callable[[], onnx.ModelProto]) -> None:
    source = Model.open(make())
    plan = replace(make_plan(source, convention="torch", include=["."]), power_iterations=3, bound=2.0, clip=True)
    model = Insert(InsertOptions())(source, plan).model
    found = insertion_plan(restore(model, metadata(model)), metadata(model))
    parameters = ("convention", "power_iterations", "bound", "clip", "norm")
    assert [getattr(found, name) for name in parameters] == [getattr(plan, name) for name in parameters]
    ours, theirs = found.targets(), plan.targets()
    assert [one.id for one in ours] == [one.id for one in theirs]
    for one, other in zip(ours, theirs, strict=True):
        assert (one.view, one.shape, one.power_iterations, one.per_use) == (
            other.view,
            other.shape,
            other.power_iterations,
            other.per_use,
        )
        assert [use.node.path for use in one.uses] == [use.node.path for use in other.uses]


def test_what_the_insertion_left_out_stays_left_out() -> None:
    source = Model.open(discriminator())
    model = Insert(InsertOptions())(source, make_plan(source, exclude=["dense"])).model
    plan = insertion_plan(restore(model, metadata(model)), metadata(model))
    assert {site.id: site.reason for site in plan.sites} == {
        "conv/kernel": None,
        "dense/kernel": "the insertion left it out",
        "head/kernel": None,
    }


def test_a_weight_that_the_original_does_not_have_is_named() -> None:
    model = inserted(discriminator())
    lost = replace(metadata(model).sites[0], id="nosuch")
    with pytest.raises(ModelError, match="lost weight 'nosuch' since the insertion"):
        insertion_plan(Model.open(discriminator()), replace(metadata(model), sites=(lost,)))
