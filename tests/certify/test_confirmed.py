"""Witnesses by two runs of the model: as onnxruntime runs it, as float64 has it, and where the two differ."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

import sn_graph as sn
from sn_graph.certify import CLOSE, Network, Witness, confirm, network_of, witnesses
from sn_graph.model import Model
from tests.support.builders import drawn, initializer, node, value
from tests.support.runs import session


def layers(dtype: Any = np.float32, shape: tuple[int | str, ...] = ("N", 6)) -> onnx.ModelProto:
    """Two dense layers, and a second input that is added between them."""
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    weights = [
        initializer("w0", drawn(6, 9, seed=1, dtype=dtype)),
        initializer("w1", drawn(9, 4, seed=2, dtype=dtype)),
        initializer("b", drawn(9, seed=3, dtype=dtype)),
    ]
    nodes = [
        node("MatMul", ["x", "w0"], ["a"]),
        node("Add", ["a", "b"], ["c"]),
        node("Add", ["c", "more"], ["d"]),
        node("Relu", ["d"], ["e"]),
        node("MatMul", ["e", "w1"], ["y"]),
    ]
    inputs = [value("x", shape, element), value("more", (shape[0], 9), element)]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", None, element)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def by_numpy(model: onnx.ModelProto, witness: Witness) -> float:
    """The quotient of two runs of onnxruntime."""
    ends = []
    for x in (witness.x0, witness.x1):
        (output,) = session(model).run(None, {**witness.parameters, **x})
        ends.append((np.concatenate([one.reshape(-1).astype(np.float64) for one in x.values()]), output))
    (x0, y0), (x1, y1) = ends
    return float(np.linalg.norm(y1.astype(np.float64) - y0) / np.linalg.norm(x1 - x0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
@pytest.mark.parametrize("shape", [("N", 6), (1, 6), (5, 6)])
@pytest.mark.parametrize("which", [["x"], ["more"], ["x", "more"]])
def test_the_attained_end_is_that_of_two_runs(dtype: Any, shape: tuple[int | str, ...], which: list[str]) -> None:
    model = layers(dtype, shape)
    found = sn.certify(model, input=which, level="product", budget=1.0)
    assert found.witness is not None
    assert found.attained is not None
    assert found.proven is not None
    assert found.attained <= found.proven
    assert found.attained == pytest.approx(by_numpy(model, found.witness), rel=1e-4)
    assert set(found.witness.x0) == set(which)
    assert all(array.dtype == dtype for array in (*found.witness.x0.values(), *found.witness.x1.values()))
    assert {**found.witness.x0, **found.witness.parameters}.keys() == {"x", "more"}
    # A large part of what can be: the norm of the weights' product is attained where no neuron is off.
    assert found.attained > 0.5 * found.proven


def test_a_certificate_of_the_second_input_does_not_count_the_first() -> None:
    found = sn.certify(layers(), input="more", level="product", budget=1.0)
    assert found.witness is not None
    assert list(found.witness.parameters) == ["x"]
    assert found.proven == pytest.approx(np.linalg.norm(drawn(9, 4, seed=2), 2), rel=1e-6)


def network() -> tuple[Network, list[Witness]]:
    made = network_of(Model.open(layers()), inputs=["x"])
    assert isinstance(made, Network)
    return made, witnesses(made, 0.3)


def test_rounding_that_hides_the_difference_takes_the_inputs_further_apart() -> None:
    net, found = network()
    near = [found[0]]
    distance = float(np.linalg.norm(near[0].x1["x"].astype(np.float64) - near[0].x0["x"]))
    off_by = itertools.cycle((0.0, 0.05 * distance))

    def rounded(feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return net.forward(np.asarray(feeds["x"], np.float64)) + next(off_by)

    witness, off = confirm(net, near, rounded, 1e9, 60.0)
    assert off <= CLOSE
    assert np.linalg.norm(witness.x1["x"].astype(np.float64) - witness.x0["x"]) > 2.0 * distance


def test_rounding_that_can_not_be_outrun_is_told() -> None:
    net, found = network()

    def coarse(feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return np.asarray(1.01 * net.forward(np.asarray(feeds["x"], np.float64)))

    witness, off = confirm(net, found, coarse, 1e9, 60.0)
    assert off == pytest.approx(0.01)
    assert witness.quotient == pytest.approx(1.01 * found[0].quotient)


def test_a_bound_that_a_witness_contradicts_is_a_fault() -> None:
    net, found = network()

    def run(feeds: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        return net.forward(np.asarray(feeds["x"], np.float64))

    confirm(net, found, run, found[0].quotient, 60.0)
    with pytest.raises(RuntimeError, match="contradict the bound"):
        confirm(net, found, run, 0.999 * found[0].quotient, 60.0)


def test_a_model_that_onnxruntime_does_not_run_keeps_the_quotient_of_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    model = layers()
    expected = sn.certify(model, input="x", level="product", budget=1.0)

    def refuse(*_: object, **__: object) -> None:
        raise sn.ModelError("onnxruntime can't load it")

    monkeypatch.setattr("sn_graph.runtime.Side.open", refuse)
    found = sn.certify(model, input="x", level="product", budget=1.0)
    assert found.attained == pytest.approx(expected.attained, rel=0.05)
    assert any("can't load it" in note for note in found.notes)


def test_an_output_that_is_an_integer_or_no_function_of_the_input_has_no_witness() -> None:
    graph = helper.make_graph(
        [node("Add", ["b", "b"], ["y"])],
        "g",
        [value("x", (1, 3), TensorProto.FLOAT)],
        [value("y", (3,), TensorProto.FLOAT)],
        [initializer("b", drawn(3))],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    found = sn.certify(model, level="product", budget=1.0)
    assert (found.attained, found.proven, found.witness) == (0.0, 0.0, None)
