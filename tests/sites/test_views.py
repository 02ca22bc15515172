"""Every row of the design's table of matrices, against its formula written out with numpy."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.model import Model
from sn_graph.sites import Convention, Layout, MatrixView, matrix_of
from tests.support.builders import (
    DTYPES,
    MICROSOFT,
    Array,
    assert_same_up_to_order,
    drawn,
    model,
    node,
    only_site,
    sites,
)
from tests.support.oracle import singular_values

FEW = settings(max_examples=30, deadline=None)

SIZES = st.integers(1, 3)

DTYPE = st.sampled_from(list(DTYPES.values()))


class Expected(NamedTuple):
    """M and the length of u."""

    matrix: Array
    state: int


Formula = Callable[[Array], Expected]


def check(model: Model, weight: Array, keras: Formula, torch: Formula, in_order: bool = True, **options: Any) -> None:
    """Compare the plan's matrix of `w` under every convention with the formulas."""
    for convention in Convention:
        view = only_site(model, convention=convention, **options).view
        assert view is not None
        matrix = view.matrix(weight)
        expected = (keras if convention is Convention.KERAS else torch)(weight)
        if in_order:
            assert matrix.dtype == weight.dtype
            np.testing.assert_array_equal(matrix, expected.matrix)
        else:
            assert_same_up_to_order(matrix, expected.matrix)
        # both are float64 SVDs of the same numbers, at most in another order
        np.testing.assert_allclose(
            singular_values(matrix), singular_values(expected.matrix), rtol=1e-12, atol=1e-12 * prod(weight.shape)
        )
        length = expected.state
        if convention is Convention.TORCH_PARAMETRIZATION:  # its state is v, on the other side
            side = "cols" if expected.matrix.shape[0] == length else "rows"
            length = matrix.shape[side == "cols"]
            if expected.matrix.shape[0] != expected.matrix.shape[1]:
                assert view.side == side
        assert view.state_length == length
        assert (matrix.shape[0] if view.side == "rows" else matrix.shape[1]) == length
    auto = {"": keras, "pytorch": torch}
    for producer, formula in auto.items():
        model.proto.producer_name = producer
        view = only_site(model, **options).view
        assert view is not None
        assert view.state_length == formula(weight).state


def rows(matrix: Array) -> Expected:
    return Expected(matrix, matrix.shape[0])


def cols(matrix: Array) -> Expected:
    return Expected(matrix, matrix.shape[1])


def flat_rows(weight: Array) -> Expected:
    return rows(weight.reshape(weight.shape[0], -1))


@FEW
@given(
    st.sampled_from(["Conv", "FusedConv"]), SIZES, SIZES, SIZES, st.lists(SIZES, min_size=1, max_size=3), SIZES, DTYPE
)
def test_conv(op_type: str, group: int, out: int, into: int, kernel: list[int], dilation: int, dtype: Any) -> None:
    into += group > 1  # one input channel a group is depthwise
    weight = drawn(group * out, into, *kernel, dtype=dtype)
    domain = MICROSOFT if op_type == "FusedConv" else ""
    dilations = [dilation] * len(kernel)
    made = model([node(op_type, ["x", "w"], domain=domain, group=group, dilations=dilations)], {"w": weight})
    check(made, weight, flat_rows, flat_rows)
    assert only_site(made).site.groups == group


@FEW
@given(st.integers(2, 4), SIZES, st.lists(SIZES, min_size=1, max_size=3), DTYPE)
def test_depthwise_conv(channels: int, multiplier: int, kernel: list[int], dtype: Any) -> None:
    weight = drawn(channels * multiplier, 1, *kernel, dtype=dtype)

    def keras(weight: Array) -> Expected:  # (C, m, k…) -> m rows, each of one multiplier
        split = weight.reshape(channels, multiplier, *kernel)
        return rows(np.moveaxis(split, 1, 0).reshape(multiplier, -1))

    made = model([node("Conv", ["x", "w"], group=channels)], {"w": weight})
    check(made, weight, keras, flat_rows, in_order=False)
    # facts: W.reshape(C, m, kh, kw).transpose(2, 3, 0, 1).reshape(-1, m), as Keras itself has it
    split = weight.reshape(channels, multiplier, -1)
    kernel_matrix = split.transpose(2, 0, 1).reshape(-1, multiplier)
    view = only_site(made, convention="keras").view
    assert view is not None
    assert_same_up_to_order(view.matrix(weight).T, kernel_matrix)


def test_one_channel_is_the_same_depthwise_or_not() -> None:
    weight = drawn(4, 1, 3, 3)
    check(model([node("Conv", ["x", "w"])], {"w": weight}), weight, flat_rows, flat_rows)


@FEW
@given(SIZES, SIZES, SIZES, st.lists(SIZES, min_size=1, max_size=3), DTYPE)
def test_conv_transpose(group: int, out: int, into: int, kernel: list[int], dtype: Any) -> None:
    weight = drawn(group * into, out, *kernel, dtype=dtype)

    def torch(weight: Array) -> Expected:
        return rows(np.moveaxis(weight, 1, 0).reshape(out, -1))

    made = model([node("ConvTranspose", ["x", "w"], group=group)], {"w": weight})
    check(made, weight, flat_rows, torch, in_order=False)


@pytest.mark.parametrize("op_type", ["Gemm", "FusedGemm"])
@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_gemm(op_type: str, dtype: Any) -> None:
    domain = MICROSOFT if op_type == "FusedGemm" else ""
    weight = drawn(3, 4, dtype=dtype)
    for index, a, b, alpha, beta in product((0, 1), (0, 1), (0, 1), (1.0, 0.5), (1.0, 0.0)):
        attributes: dict[str, Any] = {"transA": a, "transB": b, "alpha": alpha, "beta": beta}
        names = ["w", "x", "c"] if index == 0 else ["x", "w", "c"]
        made = model([node(op_type, names, domain=domain, **attributes)], {"w": weight}, inputs=("x", "c"))
        # A is (M, K), with transA=1 (K, M), u on the M side; B is (K, N), with transB=1 (N, K), u on the N side
        formula = (cols, rows)[a == 0] if index == 0 else (cols, rows)[b == 1]
        check(made, weight, formula, formula)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 5, 3, 4)])
def test_matmul(shape: tuple[int, ...], index: int, dtype: Any) -> None:
    weight = drawn(*shape, dtype=dtype)

    def batched(weight: Array) -> Expected:
        return cols(weight.reshape(-1, weight.shape[-1]))

    formula = batched if len(shape) > 2 else rows if index == 0 else cols
    names = ["w", "x"] if index == 0 else ["x", "w"]
    check(model([node("MatMul", names)], {"w": weight}), weight, formula, formula)


def read_by_fused_matmul(weight: Array, trans: int, batch: int) -> Array:
    """The operand as com.microsoft.FusedMatMul multiplies it: transBatch moves the first axis behind the others."""
    if batch:
        weight = np.moveaxis(weight, 0, -2)
    return np.swapaxes(weight, -1, -2) if trans else weight


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize(("trans", "batch"), list(product((0, 1), (0, 1))))
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4), (2, 5, 3, 4)])
def test_fused_matmul(shape: tuple[int, ...], trans: int, batch: int, index: int) -> None:
    if len(shape) == 2 and batch:
        pytest.skip("a matrix has no batch axis")
    weight = drawn(*shape)
    operand = "AB"[index]
    attributes: dict[str, Any] = {f"trans{operand}": trans, f"transBatch{operand}": batch, "alpha": 0.25}
    names = ["w", "x"] if index == 0 else ["x", "w"]
    made = model([node("FusedMatMul", names, domain=MICROSOFT, **attributes)], {"w": weight})
    read = read_by_fused_matmul(weight, trans, batch)
    if len(shape) == 2:  # as Gemm: M is the stored tensor
        formula: Formula = (cols if trans else rows) if index == 0 else (rows if trans else cols)
        check(made, weight, formula, formula)
    else:
        width = read.shape[-1]

        def batched(weight: Array) -> Expected:
            return cols(read_by_fused_matmul(weight, trans, batch).reshape(-1, width))

        check(
            made,
            weight,
            batched,
            batched,
            in_order=False,  # the rows of a batch may stand in any order
        )
    x = drawn(*read.shape[:-2], *((7, read.shape[-2]) if index else (read.shape[-1], 7)), seed=1)
    session = onnxruntime.InferenceSession(made.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    (y,) = session.run(None, {"x": x})
    np.testing.assert_allclose(y, 0.25 * (x @ read if index else read @ x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("axis", [None, 0, -2])
def test_gather(axis: int | None, dtype: Any) -> None:
    weight = drawn(5, 3, dtype=dtype)
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    check(model([node("Gather", ["w", "x"], **attributes)], {"w": weight}), weight, cols, rows)


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 1), ((5, 3), -1), ((5, 3, 2), 0), ((5, 3, 2), 1)])
def test_other_gathers_hold_no_weight(shape: tuple[int, ...], axis: int) -> None:
    assert not sites(model([node("Gather", ["w", "x"], axis=axis)], {"w": drawn(*shape)}))


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
def test_attention(dtype: Any) -> None:
    weight = drawn(4, 12, dtype=dtype)
    made = model([node("Attention", ["x", "w", "b"], domain=MICROSOFT, num_heads=2)], {"w": weight}, inputs=("x", "b"))
    check(made, weight, cols, cols)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("index", [2, 3, 4])
def test_embed_layer_normalization(index: int, dtype: Any) -> None:
    weight = drawn(7, 4, dtype=dtype)
    names = ["ids", "segments", "words", "positions", "kinds", "gamma", "beta"]
    names[index] = "w"
    inputs = [name for name in names if name != "w"]
    made = model([node("EmbedLayerNormalization", names, domain=MICROSOFT)], {"w": weight}, inputs=inputs)
    check(made, weight, cols, rows)


@pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize(("op_type", "gates"), [("LSTM", 4), ("GRU", 3), ("RNN", 1)])
@pytest.mark.parametrize("index", [1, 2])
@pytest.mark.parametrize("directions", [1, 2])
def test_recurrent(op_type: str, gates: int, index: int, directions: int, dtype: Any) -> None:
    hidden = 3
    weight = drawn(directions, gates * hidden, hidden if index == 2 else 5, dtype=dtype)
    names = ["x", "w", "r"] if index == 1 else ["x", "r", "w"]
    made = model([node(op_type, names, hidden_size=hidden)], {"w": weight}, inputs=("x", "r"))

    def formula(weight: Array) -> Expected:
        return rows(weight.reshape(-1, weight.shape[-1]))

    check(made, weight, formula, formula, op_types=[op_type])
    asleep = only_site(made)
    assert (asleep.status, asleep.view is None) == ("skipped", False)
    assert "--op-type" in (asleep.reason or "")


def test_views_say_no_more_than_needed() -> None:
    """`split` and `perm` only where they do something."""
    square = {"w": drawn(8, 4, 3, 3)}
    conv = only_site(model([node("Conv", ["x", "w"])], square), convention="torch").view
    assert conv == MatrixView(None, None, 8, 36, "rows")
    deconv = only_site(model([node("ConvTranspose", ["x", "w"])], square), convention="torch").view
    assert deconv == MatrixView(None, (1, 0, 2, 3), 4, 72, "rows")
    pointwise = {"w": drawn(8, 4, 1, 1)}
    deconv = only_site(model([node("ConvTranspose", ["x", "w"])], pointwise), convention="torch").view
    assert deconv == MatrixView(None, (1, 0, 2, 3), 4, 8, "rows")
    depthwise = {"w": drawn(8, 1, 3, 5)}
    view = only_site(model([node("Conv", ["x", "w"], group=4)], depthwise), convention="keras").view
    assert view == MatrixView((4, 2, 3, 5), (1, 0, 2, 3), 2, 60, "rows")


@pytest.mark.parametrize(
    ("view", "fits"),
    [
        (MatrixView(None, None, 6, 4, "rows"), True),
        (MatrixView((2, 3, 4), (1, 0, 2), 3, 8, "cols"), True),
        (MatrixView(None, (1, 0), 4, 6, "rows"), True),
        (MatrixView(None, None, 5, 4, "rows"), False),
        (MatrixView((2, 3, 5), None, 6, 4, "rows"), False),
        (MatrixView(None, (0, 0), 6, 4, "rows"), False),
        (MatrixView(None, (1, 0, 2), 6, 4, "rows"), False),
        (MatrixView((24,), (1, 0), 6, 4, "rows"), False),
    ],
)
def test_fits(view: MatrixView, fits: bool) -> None:
    assert view.fits((6, 4)) is fits
    if fits:
        assert view.matrix(drawn(6, 4)).shape == (view.rows, view.cols)


def test_matrices_with_other_singular_values_are_told_apart() -> None:
    layout, shape = Layout.stored((2, 3, 4)), (2, 3, 4)
    by_first = matrix_of(layout, 1, "rows", shape)
    by_last = matrix_of(layout, 2, "rows", shape)
    by_middle = matrix_of(layout.transpose((1, 0, 2)), 1, "rows", shape)
    assert not by_first.same_singular_values(by_last)
    assert not by_first.same_singular_values(by_middle)
    assert by_first.same_singular_values(matrix_of(layout.transpose((2, 1, 0)), 2, "cols", shape))
