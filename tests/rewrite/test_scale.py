"""Scaling: what is multiplied, what is copied first, and that both are written down as they were done."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import pytest

import sn_graph as sn
from sn_graph.model import Model
from sn_graph.plan import make_plan
from sn_graph.rewrite import Copy, Rescaled, Scaling
from tests.support.builders import Array, constant, drawn, initializers, network, node

W = drawn(4, 4)
Q = np.random.default_rng(0).integers(-100, 100, (4, 4)).astype(np.int8)
SCALE = np.float32(0.02)


def scaled(proto: onnx.ModelProto, divisors: Sequence[float], bound: float = 1.0) -> tuple[Scaling, onnx.ModelProto]:
    """Divide the one weight that is planned."""
    model = Model.open(proto).copy()
    (target,) = make_plan(model, convention="keras").targets()
    scaling = Scaling(model)
    scaling.divide(target, divisors, bound)
    return scaling, model.to_proto()


def twice(weight: Array = W) -> onnx.ModelProto:
    return network([node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "w"])], {"w": weight}, {"x": (2, 4)})


def test_a_weight_is_multiplied_where_it_stands() -> None:
    scaling, proto = scaled(twice(), [4.0], bound=2.0)
    assert scaling.rescaled == [Rescaled("", "w", "w", 0.5, "w")]
    assert scaling.copies == ()
    np.testing.assert_array_equal(initializers(proto)["w"], W / 2)


def test_each_use_gets_a_divisor_of_its_own_and_the_last_one_the_original() -> None:
    scaling, proto = scaled(twice(), [2.0, 4.0])
    assert scaling.rescaled == [Rescaled("", "w_normalized", "w", 0.5, "w"), Rescaled("", "w", "w", 0.25, "w")]
    assert scaling.copies == (Copy("w_normalized", "w"),)
    assert [one.input[1] for one in proto.graph.node] == ["w_normalized", "w"]
    after = initializers(proto)
    np.testing.assert_array_equal(after["w_normalized"], W / 2)
    np.testing.assert_array_equal(after["w"], W / 4)


@pytest.mark.parametrize("divisors", [[4.0], [4.0] * 2])
def test_a_reader_that_is_not_normalized_keeps_the_original(divisors: list[float]) -> None:
    proto = network(
        [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "w"], ["k"]), node("Add", ["k", "w"])],
        {"w": W},
        {"x": (4, 4)},
    )
    scaling, after = scaled(proto, divisors)
    names = [f"w_normalized{number}" for number in ("", "_1")[: len(divisors)]]
    assert scaling.rescaled == [Rescaled("", name, "w", 0.25, "w") for name in names]
    assert scaling.copies == tuple(Copy(name, "w") for name in names)
    assert [one.input[1] for one in after.graph.node] == [names[0], names[-1], "w"]
    np.testing.assert_array_equal(initializers(after)["w"], W)


def test_a_constant_node_is_named_by_what_it_makes() -> None:
    proto = network([constant("c", W, name="here"), node("MatMul", ["x", "c"])], {}, {"x": (2, 4)})
    scaling, after = scaled(proto, [4.0])
    assert scaling.rescaled == [Rescaled("", "c", "c", 0.25, "c")]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(after.graph.node[0].attribute[0].t), W / 4)


def quantized(*more: onnx.NodeProto) -> onnx.ModelProto:
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"]), node("MatMul", ["x", "w"]), *more]
    return network(nodes, {"q": Q, "s": np.asarray(SCALE), "t": Q.copy()}, {"x": (4, 4)})


def test_of_a_quantized_weight_the_scale_is_multiplied() -> None:
    scaling, after = scaled(quantized(), [4.0])
    assert scaling.rescaled == [Rescaled("", "s", "s", 0.25, "q")]
    assert scaling.copies == ()
    held = initializers(after)
    np.testing.assert_array_equal(held["q"], Q)
    assert held["s"] == SCALE / 4


def test_a_scale_that_others_read_is_copied_first() -> None:
    scaling, after = scaled(quantized(node("DequantizeLinear", ["t", "s"], ["other"])), [4.0])
    assert scaling.rescaled == [Rescaled("", "s_normalized", "s", 0.25, "q")]
    assert scaling.copies == (Copy("s_normalized", "s"),)
    assert [list(one.input) for one in after.graph.node][::2] == [["q", "s_normalized"], ["t", "s"]]
    assert initializers(after)["s"] == SCALE


def test_a_copied_dequantizer_reads_the_copied_scale() -> None:
    scaling, after = scaled(quantized(node("Add", ["y", "w"], ["z"])), [4.0])
    assert scaling.rescaled == [Rescaled("", "s_normalized", "s", 0.25, "q")]
    assert scaling.copies == (Copy("w_normalized", "w"), Copy("s_normalized", "s"))
    first, second, product, addition = after.graph.node
    assert (list(first.input), list(second.input)) == (["q", "s"], ["q", "s_normalized"])
    assert (product.input[1], addition.input[1]) == (second.output[0], first.output[0])


@pytest.mark.parametrize(
    ("dtype", "bound", "complaint"),
    [
        ("float16", 1e-6, r"weight 'w' can't get norm 1e-06, because float16 holds nothing of use below 6\.1e-05"),
        ("float32", 1e-39, r"float32 holds nothing of use below 1\.2e-38; give a larger --bound"),
    ],
)
def test_a_bound_below_the_range_is_refused(dtype: str, bound: float, complaint: str) -> None:
    with pytest.raises(sn.ModelError, match=complaint):
        scaled(twice(W.astype(dtype)), [4.0], bound)


@pytest.mark.parametrize(("divisor", "bound"), [(1e-300, 1e300), (1e300, 1e-30)])
def test_a_factor_that_no_float64_holds_is_refused(divisor: float, bound: float) -> None:
    proto, before = twice(), twice()
    with pytest.raises(
        sn.ModelError, match=r"because no float64 holds the factor; leave it out with --exclude '\^w\$'"
    ):
        scaled(proto, [divisor], bound)
    assert proto == before
