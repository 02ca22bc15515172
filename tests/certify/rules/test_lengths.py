"""Roots of sums and means of squares, and the pairs of GroupSort, as PyTorch's exporters write them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.support.certified import check, constant, network, nodes, refused

POOL = {"kernel_shape": [2, 2], "strides": [2, 2]}


def lp_pool(kernel: int, stride: int, *, times: float | None = None, size: int = 6) -> Any:
    """PyTorch's LPPool2d(2, kernel, stride): (sign(m) relu(|m|) k)^½ with m the mean of squares."""
    held = {
        "two": np.float32(2.0),
        "count": np.float32(kernel**2 if times is None else times),
        "half": np.float32(0.5),
    }
    return nodes(
        ("Pow", ["x", "two"], "s"),
        ("AveragePool", ["s"], "m", {"kernel_shape": [kernel] * 2, "strides": [stride] * 2}),
        ("Sign", ["m"], "sign"),
        ("Abs", ["m"], "abs"),
        ("Relu", ["abs"], "relu"),
        ("Mul", ["sign", "relu"], "signed"),
        ("Mul", ["signed", "count"], "c"),
        ("Pow", ["c", "half"], "y"),
        x=(1, 2, size, size),
        held=held,
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "proven"), [(2, 2, 1.0), (3, 3, 1.0), (3, 1, 3.0), (2, 1, 2.0), (3, 2, 2.0)]
)
def test_lp_pool(kernel: int, stride: int, proven: float) -> None:
    """Windows that overlap count an element as often as they hold it."""
    assert check(lp_pool(kernel, stride)) == pytest.approx(proven, rel=1e-9)


def test_a_mean_is_less_than_a_sum() -> None:
    assert check(lp_pool(2, 2, times=1.0), tight=True) == pytest.approx(0.5, rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 1e-6, 3.0])
@pytest.mark.parametrize(("op", "proven"), [("ReduceSum", 1.0), ("ReduceMean", 0.5)])
@pytest.mark.parametrize("keep", [0, 1])
def test_the_length_of_slices(op: str, proven: float, keep: int, epsilon: float) -> None:
    held = {"axes": np.array([-1]), "eps": np.float32(epsilon)}
    options = {"keepdims": keep} if op == "ReduceSum" else {"keepdims": keep, "axes": [-1]}
    model = nodes(
        ("Mul", ["x", "x"], "s"),
        (op, ["s", "axes"] if op == "ReduceSum" else ["s"], "m", options),
        ("Add", ["m", "eps"], "e"),
        ("Sqrt", ["e"], "y"),
        x=(3, 4),
        held=held,
    )
    assert check(model, tight=epsilon < 1.0) == pytest.approx(proven, rel=1e-9)


@pytest.mark.parametrize(
    "between",
    [
        [("Add", ["m", "minus"], "y0")],  # √ of less than a length: steep where that is 0
        [("Mul", ["m", "minus"], "y0")],
        [("Sub", ["m", "plus"], "y0")],
        [("Sign", ["m"], "sign"), ("Mul", ["sign", "m"], "t"), ("Mul", ["t", "m"], "y0")],  # m²
        [("Add", ["m", "x"], "y0")],
    ],
)
def test_what_is_no_length(between: list[Any]) -> None:
    held = {"axes": np.array([1]), "minus": np.float32(-0.25), "plus": np.float32(0.25)}
    model = nodes(
        ("Mul", ["x", "x"], "s"),
        ("ReduceSum", ["s", "axes"], "m"),
        *between,
        ("Sqrt", ["y0"], "y"),
        x=(1, 5),
        held=held,
    )
    assert refused(model).node.op_type in ("Sqrt", "Mul")


def test_signs_of_another_value_are_no_absolute_value() -> None:
    model = nodes(
        ("Mul", ["x", "x"], "s"),
        ("ReduceSum", ["s", "axes"], "m"),
        ("ReduceSum", ["x", "axes"], "other"),
        ("Sign", ["other"], "sign"),
        ("Abs", ["m"], "abs"),
        ("Mul", ["sign", "abs"], "v"),
        ("Sqrt", ["v"], "y"),
        x=(1, 5),
        held={"axes": np.array([1])},
    )
    refused(model)


def group_sort(group: int, *, least_first: bool = True, axis: int = 2) -> Any:
    """deel-torchlip's GroupSort2 on dense layers: pairs beside each other."""
    kinds = ("ReduceMin", "ReduceMax") if least_first else ("ReduceMax", "ReduceMin")
    held = {"pairs": np.array([1, 12 // group, group]), "flat": np.array([1, -1])}
    reduced = [(kind, ["p"], f"r{at}", {"axes": [2], "keepdims": 1}) for at, kind in enumerate(kinds)]
    return nodes(
        ("Reshape", ["x", "pairs"], "p"),
        *reduced,
        ("Concat", ["r0", "r1"], "c", {"axis": axis}),
        ("Reshape", ["c", "flat"], "y"),
        x=(1, 12),
        held=held,
    )


@pytest.mark.parametrize("least_first", [True, False])
@pytest.mark.parametrize("axis", [1, 2, -1])
def test_group_sort_of_pairs(axis: int, least_first: bool) -> None:
    assert check(group_sort(2, axis=axis, least_first=least_first), tight=True) == 1.0


def test_larger_groups_are_no_pairs() -> None:
    """Least and greatest of three are each of norm 1: √2 together by their own rules."""
    assert constant(network(group_sort(3))) == pytest.approx(np.sqrt(2.0), rel=1e-9)
