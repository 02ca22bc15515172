"""Level 1, and the coarser norms that it takes where there is no time."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from sn_graph.certify.product import product_bounds
from sn_graph.certify.steps import Convolved, Linear, Unbounded
from tests.support.builders import drawn
from tests.support.certified import check, constant, network, nodes, one_node, whole

F = np.float32


@settings(max_examples=40, deadline=None)
@given(
    taps=st.integers(1, 4),
    stride=st.integers(1, 4),
    dilation=st.integers(1, 3),
    pad=st.integers(0, 2),
    group=st.integers(1, 2),
    transposed=st.booleans(),
)
def test_the_coarse_norm_of_a_convolution_is_above_the_norm(
    taps: int, stride: int, dilation: int, pad: int, group: int, transposed: bool
) -> None:
    operator = "ConvTranspose" if transposed else "Conv"
    options: dict[str, Any] = {"strides": [stride], "dilations": [dilation], "pads": [pad, pad], "group": group}
    weight = np.abs(drawn(4, 4 // group, taps, seed=taps))  # of one sign, which comes closest
    made = network(one_node(operator, (1, 4, 13), weight, **options))
    (step,) = [one for one in made.steps if isinstance(one, Linear)]
    (part,) = step.parts
    assert isinstance(part, Convolved)
    quick, supremum = part.quick(dynamic=True), part.supremum()
    assert quick is not None
    assert supremum is not None
    assert part.norm() <= quick * (1 + 1e-9)
    assert supremum <= quick * (1 + 1e-4)


def test_it_is_attained_by_a_box() -> None:
    made = network(one_node("Conv", (1, 1, 500), np.ones((1, 1, 4), F)))
    (step,) = [one for one in made.steps if isinstance(one, Linear)]
    assert step.parts[0].quick(dynamic=False) == pytest.approx(4.0)
    assert step.parts[0].norm() == pytest.approx(4.0, rel=1e-3)


def test_without_time_the_bound_is_coarse_and_says_so() -> None:
    made = network(one_node("Conv", (1, 3, 9, 9), drawn(4, 3, 3, 3)))
    late, exact = product_bounds(made, deadline=0.0), product_bounds(made)
    assert not isinstance(late, Unbounded)
    assert not isinstance(exact, Unbounded)
    assert late[0].is_hurried
    assert not exact[0].is_hurried
    assert exact[0].bound <= late[0].bound <= 4.0 * exact[0].bound


def test_sums_add_and_concatenations_join_as_roots() -> None:
    both = nodes(
        ("Mul", ["x", "a"], "u"), ("Mul", ["x", "b"], "v"), ("Add", ["u", "v"], "y"), held={"a": F(3), "b": F(4)}
    )
    assert check(both) == pytest.approx(7.0)
    side = nodes(
        ("Mul", ["x", "a"], "u"),
        ("Mul", ["x", "b"], "v"),
        ("Concat", ["u", "v"], "y", {"axis": 1}),
        held={"a": F(3), "b": F(4)},
    )
    assert check(side) == pytest.approx(5.0)


def test_a_path_of_weight_0_counts_nothing() -> None:
    model = nodes(("Mul", ["x", "a"], "u"), ("Add", ["u", "x"], "y"), held={"a": F(0)})
    assert check(model) == 1.0


def test_an_output_that_is_the_input_or_a_constant() -> None:
    assert constant(network(nodes(("Identity", ["x"], "y")))) == 1.0
    assert constant(network(nodes(("Add", ["a", "a"], "y"), held={"a": drawn(2, 3)}))) == 0.0


def test_a_bound_beyond_all_numbers_is_none() -> None:
    made = network(
        whole(
            [
                helper.make_node("Mul", [f"v{i}" if i else "x", "a"], ["y" if i == 11 else f"v{i + 1}"])
                for i in range(12)
            ],
            (1, 3),
            {"a": F(1e30)},
        )
    )
    found = product_bounds(made)
    assert isinstance(found, Unbounded)
    assert found.path == "Mul#10"


def wrong_elsewhere(name: str) -> tuple[onnx.ModelProto, float]:
    """Networks for which a published estimator gives less than is attained, with what is attained."""
    rng = np.random.default_rng(0)
    held = {"w": rng.standard_normal((5, 5)).astype(F), "u": rng.standard_normal((5, 5)).astype(F)}
    parts: list[Any] = [("MatMul", ["x", "w"], "h"), ("Relu", ["n"], "r"), ("MatMul", ["r", "u"], "y")]
    least = 10.0
    if name == "batch normalization":
        held |= {"s": np.full(5, 2, F), "b": np.zeros(5, F), "m": np.zeros(5, F), "v": np.full(5, 0.01, F)}
        parts.insert(1, ("BatchNormalization", ["h", "s", "b", "m", "v"], "n"))
    elif name == "a factor":
        held["ten"] = np.array(10, F)
        parts.insert(1, ("Mul", ["h", "ten"], "n"))
    elif name == "a residual":
        parts, least = [*parts[:1], ("Relu", ["h"], "r"), ("MatMul", ["r", "u"], "b"), ("Add", ["x", "b"], "y")], 1.5
    else:
        parts, least = [parts[0], ("Elu", ["h"], "r", {"alpha": 5.0}), parts[2]], 5.0
    return nodes(*parts, x=(1, 5), held=held), least


@pytest.mark.parametrize("name", ["batch normalization", "a residual", "a factor", "a slope of 5"])
def test_networks_on_which_another_estimator_is_wrong(name: str) -> None:
    model, least = wrong_elsewhere(name)
    assert check(model) >= least


def test_a_weight_of_tiny_scale() -> None:
    model = nodes(("MatMul", ["x", "w"], "y"), x=(1, 6), held={"w": 1e-5 * drawn(6, 4)})
    exact = float(np.linalg.norm((1e-5 * drawn(6, 4)).astype(np.float64), 2))
    assert exact <= constant(network(model)) <= exact * (1 + 1e-6)
