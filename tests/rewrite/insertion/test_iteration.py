"""The two forms of the iteration: which is chosen, and that both are the float64 iteration."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sn_graph as sn
from sn_graph.choices import ConventionChoice, StateLayoutChoice
from sn_graph.plan import make_plan
from sn_graph.rewrite import emit
from sn_graph.rewrite.insertion import iteration
from tests.support.builders import Array, drawn, network, node
from tests.support.oracle import power_iteration
from tests.support.runs import check, session


@pytest.fixture(autouse=True)
def small_ranks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small matrices have small ranks: most tests are of the form that larger ones get."""
    if "rank" not in request.node.name.partition("[")[0]:
        monkeypatch.setattr(iteration, "_GRAM_RANK", 0.0)


def linear(weight: Array, opset: int = 17) -> onnx.ModelProto:
    """x · W; u is on the columns."""
    return network(
        [node("MatMul", ["x", "w"], ["y"])],
        {"w": weight},
        {"x": (2, len(weight))},
        dtype=weight.dtype.name,
        opset=opset,
    )


def has_gram(model: onnx.ModelProto) -> bool:
    return any(one.output[0].endswith("/gram") for one in model.graph.node)


def inserted(weight: Array, opset: int = 17, **options: Any) -> onnx.ModelProto:
    return sn.insert(linear(weight, opset), **options).to_proto()


def with_spectrum(rows: int, cols: int, values: Array, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    left = np.linalg.qr(rng.standard_normal((rows, len(values))))[0]
    right = np.linalg.qr(rng.standard_normal((cols, len(values))))[0]
    made: Array = (left * values @ right.T).astype(np.float32)
    return made


def test_gram_where_u_is_on_the_shorter_side() -> None:
    assert has_gram(inserted(drawn(6, 5)))
    assert has_gram(inserted(drawn(6, 6)))
    assert not has_gram(inserted(drawn(5, 6)))
    assert has_gram(inserted(drawn(5, 6), convention="torch-parametrization"))  # its state is on the other side


@pytest.mark.parametrize(("factor", "expected"), [(1e-7, False), (1e-5, True), (1e7, True), (1e10, False)])
def test_gram_only_where_the_fourth_power_of_sigma_is_a_float32(factor: float, expected: bool) -> None:
    weight = drawn(7, 5) * np.float32(factor)
    model = linear(weight)
    made = check(model, {"w": weight.T}, {"x": drawn(2, 7, seed=1)}, steps=(1, 10))
    assert has_gram(made) is expected


def test_gram_of_float64_from_opset_8_on() -> None:
    for opset, expected in ((7, False), (8, True), (17, True)):
        weight = drawn(6, 4, dtype=np.float64)
        made = check(linear(weight, opset), {"w": weight.T}, {"x": drawn(2, 6, dtype=np.float64)}, state_tolerance=1e-6)
        assert has_gram(made) is expected
    assert has_gram(inserted(drawn(6, 4, dtype=np.float64) * 1e-25))


def test_gram_not_where_eps_could_act() -> None:
    for eps, expected in ((1e-12, True), (0.5, False)):
        model = sn.Model.open(linear(drawn(6, 5)))
        assert has_gram(sn.insert(model, plan=replace(make_plan(model), eps=eps)).to_proto()) is expected


def test_the_work_of_loading_is_limited_and_the_cheapest_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = {"a": drawn(9, 8), "b": drawn(8, 4), "c": drawn(4, 4)}
    nodes = [node("MatMul", [x, w], [y]) for x, w, y in zip("xpq", "abc", "pqy", strict=True)]
    model = network(nodes, weights, {"x": (2, 9)})
    monkeypatch.setattr(iteration, "GRAM_WORK", 4 * 4 * 8 + 4 * 4 * 4)
    made = sn.insert(model).to_proto()
    assert [one.name for one in made.graph.node if one.name.endswith("/gram")] == ["sn/b/gram", "sn/c/gram"]
    check(model, {name: array.T for name, array in weights.items()}, {"x": drawn(2, 9, seed=1)})


@pytest.mark.parametrize("k", [1, 3])
def test_long_states_go_as_rows(k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iteration, "_LONG", 5)
    weight = drawn(7, 5)
    made = check(linear(weight), {"w": weight.T}, {"x": drawn(2, 7, seed=1)}, k=k)
    assert any(one.name.endswith("/w_row") for one in made.graph.node)


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("shape", [(14, 6), (6, 14)], ids=["G", "M"])
def test_long_norms_go_by_rows(shape: tuple[int, int], k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(emit, "LONG_SUM", 5)
    weight = drawn(*shape)
    made = check(linear(weight), {"w": weight.T}, {"x": drawn(2, shape[0], seed=1)}, k=k)
    assert any(one.name.endswith("_by_row") for one in made.graph.node)


SPECTRA = {
    "two equal": np.array([1.0, 1.0, 0.3, 0.1, 0.05, 0.02]),
    "all equal": np.ones(6),
    "close": np.array([1.0, 1.0 - 1e-6, 0.9, 0.5, 0.1, 0.01]),
    "graded": np.logspace(0, -12, 6),
    "rank 1": np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0]),
}


@pytest.mark.parametrize("values", SPECTRA.values(), ids=SPECTRA)
@pytest.mark.parametrize("seed", range(5))
def test_nasty_spectra(values: Array, seed: int) -> None:
    weight = with_spectrum(40, 24, values, seed)
    made = check(linear(weight), {"w": weight.T}, {"x": drawn(2, 40, seed=1)}, seed=seed)
    assert has_gram(made)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 12),
    cols=st.integers(1, 12),
    k=st.integers(1, 3),
    seed=st.integers(0, 99),
    opset=st.sampled_from((7, 11, 17)),
)
def test_any_shape_either_form(rows: int, cols: int, k: int, seed: int, opset: int) -> None:
    weight = drawn(rows, cols, seed=seed)
    # Behind 10 steps, near-equal values would let u depend on the rounding of float32 itself.
    made = check(
        linear(weight, opset), {"w": weight.T}, {"x": drawn(2, rows, seed=1)}, k=k, seed=seed, steps=(1, 2, 10)
    )
    assert has_gram(made) is (cols <= rows)


def test_a_u_that_m_does_not_reach_gives_no_nan() -> None:
    """q is rounding error there; σ stays within the norms that G allows, and u finds its way back."""
    weight = with_spectrum(8, 6, np.array([1.0, 0.5]))
    _, _, right = np.linalg.svd(weight.astype(np.float64))
    running = session(inserted(weight))
    u, x = right[-1:].T.astype(np.float32), drawn(2, 8)
    for _ in range(20):
        _, u, sigma = running.run(None, {"x": x, "sn_u": u})
        assert np.isfinite(u).all()
        assert 0.0 <= sigma[0] <= 1.2  # ‖G‖ of Frobenius is √(1 + 1/16)
    np.testing.assert_allclose(sigma[0], 1.0, rtol=1e-5)


@pytest.mark.parametrize("dead", [0.0, math.nan, math.inf, 1e25, 1e-25], ids=str)
@pytest.mark.parametrize("weight", [drawn(6, 5), drawn(5, 6), drawn(6, 5, dtype=np.float64)], ids=["G", "M", "float64"])
@pytest.mark.parametrize("opset", [7, 8, 9, 17])
@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_a_dead_u_begins_anew(dead: float, weight: Array, opset: int, layout: StateLayoutChoice) -> None:
    """No iteration comes back from it; the graph takes the first u instead, of this weight alone."""
    weights = {"a": weight, "b": drawn(weight.shape[1], 4).astype(weight.dtype)}
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])]
    model = network(nodes, weights, {"x": (2, len(weight))}, opset=opset, dtype=weight.dtype.name)
    running = session(sn.insert(model, state_layout=layout).to_proto())
    x = {"x": drawn(2, len(weight)).astype(weight.dtype)}
    names = [one.name for one in running.get_outputs()]
    fresh = dict(zip(names, running.run(None, x), strict=True))
    after = {one.name: fresh[one.name + ".next"] for one in running.get_overridable_initializers()}
    once = dict(zip(names, running.run(None, x | after), strict=True))
    length = weight.shape[1]
    for part in (slice(0, length), slice(0, 1)):  # all of a's u, or one element of it
        if part == slice(0, 1) and (dead == 0.0 or dead == 1e-25):
            continue
        fed = {name: array.copy() for name, array in after.items()}
        next(iter(fed.values()))[part] = dead
        found = dict(zip(names, running.run(None, x | fed), strict=True))
        if layout == "packed":
            sigma, expected = found["sn_sigma"], [fresh["sn_sigma"][0], once["sn_sigma"][1]]
        else:
            sigma = [found["a.sn_sigma"][0], found["b.sn_sigma"][0]]
            expected = [fresh["a.sn_sigma"][0], once["b.sn_sigma"][0]]
        np.testing.assert_allclose(sigma, expected, rtol=1e-6)
        assert np.isfinite(found["y"]).all()


def test_a_u_of_another_length_is_not_dead() -> None:
    weight = drawn(6, 5)
    running = session(inserted(weight))
    u = drawn(5, 1, seed=3)
    expected, _ = power_iteration(weight.T, u[:, 0])
    for scale in (1e-6, 1.0, 1e6):
        sigma = running.run(["sn_sigma"], {"x": drawn(2, 6), "sn_u": u * np.float32(scale)})[0]
        assert sigma[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_first_runs_on_low_rank(rank: int, noise: float) -> None:
    """q = uᵀGu cancels where u has little of what M reaches: σ came out up to 1.7e-3 off."""
    generator = np.random.default_rng(rank)
    weight = generator.standard_normal((512, rank)) @ generator.standard_normal((rank, 512)) / 512
    weight = (weight + noise * generator.standard_normal((512, 512)) / np.sqrt(512)).astype(np.float32)
    running, x, largest = session(inserted(weight)), np.zeros((2, 512), np.float32), float(np.linalg.norm(weight, 2))
    for seed in range(200):
        u = np.random.default_rng(seed).standard_normal((512, 1)).astype(np.float32)
        u /= np.linalg.norm(u)
        sigma = running.run(["sn_sigma"], {"x": x, "sn_u": u})[0]
        expected, _ = power_iteration(weight.T, u[:, 0])
        # A u that is all but orthogonal to the leading vector gives a small σ, which float32 sums know no better.
        assert sigma[0] == pytest.approx(expected, rel=2e-6 + 1.5e-6 * largest / expected), seed


def test_gram_by_stable_rank() -> None:
    assert has_gram(inserted(drawn(64, 64)))
    assert not has_gram(inserted(np.outer(drawn(64), drawn(64, seed=1))))
    assert has_gram(inserted(np.outer(drawn(64), drawn(64, seed=1)).astype(np.float64)))
    for sigma in ("power", "exact"):
        assert not has_gram(inserted(with_spectrum(64, 64, np.ones(7)), sigma=sigma))
        assert has_gram(inserted(with_spectrum(64, 64, np.ones(20)), sigma=sigma))


def test_what_a_table_costs_is_told() -> None:
    cases: list[tuple[int, int, ConventionChoice, float]] = [(500, 50, "keras", 0.01), (500, 50, "torch", 0.2)]
    for rows, cols, convention, megabytes in cases:
        model = network([node("Gather", ["w", "i"], ["y"])], {"w": drawn(rows, cols)}, {"i": (3,)}, integers=["i"])
        (record,) = sn.insert(model, convention=convention).sites
        assert f"each run reads {megabytes:.3g} MB" in " ".join(record.notes)


@pytest.mark.parametrize("layout", ["packed", "per-weight"])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("weight", [drawn(6, 5), drawn(5, 6), drawn(6, 5, dtype=np.float64)], ids=["G", "M", "float64"])
def test_the_new_u_waits_for_every_reader_of_the_old(layout: StateLayoutChoice, k: int, weight: Array) -> None:
    """A session may give both one buffer."""
    graph = inserted(weight, state_layout=layout, power_iterations=k).graph
    u, following = graph.input[-1].name, next(one.name for one in graph.output if one.name.endswith("sn_u.next"))
    views, readers = {u}, []
    for one in graph.node:
        if views & set(one.input):
            readers.append(one)
            views |= set(one.output) if one.op_type in ("Split", "Reshape") else set()
    needed = {following}
    for one in reversed(graph.node):
        needed |= set(one.input) if needed & set(one.output) else set()
    assert readers
    assert all(needed & set(one.output) for one in readers)
