"""Folding a gs.Graph: the same weights as folding the model, in a graph that graphsurgeon goes on working with."""

from pathlib import Path

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import sn_graph as sn
from sn_graph.choices import StateLayoutChoice
from sn_graph.interop import graphsurgeon as interop
from tests.support.places import MODELS, ONNX_MODELS


@pytest.mark.parametrize("path", ONNX_MODELS, ids=lambda path: path.stem)
def test_weights_have_norm_one_and_the_rest_is_as_it_was(path: Path) -> None:
    graph = gs.import_onnx(onnx.load(path))
    before = {name: tensor.values.copy() for name, tensor in graph.tensors().items() if isinstance(tensor, gs.Constant)}
    reports: list[object] = []
    if not any(site.status == "folded" for site in sn.fold(path, force=True).sites):
        pytest.skip("a model whose weights are all computed in the graph")
    folded = interop.fold(graph, force=True, report=reports.append)

    (report,) = reports
    norms = {site.weight: site for site in report.sites if site.status == "folded"}  # type: ignore[attr-defined]
    assert norms
    for name, values in before.items():
        now = folded.tensors()[name].values
        if name in norms:
            np.testing.assert_allclose(now, values / norms[name].sigma_used, rtol=3e-7)  # two float32 roundings
        else:
            np.testing.assert_array_equal(now, values)
        # The graph that was given keeps its weights.
        np.testing.assert_array_equal(graph.tensors()[name].values, values)
    assert [node.op for node in folded.nodes] == [node.op for node in graph.nodes]


def test_the_result_goes_on_in_a_graphsurgeon_pipeline() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 5)).astype(np.float32)
    x = gs.Variable("x", np.float32, ("batch", 8))
    y = gs.Variable("y", np.float32, ("batch", 5))
    graph = gs.Graph([gs.Node("MatMul", inputs=[x, gs.Constant("w", weight)], outputs=[y])], [x], [y], opset=17)

    folded = interop.fold(graph, bound=2.0)
    folded.outputs = [gs.Variable("z", np.float32, ("batch", 5))]
    folded.nodes.append(gs.Node("Relu", inputs=[folded.tensors()["y"]], outputs=folded.outputs))
    model = gs.export_onnx(folded.cleanup().toposort())

    onnx.checker.check_model(model, full_check=True)
    stored = onnx.numpy_helper.to_array(model.graph.initializer[0]).astype(np.float64)
    assert np.linalg.norm(stored, 2) == pytest.approx(2.0, rel=1e-6)


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(sn.UsageError, match=r"is not an onnx_graphsurgeon\.Graph"):
        interop.fold("model.onnx")


@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_an_inserted_graph_iterates_as_the_inserted_model_does(layout: StateLayoutChoice, tmp_path: Path) -> None:
    path = MODELS / "keras_dcgan_discriminator.onnx"
    graph = interop.insert(gs.import_onnx(onnx.load(path)), state_layout=layout)
    onnx.save(interop.export_onnx(graph), tmp_path / "surgeon.onnx")
    sn.insert(path, state_layout=layout).save(tmp_path / "direct.onnx")

    ours, theirs = (sn.StatefulSession(tmp_path / f"{name}.onnx") for name in ("surgeon", "direct"))
    theirs.reset(0)
    ours.reset(0)
    (value,) = ours.get_inputs()
    image = np.random.default_rng(0).standard_normal([2, *value.shape[1:]]).astype(np.float32)
    for _ in range(3):
        (a,), (b,) = ours.run(None, {value.name: image}), theirs.run(None, {value.name: image})
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)  # other node orders may fuse in other ways
    for site, u in theirs.state().items():
        np.testing.assert_allclose(ours.state()[site], u, atol=1e-6)


def test_a_default_that_graphsurgeon_would_freeze_is_refused() -> None:
    graph = gs.import_onnx(onnx.load(MODELS / "keras_dcgan_discriminator.onnx"))
    with pytest.raises(sn.UsageError, match="leave state_mode out"):
        interop.insert(graph, state_mode="default")
    with pytest.raises(sn.UsageError, match="did not come from"):
        interop.export_onnx(graph)


def test_a_graph_without_weights_comes_out_as_it_went_in() -> None:
    x = gs.Variable("x", np.float32, ("batch", 8))
    y = gs.Variable("y", np.float32, ("batch", 8))
    graph = gs.Graph([gs.Node("Relu", inputs=[x], outputs=[y])], [x], [y], opset=17)
    exported = interop.export_onnx(interop.insert(graph))
    assert [node.op_type for node in exported.graph.node] == ["Relu"]
    assert not exported.metadata_props
