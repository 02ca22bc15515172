"""Rearranged weights: found where only rows or columns changed places, measured, folded, and iterated on."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sn_graph as sn
from sn_graph.choices import ScaleChoice
from tests.support.builders import Array, drawn, initializers, model, network, node, only_site, sites, value
from tests.support.oracle import power_iteration, seeded, sigma_max
from tests.support.runs import close, fold_file, run, session, strips_to

HIDDEN, INPUTS = 3, 5


def cut(
    name: str, order: list[tuple[int, int]], axis: int, joined: str
) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
    """Slices of `name` along an axis, joined in an order, and the constants that they read."""
    nodes, held = [], {f"{joined} axis": np.array([axis])}
    for place, (start, end) in enumerate(order):
        held |= {f"{joined} from{place}": np.array([start]), f"{joined} to{place}": np.array([end])}
        bounds = [f"{joined} from{place}", f"{joined} to{place}", f"{joined} axis"]
        nodes.append(node("Slice", [name, *bounds], [f"{joined} part{place}"]))
    parts = [f"{joined} part{place}" for place in range(len(order))]
    return [*nodes, node("Concat", parts, [joined], axis=axis)], held


GATES = [(0, 3), (9, 12), (3, 9)]  # PyTorch's i, f, g, o as ONNX's i, o, f, c


def lstm() -> onnx.ModelProto:
    """An LSTM as PyTorch exports it: both weights in its own order of gates, and brought into ONNX's."""
    nodes, held = [], {"w": drawn(4 * HIDDEN, INPUTS), "r": drawn(4 * HIDDEN, HIDDEN, seed=1), "axes": np.array([0])}
    for name in "wr":
        made, bounds = cut(name, GATES, 0, f"{name} ordered")
        nodes += [*made, node("Unsqueeze", [f"{name} ordered", "axes"], [f"{name}1"])]
        held |= bounds
    nodes.append(node("LSTM", ["x", "w1", "r1"], ["y"], hidden_size=HIDDEN))
    proto = network(nodes, held, {"x": (4, 2, INPUTS)})
    proto.graph.output[0].CopyFrom(value("y", [4, 1, 2, HIDDEN]))
    return proto


def test_the_gates_of_an_lstm(tmp_path: Path) -> None:
    proto = lstm()
    exact = {name: sigma_max(array) for name, array in initializers(proto).items() if name in "wr"}
    found = sn.inspect(proto, op_types=["LSTM"]).sites
    assert {site.id: site.sigma for site in found} == {name: pytest.approx(exact[name], rel=1e-6) for name in "wr"}
    assert found[0].via == ("Slice", "Concat", "Unsqueeze")
    written, _ = fold_file(proto, tmp_path, op_types=["LSTM"])
    for name in "wr":
        np.testing.assert_allclose(initializers(written)[name], initializers(proto)[name] / exact[name], rtol=2e-6)
    for tensor in proto.graph.initializer:
        if tensor.name in exact:
            array = initializers(proto)[tensor.name] / np.float32(exact[tensor.name])
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    x = drawn(4, 2, INPUTS, seed=2)
    np.testing.assert_allclose(run(written, {"x": x})[0], run(proto, {"x": x})[0], atol=1e-5)
    for site in sn.insert(lstm(), op_types=["LSTM"]).sites:
        assert (site.status, "fold it instead" in str(site.reason)) == ("skipped", True)


@pytest.mark.parametrize("scale", ["input", "weight"])
@pytest.mark.parametrize("axis", [0, 1])
def test_insert_behind_joined_parts(axis: int, scale: ScaleChoice) -> None:
    """The input is scaled, whatever was asked for."""
    weight = drawn(6, 4)
    order = [(4, 6), (0, 4)] if axis == 0 else [(3, 4), (0, 3)]
    nodes, held = cut("w", order, axis, "moved")
    proto = network([*nodes, node("MatMul", ["x", "moved"])], {"w": weight, **held}, {"x": (3, 6)})
    inserted = sn.insert(proto, convention="keras", scale=scale).to_proto()
    x = drawn(3, 6, seed=1)
    expected, _ = power_iteration(weight.T, seeded("w", 4))
    read = np.concatenate([weight.take(range(*ends), axis) for ends in order], axis)
    close(session(inserted).run(None, {"x": x})[0], x @ read / expected, 1e-5, "y")
    strips_to(inserted, proto)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.sampled_from([0, 1]), st.booleans(), st.data())
def test_orders_of_rows_and_columns(rows: int, cols: int, axis: int, transposed: bool, data: st.DataObject) -> None:
    size = (rows, cols)[axis]
    cuts = sorted({0, size, *data.draw(st.sets(st.integers(0, size), max_size=3))})
    order = data.draw(st.permutations(list(itertools.pairwise(cuts))))
    weight = drawn(rows, cols)
    nodes, held = cut("w", order, axis, "moved")
    if transposed:
        nodes.append(node("Transpose", ["moved"], ["t"]))
    made = model([*nodes, node("MatMul", ["x", "t" if transposed else "moved"])], {"w": weight, **held})
    found = only_site(made)
    assert (found.id, found.status) == ("w", "eligible"), found.reason
    assert found.view is not None
    assert sigma_max(found.view.matrix(weight)) == pytest.approx(sigma_max(weight), rel=1e-6)


def test_what_is_not_only_another_order_is_skipped() -> None:
    weight, reader = drawn(4, 6), node("MatMul", ["x", "m"])
    for order in ([(0, 4), (0, 4)], [(0, 2), (1, 4)]):  # twice, overlapping
        nodes, held = cut("w", order, 0, "m")
        found = only_site(model([*nodes, reader], {"w": weight, **held}))
        assert (found.id, found.status) == ("m", "skipped")
        assert "a part of stored tensors or put together of them" in (found.reason or "")


def test_elements_that_cross_rows_are_another_matrix() -> None:
    weight, shapes = drawn(4, 6), {"tall": np.array([6, 4]), "wide": np.array([4, 6]), "flat": np.array([2, 12])}
    nodes, held = cut("w", [(2, 4), (0, 2)], 0, "c")
    crossed = [*nodes, node("Reshape", ["c", "flat"], ["r"]), node("MatMul", ["x", "r"])]
    found = only_site(model(crossed, {"w": weight, **held, **shapes}))
    assert found.view is not None  # blocks of whole rows
    assert sigma_max(found.view.matrix(weight)) == pytest.approx(sigma_max(weight.reshape(2, 12)), rel=1e-6)
    nodes, held = cut("t", [(1, 6), (0, 1)], 0, "c")
    crossed = [node("Reshape", ["w", "tall"], ["t"]), *nodes, node("Reshape", ["c", "wide"], ["r"]), crossed[-1]]
    found = only_site(model(crossed, {"w": weight, **held, **shapes}))
    assert (found.id, found.status) == ("r", "skipped")


def test_a_tensor_that_is_joined_with_itself_time_and_again_is_not_made() -> None:
    """Forty doublings of a tensor of 1 MB would be a thousand times what any machine has."""
    nodes = [node("Concat", [f"v{place}", f"v{place}"], [f"v{place + 1}"], axis=0) for place in range(40)]
    nodes[0].input[:] = ["w", "w"]
    found = only_site(model([*nodes, node("MatMul", ["x", "v40"])], {"w": drawn(512, 512)}))
    assert (found.id, found.status) == ("v40", "skipped")


def test_parts_and_wholes_that_others_read_keep_the_weight() -> None:
    nodes, held = cut("w", [(2, 4), (0, 2)], 0, "m")
    product = node("MatMul", ["x", "m"], ["h"])
    for also in (node("Add", ["h", "w"]), node("Add", ["h", "m part0"]), node("Add", ["h", "m"])):
        found = sites(model([*nodes, product, also], {"w": drawn(4, 4), **held}))
        assert {key: site.status for key, site in found.items()} == {"m": "skipped"}
    twice = model([*nodes, product, node("MatMul", ["h", "w"])], {"w": drawn(4, 4), **held})
    assert {key: site.status for key, site in sites(twice).items()} == {"m": "skipped", "w": "eligible"}
