"""Starts: the seeded u, one of a state, or the leading singular vector; along the matrix or through the convolution."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

import sn_graph as sn
from sn_graph.choices import ConventionChoice
from sn_graph.model import Model
from sn_graph.norms import Start, Starter, plan_state
from sn_graph.plan import make_plan
from sn_graph.state import State
from tests.support.builders import Array, drawn, network, node
from tests.support.oracle import power_iteration, seeded, sigma_max, singular_values

NOTHING = State({}, {})


def product(weight: Array, alpha: float = 1.0) -> onnx.ModelProto:
    return network([node("Gemm", ["x", "w"], alpha=alpha)], {"w": weight}, {"x": (2, len(weight))})


def convolution(weight: Array, size: int | str = 6) -> onnx.ModelProto:
    return network([node("Conv", ["x", "w"], strides=[2, 2])], {"w": weight}, {"x": (1, weight.shape[1], size, size)})


def start(
    proto: onnx.ModelProto,
    state: State = NOTHING,
    seed: int = 0,
    exact: bool = False,
    convention: ConventionChoice = "keras",
    norm: str = "matrix",
) -> Start:
    """The start of the only weight."""
    model = Model.open(proto)
    plan = replace(make_plan(model, convention=convention), norm=norm)
    (target,) = plan.targets()
    matrix = target.matrix(model)
    return Starter(model, plan, state, seed, exact=exact).start(target, matrix, float(np.abs(matrix).max()))


@pytest.mark.parametrize(("convention", "length"), [("keras", 5), ("torch", 5), ("torch-parametrization", 7)])
@pytest.mark.parametrize("seed", [0, 3])
def test_a_random_start_has_the_seed_and_the_side_of_the_convention(
    convention: ConventionChoice, length: int, seed: int
) -> None:
    found = start(product(drawn(7, 5)), seed=seed, convention=convention)
    np.testing.assert_array_equal(found.u.astype(np.float32), seeded("w", length, seed))
    assert (found.through, found.factor, found.sigma, found.enclosed) == (None, 1.0, None, None)


def test_a_state_counts_more_than_the_seed_and_less_than_an_exact_start() -> None:
    weight, u = drawn(7, 5), drawn(5, seed=9)
    state = State({"w": u}, {})
    np.testing.assert_array_equal(start(product(weight), state).u, u)
    other = State({"another": u}, {})
    drawn_anew = start(product(weight), other).u
    np.testing.assert_array_equal(drawn_anew.astype(np.float32), seeded("w", 5))
    exact = start(product(weight), state, exact=True).u
    assert not np.allclose(exact, u)


@pytest.mark.parametrize("convention", ["keras", "torch", "torch-parametrization"])
def test_an_exact_start_stays_where_it_is(convention: ConventionChoice) -> None:
    weight = drawn(7, 5)
    found = start(product(weight), exact=True, convention=convention)
    matrix = weight if convention == "torch-parametrization" else weight.T
    sigma, u = power_iteration(matrix, found.u)
    assert found.sigma == pytest.approx(sigma_max(weight), rel=1e-6)
    assert sigma == pytest.approx(sigma_max(weight), rel=1e-6)
    np.testing.assert_allclose(u, found.u, atol=1e-5)
    gap = singular_values(weight)
    assert gap[0] > 1.05 * gap[1]  # else the vector is anyone's


@pytest.mark.parametrize(("norm", "factor"), [("matrix", 1.0), ("operator", 0.5)])
def test_alpha_counts_in_the_norm_of_what_the_consumers_do(norm: str, factor: float) -> None:
    assert start(product(drawn(7, 5), alpha=-0.5), norm=norm).factor == factor


def test_the_operator_norm_of_a_convolution_goes_through_it() -> None:
    weight = drawn(4, 3, 3, 3)
    by_matrix = start(convolution(weight))
    assert by_matrix.through is None
    assert by_matrix.u.shape == (4,)
    found = start(convolution(weight), norm="operator")
    assert found.through is not None
    np.testing.assert_array_equal(found.u.astype(np.float32), seeded("w", 4 * 2 * 2))


def test_an_exact_start_of_a_convolution_encloses_its_norm() -> None:
    weight = drawn(4, 3, 3, 3)
    found = start(convolution(weight), norm="operator", exact=True)
    (record,) = sn.inspect(convolution(weight), norm="operator", convention="keras").sites
    assert found.enclosed is not None
    assert (found.enclosed.lower, found.enclosed.upper) == pytest.approx(
        (record.sigma_operator, record.sigma_operator_upper), rel=1e-6
    )
    assert found.u.shape == (4 * 2 * 2,)
    assert found.sigma is None


@pytest.mark.parametrize(("largest", "floor"), [(3.0, 1e-12), (1e-6, 1e-12), (1e-8, 1e-20)])
def test_the_floor_falls_with_a_tiny_weight(largest: float, floor: float) -> None:
    """eps is the floor of norms as they are stored, but must not act on a weight that is tiny altogether."""
    weight = np.zeros((7, 5), np.float32)
    weight[0, 0] = largest
    assert start(product(weight)).floor == pytest.approx(floor, rel=1e-6)


# The state of a plan


def planned_state(proto: onnx.ModelProto, tensors: dict[str, Array], folder: Path, **metadata: str) -> State:
    save_file(tensors, folder / "u.safetensors", metadata or None)
    model = Model.open(proto)
    plan = replace(make_plan(model, convention="keras"), state=folder / "u.safetensors")
    return plan_state(plan, model)


def test_a_plan_without_a_state_has_an_empty_one() -> None:
    model = Model.open(product(drawn(7, 5)))
    found = plan_state(make_plan(model), model)
    assert (dict(found.u), dict(found.sigma)) == ({}, {})


def test_a_plans_state_is_read(tmp_path: Path) -> None:
    u = drawn(5)
    found = planned_state(product(drawn(7, 5)), {"w.u": u}, tmp_path)
    np.testing.assert_array_equal(found.u["w"], u)


def test_a_state_of_another_convention_or_length_is_refused(tmp_path: Path) -> None:
    with pytest.raises(sn.ModelError, match=r"is of convention torch, and keras is in force; give --convention torch"):
        planned_state(product(drawn(7, 5)), {"w.u": drawn(5)}, tmp_path, convention="torch")
    with pytest.raises(sn.ModelError, match="7"):
        planned_state(product(drawn(7, 5)), {"w.u": drawn(7)}, tmp_path)
