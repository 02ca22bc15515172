"""Lifting to an insertion: the exporter's arithmetic goes on as an iteration, as the module does in train mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import sn_graph as sn
from sn_graph.proofs import save
from sn_graph.state import read_inserted
from tests.support.builders import Array, drawn, network, node, value
from tests.support.exported import biggan, convolution, in_eval, in_train, linear, power, rows_of, stored

CONV = (8, 6, 3, 3)
STEPS = 4
CLOSE = 1e-5  # float32 iterations against float64


def sigmas_of(source: onnx.ModelProto, tmp_path: Path, weight: str = "c.weight", **options: Any) -> list[float]:
    """σ of the first runs, as the saved and proved file gives them."""
    result = sn.lift(source, to="insert", **options)
    assert [site.status for site in result.sites if site.weight == weight] == ["lifted"]
    path = tmp_path / "lifted.onnx"
    assert save(result, path).verified == "run"
    session = sn.StatefulSession(path)
    shape = [dim.dim_value or 2 for dim in source.graph.input[0].type.tensor_type.shape.dim]
    found = []
    for _ in range(STEPS):
        session.run(None, {"x": drawn(*shape, seed=7)})
        found.append(session.sigma[weight])
    return found


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("dim", [0, 1])
def test_eval_goes_on_as_the_hook(dim: int, k: int, tmp_path: Path) -> None:
    w = drawn(*CONV)
    u, _ = stored(w, dim)
    wanted = [power(rows_of(w, dim), u, k * (step + 1))[0] for step in range(STEPS)]
    found = sigmas_of(convolution(in_eval(w, dim)), tmp_path, power_iterations=k)
    assert found == pytest.approx(wanted, rel=CLOSE)


@pytest.mark.parametrize("k", [1, 3])
def test_a_kernel_of_one_pixel_normalized_over_its_inputs(k: int, tmp_path: Path) -> None:
    """Its matrix is the transpose of that over axis 0, and gives the same uᵀMv: which vector is u, names tell."""
    w = drawn(8, 6, 1, 1)
    u, _ = stored(w, 1)
    wanted = [power(rows_of(w, 1), u, k * (step + 1))[0] for step in range(STEPS)]
    found = sigmas_of(convolution(in_eval(w, 1)), tmp_path, power_iterations=k)
    assert found == pytest.approx(wanted, rel=CLOSE)


def test_a_linear_normalized_over_its_inputs(tmp_path: Path) -> None:
    w = drawn(8, 6)
    u, _ = stored(w, 1)
    wanted = [power(rows_of(w, 1), u, step + 1)[0] for step in range(STEPS)]
    assert sigmas_of(linear(in_eval(w, 1)), tmp_path) == pytest.approx(wanted, rel=CLOSE)


@pytest.mark.parametrize("k", [1, 2])
def test_train_goes_on_with_its_own_iterations(k: int, tmp_path: Path) -> None:
    w = drawn(*CONV)
    u, v = stored(w)
    wanted = [power(rows_of(w), u, k * (step + 1))[0] for step in range(STEPS)]
    assert sigmas_of(convolution(in_train(w, k)), tmp_path) == pytest.approx(wanted, rel=CLOSE)
    wanted = [power(rows_of(w).T, v, k * (step + 1))[0] for step in range(STEPS)]
    source = convolution(in_train(w, k, parametrization=True))
    assert sigmas_of(source, tmp_path) == pytest.approx(wanted, rel=CLOSE)


def test_iterated(tmp_path: Path) -> None:
    w = drawn(*CONV)
    wanted = [power(rows_of(w), stored(w)[0], step + 1)[0] for step in range(STEPS)]
    assert sigmas_of(convolution(biggan(w)), tmp_path) == pytest.approx(wanted, rel=CLOSE)


def capped(w: Array, cap: float, gain: float) -> onnx.ModelProto:
    nodes, weights = in_eval(w)
    nodes[-1:] = [
        node("Div", ["sigma", "cap"], ["over"]),
        node("Max", ["one", "over"], ["most"]),
        node("Div", ["c.weight_orig", "most"], ["capped"]),
        node("Mul", ["capped", "gain"], ["w"]),
    ]
    weights |= {"cap": np.float32(cap), "one": np.ones(1, np.float32), "gain": np.full(1, gain, np.float32)}
    return convolution((nodes, weights))


@pytest.mark.parametrize(("cap", "gain"), [(0.5, 1.0), (99.0, 1.0), (0.5, 2.5), (99.0, 2.5)])
def test_cap_and_gain_are_kept(cap: float, gain: float, tmp_path: Path) -> None:
    w = drawn(*CONV)
    path = tmp_path / "lifted.onnx"
    result = sn.lift(capped(w, cap, gain), to="insert")
    assert save(result, path).verified == "run"
    session = sn.StatefulSession(path)
    x = drawn(2, 6, 7, 7, seed=7)
    (y,) = session.run(["y"], {"x": x})
    sigma = power(rows_of(w), stored(w)[0], 1)[0]
    plain = convolution(([node("Identity", ["c.weight"], ["w"])], {"c.weight": w * gain / max(1.0, sigma / cap)}))
    expected = onnxruntime.InferenceSession(plain.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": x}
    )[0]
    np.testing.assert_allclose(y, expected, atol=CLOSE * np.abs(expected).max())
    baked = tmp_path / "baked.onnx"
    session.bake(baked)
    again = onnxruntime.InferenceSession(baked, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    np.testing.assert_allclose(again, expected, atol=CLOSE * np.abs(expected).max())


def test_a_layer_called_twice_iterates_at_each_call(tmp_path: Path) -> None:
    w = drawn(*CONV)
    nodes, weights = in_train(w, 2)
    nodes += [
        node("MatMul", ["m", "v0"], ["mv_first"]),
        node("MatMul", ["u0", "mv_first"], ["sigma_first"]),
        node("Div", ["c.weight_orig", "sigma_first"], ["w_first"]),
    ]
    source = convolution((nodes, weights))
    source.graph.node.insert(len(nodes), node("Conv", ["x", "w_first"], ["z"]))
    source.graph.output.append(value("z"))
    result = sn.lift(source, to="insert")
    inserted = read_inserted(result.model)
    assert inserted is not None
    assert [(site.per_use, site.power_iterations) for site in inserted.sites] == [(True, 1)]
    path = tmp_path / "lifted.onnx"
    save(result, path)
    x = drawn(2, 6, 7, 7, seed=7)
    y, z = sn.StatefulSession(path).run(["y", "z"], {"x": x})
    export = onnxruntime.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"])
    for ours, theirs in zip((y, z), export.run(["y", "z"], {"x": x}), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=CLOSE * np.abs(theirs).max())


def test_what_no_insertion_can_do_is_left_with_the_reason() -> None:
    nodes, weights = in_eval(drawn(*CONV))
    nodes[-1].output[0] = "normalized"
    nodes.append(node("Mul", ["normalized", "scale"], ["w"]))
    weights["scale"] = np.abs(drawn(8, 1, 1, 1, seed=4)) + 0.5
    source = convolution((nodes, weights))
    result = sn.lift(source, to="insert")
    assert result.sites[0].status == "unchanged"
    assert "by channel" in (result.sites[0].reason or "")
    assert result.to_proto() == source


def test_weight_norm_has_no_iteration() -> None:
    nodes = [
        node("ReduceL2", ["c.weight_v"], ["norm"], axes=[1, 2, 3], keepdims=1),
        node("Div", ["c.weight_v", "norm"], ["unit"]),
        node("Mul", ["unit", "c.weight_g"], ["w"]),
    ]
    g = np.abs(drawn(8, 1, 1, 1, seed=1)) + 0.5
    source = convolution((nodes, {"c.weight_v": drawn(*CONV), "c.weight_g": g}))
    result = sn.lift(source, to="insert")
    assert "weight normalization" in (result.sites[0].reason or "")
    assert result.to_proto() == source


def test_a_weight_that_insert_refuses_stays_normalized() -> None:
    """It must not be stored as it was before its normalization with no iteration to make up for that."""
    source = convolution(in_eval(drawn(*CONV) * np.float32(1e20)))
    result = sn.lift(source, to="insert")
    assert result.to_proto() == source
    assert "float32" in (result.sites[0].reason or "")


def test_exact_has_no_meaning_for_an_iteration() -> None:
    with pytest.raises(sn.UsageError, match="exact"):
        sn.lift(convolution(in_eval(drawn(*CONV))), to="insert", sigma="exact")


def test_gates_in_another_order(tmp_path: Path) -> None:
    """PyTorch's gates are i, f, g, o and ONNX's i, o, f, c: u goes with its rows."""
    w = drawn(20, 6)
    nodes, weights = in_eval(w, prefix="l.")
    for one in nodes:
        one.output[:] = ["normalized" if name == "w" else name for name in one.output]
    for place, (start, end) in enumerate(((0, 5), (15, 20), (5, 15))):
        weights |= {f"from{place}": np.array([start]), f"to{place}": np.array([end])}
        nodes.append(node("Slice", ["normalized", f"from{place}", f"to{place}", "axis"], [f"part{place}"]))
    weights["axis"] = np.array([0])
    nodes += [
        node("Concat", ["part0", "part1", "part2"], ["gates"], axis=0),
        node("Unsqueeze", ["gates", "axis"], ["W"]),
        node("LSTM", ["x", "W", "R"], ["y"], hidden_size=5),
    ]
    weights["R"] = drawn(1, 20, 5, seed=2)
    source = network(nodes, weights, {"x": [3, 2, 6]})
    u, _ = stored(w)
    wanted = [power(rows_of(w), u, step + 1)[0] for step in range(STEPS)]
    assert sigmas_of(source, tmp_path, "l.weight") == pytest.approx(wanted, rel=CLOSE)
