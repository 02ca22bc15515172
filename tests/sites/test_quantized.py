"""Weights behind DequantizeLinear, against onnx's reference implementation of it and its formula."""

from __future__ import annotations

from math import prod
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.model import Model
from tests.support.builders import (
    MICROSOFT,
    Array,
    assert_same_up_to_order,
    constant,
    model,
    network,
    node,
    only_site,
    only_target,
    sites,
)
from tests.support.runs import evaluated

STORED = [np.int8, np.uint8, np.int16, np.int32, ml_dtypes.int4, ml_dtypes.uint4, ml_dtypes.float8_e4m3fn]


def stored_weight(shape: tuple[int, ...], dtype: Any) -> Array:
    low = 0 if np.dtype(dtype).name.startswith("uint") else -7
    return np.random.default_rng(0).integers(low, 8, shape).astype(dtype)


def scales(shape: tuple[int, ...], seed: int = 1) -> Array:
    return np.random.default_rng(seed).uniform(0.01, 0.1, shape).astype(np.float32)


def dequantized(constants: dict[str, Array], **attributes: Any) -> Array:
    """What DequantizeLinear gives, by onnx's reference."""
    nodes = [node("DequantizeLinear", inputs_of(constants), **attributes)]
    (found,) = evaluated(network(nodes, constants, {}, opset=21, ir=10), {})
    return found


def quantized(constants: dict[str, Array], reading: onnx.NodeProto, **attributes: Any) -> Model:
    return model([node("DequantizeLinear", inputs_of(constants), ["d"], **attributes), reading], constants, opset=21)


def assert_close(actual: Array, expected: Array) -> None:
    """The reference multiplies in float32 as well."""
    np.testing.assert_allclose(actual, expected, rtol=1e-6)


def inputs_of(constants: dict[str, Array]) -> list[str]:
    return [name for name in ("w", "scale", "zero") if name in constants]


CONV, MATMUL = node("Conv", ["x", "d"]), node("MatMul", ["x", "d"])


@pytest.mark.parametrize("with_zero", [False, True])
@pytest.mark.parametrize("dtype", STORED, ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_per_tensor_and_per_axis(axis: int | None, dtype: Any, with_zero: bool) -> None:
    shape = (4, 3, 2, 2)
    scale = scales(() if axis is None else (shape[axis],))
    constants = {"w": stored_weight(shape, dtype), "scale": scale}
    if with_zero:
        constants["zero"] = np.zeros(scale.shape, dtype) if dtype in STORED[3::3] else np.full(scale.shape, 2, dtype)
    attributes = {} if axis is None else {"axis": axis}
    made = quantized(constants, CONV, **attributes)
    found = only_site(made)
    assert found.status == "eligible"
    assert found.site.via == ("DequantizeLinear",)
    weight = only_target(made).array(made)
    assert weight.dtype == np.float32
    along = np.ones(4, int) if axis is None else [-1 if i == axis % 4 else 1 for i in range(4)]
    shift = constants["zero"].astype(np.float32).reshape(along) if with_zero else np.float32(0)
    np.testing.assert_array_equal(weight, (constants["w"].astype(np.float32) - shift) * scale.reshape(along))
    assert_close(weight, dequantized(constants, **attributes))
    np.testing.assert_array_equal(only_target(made).matrix(made), weight.reshape(4, -1))
    assert not only_target(made).matrix(made).flags.writeable


def test_the_axis_is_1_by_default() -> None:
    constants = {"w": stored_weight((4, 3), np.int8), "scale": scales((3,))}
    made = quantized(constants, MATMUL)
    assert_close(only_target(made).array(made), dequantized(constants))


@pytest.mark.parametrize("dtype", [np.int8, ml_dtypes.int4, ml_dtypes.uint4], ids=lambda dtype: np.dtype(dtype).name)
@pytest.mark.parametrize(("axis", "block"), [(0, 2), (1, 3), (-1, 3), (0, 4), (1, 6)])
def test_blocked(axis: int, block: int, dtype: Any) -> None:
    shape = (4, 6)
    blocks = tuple(size // block if i == axis % 2 else size for i, size in enumerate(shape))
    constants = {
        "w": stored_weight(shape, dtype),
        "scale": scales(blocks),
        "zero": np.arange(prod(blocks)).reshape(blocks).astype(np.int8).__mod__(4).astype(dtype),
    }
    made = quantized(constants, MATMUL, axis=axis, block_size=block)
    assert_close(only_target(made).array(made), dequantized(constants, axis=axis, block_size=block))


def test_last_block_may_be_short() -> None:
    weight, scale = stored_weight((2, 5), np.int8), scales((2, 2))
    made = quantized({"w": weight, "scale": scale}, MATMUL, axis=1, block_size=3)
    expected = weight.astype(np.float32) * np.repeat(scale, 3, axis=1)[:, :5]
    np.testing.assert_array_equal(only_target(made).array(made), expected)


def test_float64_scale_keeps_its_precision() -> None:
    weight = stored_weight((3, 4), np.int8)
    made = quantized({"w": weight, "scale": np.array(1 / 3)}, MATMUL)
    found = only_target(made).array(made)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, weight * (1 / 3))


def test_contrib_operator_and_chain_behind_it() -> None:
    weight = stored_weight((3, 4), np.uint8)
    nodes = [
        node("DequantizeLinear", ["w", "scale", "zero"], ["d"], domain=MICROSOFT),
        node("Transpose", ["d"], ["t"]),
        node("Gemm", ["x", "t"]),
    ]
    made = model(nodes, {"w": weight, "scale": np.float32(0.5), "zero": np.uint8(3)})
    found = only_site(made)
    assert found.site.via == ("DequantizeLinear", "Transpose")
    assert_same_up_to_order(only_target(made).matrix(made), ((weight.astype(np.float32) - 3) * np.float32(0.5)).T)


def test_per_tensor_scale_behind_a_reshape() -> None:
    weight = stored_weight((2, 6), np.int8)
    nodes = [
        node("Reshape", ["w", "shape"], ["r"]),
        node("DequantizeLinear", ["r", "scale"], ["d"]),
        node("Conv", ["x", "d"]),
    ]
    made = model(nodes, {"w": weight, "scale": np.float32(0.5), "shape": np.array([2, 3, 2])})
    np.testing.assert_array_equal(only_target(made).matrix(made), weight * np.float32(0.5))


@st.composite
def moved(draw: st.DrawFn) -> tuple[tuple[int, ...], list[onnx.NodeProto], dict[str, Array], tuple[int, ...]]:
    """A stored shape, Transposes and Reshapes from `w` to `m`, their constants, and the shape of `m`."""
    shape = stored = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=2, max_size=4)))
    nodes, held, last = [], {}, "w"
    for step in range(draw(st.integers(1, 3))):
        output = f"v{step}"
        if draw(st.booleans()):
            perm = draw(st.permutations(range(len(shape))))
            nodes.append(node("Transpose", [last], [output], perm=perm))
            shape = tuple(shape[axis] for axis in perm)
        else:
            cut = draw(st.integers(1, len(shape)))
            shape = (*shape[: cut - 1], prod(shape[cut - 1 :]), 1)
            held[f"to {output}"] = np.array(shape)
            nodes.append(node("Reshape", [last, f"to {output}"], [output]))
        last = output
    nodes.append(node("Identity", [last], ["m"]))
    return stored, nodes, held, shape


@settings(max_examples=150, deadline=None)
@given(moved(), st.booleans(), st.data())
def test_scales_behind_a_transpose_or_reshape(chain: Any, blocked: bool, data: st.DataObject) -> None:
    """The axis is followed through the layout: the stored tensor gets the scales that its elements meet."""
    stored, nodes, held, shape = chain
    axis = data.draw(st.integers(0, len(shape) - 1))
    block = data.draw(st.sampled_from([n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]))
    sizes = tuple(size // block if i == axis else size for i, size in enumerate(shape)) if blocked else (shape[axis],)
    held |= {"w": stored_weight(stored, np.int8), "scale": scales(sizes), "zero": stored_weight(sizes, np.int8)}
    attributes = {"axis": axis, "block_size": block} if blocked else {"axis": axis}
    nodes.append(node("DequantizeLinear", ["m", "scale", "zero"], ["d"], **attributes))
    (expected,) = evaluated(network(nodes, held, {}, ("d",), opset=21, ir=10), {})
    reader = "MatMul" if len(shape) == 2 else "Conv"
    made = model([*nodes, node(reader, ["x", "d"])], held, opset=21)
    found = only_site(made)
    if found.status == "skipped":
        assert "cuts across the axes of a Transpose" in (found.reason or "")
        return
    use = found.uses[0]
    weight = only_target(made).array(made)
    assert weight.shape == stored
    assert_close(use.layout(stored).array(weight), expected)


def test_scale_that_is_held_elsewhere() -> None:
    """Through Identity, and in a Constant node."""
    nodes = [
        constant("s", np.float32(0.5)),
        node("Identity", ["s"], ["scale"]),
        node("DequantizeLinear", ["w", "scale"], ["d"]),
        MATMUL,
    ]
    made = model(nodes, {"w": stored_weight((3, 4), np.int8)})
    found = only_site(made)
    quantization = found.site.quantization
    assert found.status == "eligible"
    assert quantization is not None
    assert (quantization.scale_owner.id, quantization.scale_name) == ("", "s")


@pytest.mark.parametrize(
    ("nodes", "constants", "reason"),
    [
        ([node("DequantizeLinear", ["w", "x"], ["d"]), MATMUL], {}, "the scale of its DequantizeLinear is not a const"),
        ([node("DequantizeLinear", ["w"], ["d"]), MATMUL], {}, "the scale of its DequantizeLinear is not a constant"),
        (
            [node("DequantizeLinear", ["w", "scale", "x"], ["d"]), MATMUL],
            {"scale": np.float32(1)},
            "the zero point of its DequantizeLinear is not a constant",
        ),
        (
            [node("DequantizeLinear", ["w", "scale"], ["d"]), MATMUL],
            {"scale": scales((5,))},
            "has shape [5], which does not fit",
        ),
        (
            [node("DequantizeLinear", ["w", "scale", "zero"], ["d"]), MATMUL],
            {"scale": scales((4,)), "zero": np.zeros(3, np.int8)},
            "has shape [3], which does not fit",
        ),
        ([node("Cast", ["w"], ["d"], to=1), MATMUL], {}, "stored as int8, with no DequantizeLinear"),
    ],
)
def test_what_cannot_be_read_is_skipped(nodes: Any, constants: Any, reason: str) -> None:
    found = only_site(model(nodes, {"w": stored_weight((3, 4), np.int8), **constants}))
    assert found.status == "skipped"
    assert reason in (found.reason or "")


def test_uses_that_dequantize_alike_or_not() -> None:
    weight = stored_weight((4, 4), np.int8)
    nodes = [
        node("DequantizeLinear", ["w", "s"], ["d"]),
        node("DequantizeLinear", ["w", "t"], ["e"]),
        node("MatMul", ["x", "d"]),
        node("MatMul", ["x", "e"], ["z"]),
    ]
    alike = model(nodes, {"w": weight, "s": np.float32(0.5), "t": np.float32(0.5)}, outputs=("y", "z"))
    assert only_site(alike).status == "eligible"
    differ = model(nodes, {"w": weight, "s": np.float32(0.5), "t": np.float32(0.25)}, outputs=("y", "z"))
    assert only_site(differ).reason == "its uses dequantize it differently"


def test_scale_shared_by_two_weights() -> None:
    nodes = [
        node("DequantizeLinear", ["v", "s"], ["d"]),
        node("DequantizeLinear", ["w", "s"], ["e"]),
        node("MatMul", ["x", "d"], ["h"]),
        node("MatMul", ["h", "e"]),
    ]
    made = model(
        nodes, {"v": stored_weight((3, 4), np.int8), "w": stored_weight((4, 5), np.int8), "s": np.float32(0.5)}
    )
    found = sites(made)
    assert {key: site.status for key, site in found.items()} == {"v": "eligible", "w": "eligible"}
    first, second = (found[key].site.quantization for key in "vw")
    assert first is not None
    assert second is not None
    assert first.scale is second.scale


@pytest.mark.parametrize(
    ("op_type", "domain", "index"),
    [
        ("QLinearConv", "", 3),
        ("ConvInteger", "", 1),
        ("QLinearMatMul", "", 3),
        ("MatMulInteger", "", 1),
        ("MatMulInteger", "", 0),
        ("QGemm", MICROSOFT, 3),
        ("QAttention", MICROSOFT, 1),
        ("DynamicQuantizeMatMul", MICROSOFT, 1),
        ("MatMulNBits", MICROSOFT, 1),
    ],
)
def test_weights_of_quantized_operators_are_listed(op_type: str, domain: str, index: int) -> None:
    names = ["x"] * 5
    names[index] = "w"
    made = model([node(op_type, names, domain=domain)], {"w": stored_weight((3, 4, 2), np.uint8)})
    found = only_site(made)
    assert (found.status, found.view, found.site.consumers) == ("skipped", None, (f"{op_type}#0",))
    assert f"stored as integers for {op_type}" in (found.reason or "")


def test_quantized_table_is_listed_and_index_table_is_not() -> None:
    """An embedding that is dequantized after the Gather is a weight; a table of positions is none."""
    gather = node("Gather", ["w", "x"])
    found = only_site(model([gather], {"w": stored_weight((6, 3), np.uint8)}))
    assert "stored as uint8" in (found.reason or "")
    assert not sites(model([gather], {"w": np.arange(12).reshape(3, 4)}))
    assert not sites(model([gather], {"w": np.arange(12, dtype=np.int32).reshape(3, 4)}))
    assert not sites(model([gather], {"w": np.ones((3, 4), bool)}))
