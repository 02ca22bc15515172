"""The levels against published constants, layers whose constant is known, and networks that break other tools."""

import itertools
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sn_graph.certify import Network
from sn_graph.certify.dense import Size, layers_of, slope_problem, widths
from sn_graph.certify.levels import Levels, higher_levels
from sn_graph.certify.product import product_bounds
from sn_graph.certify.segments import Segment
from tests.support.certified import network, nodes

SHARED = Path(__file__).parents[2] / "../shared/certify"
PAD = {"pads": [1, 1, 1, 1]}
RNG = np.random.default_rng(0)


def levels(made: Network, seconds: float = 60.0, **options: bool) -> Levels:
    bounds = product_bounds(made)
    assert isinstance(bounds, list)
    found = higher_levels(made, bounds, deadline=time.monotonic() + seconds, **options)
    values = list(found.bounds.values())
    assert values == sorted(values, reverse=True)
    return found


def quotient(made: Network, seed: int = 0, tries: int = 60) -> float:
    """The largest quotient of random pairs, and norm of Jacobians by power iteration."""
    rng = np.random.default_rng(seed)
    shape = made.sources[0].shape
    best = 0.0
    for _ in range(tries):
        x = 10.0 ** rng.uniform(-2, 1) * rng.standard_normal(shape)
        values = made.values([x])
        d = rng.standard_normal(shape)
        for _ in range(10):
            d = d / np.linalg.norm(d)
            moved = made.push(values, [d])
            best = max(best, float(np.linalg.norm(moved)))
            (d,) = made.pull(values, moved)
            if not d.any():
                break
        if d.any():
            other = x + 1e-3 * d / np.linalg.norm(d)
            best = max(best, float(np.linalg.norm(made.forward(other) - made.forward(x)) / np.linalg.norm(other - x)))
    return best


def chain(weights: list[np.ndarray]) -> Network:
    held: dict[str, Any] = {}
    parts: list[tuple[Any, ...]] = []
    at = "x"
    for place, weight in enumerate(weights):
        held[f"w{place}"] = weight
        parts.append(("Gemm", [at, f"w{place}"], f"g{place}", {"transB": 1}))
        if place < len(weights) - 1:
            parts.append(("Relu", [f"g{place}"], f"r{place}"))
        at = parts[-1][2]
    parts.append(("Identity", [at], "y"))
    return network(nodes(*parts, x=(1, weights[0].shape[1]), held=held))


@pytest.mark.parametrize(("name", "limit"), [("random", 36.4823), ("mnist", 24.3664)])
def test_published(name: str, limit: float) -> None:
    """LipSDP's examples (Fazlyab et al., 2019, 1906.04893)."""
    path = SHARED / f"{name}_weights.npz"
    if not path.exists():
        pytest.skip(f"{path.name} is not there")
    held = np.load(path)
    found = levels(chain([held[key] for key in held.files]))
    assert found.bounds["lmi"] <= limit


def sll(rng: np.random.Generator, place: int, shape: tuple[int, ...], cpl: bool) -> tuple[list[Any], dict[str, Any]]:
    """x − 2 W T⁻¹ relu(Wᵀx + b); T = ‖W‖² for CPL (Meunier et al., 2022, 2110.12690), sums for SLL (2303.03169)."""
    at, name = ("x", "y0") if place == 0 else (f"y{place - 1}", f"y{place}")
    if len(shape) == 2:
        w = rng.standard_normal((shape[1], shape[1] + 3))
        t = np.full(w.shape[1], np.linalg.norm(w, 2) ** 2) if cpl else np.abs(w.T @ w).sum(axis=1)
        held = {f"w{place}": w, f"v{place}": -2.0 * (w / t).T, f"b{place}": rng.standard_normal(w.shape[1])}
        parts = [
            ("Gemm", [at, f"w{place}", f"b{place}"], f"a{place}"),
            ("Relu", [f"a{place}"], f"r{place}"),
            ("MatMul", [f"r{place}", f"v{place}"], f"d{place}"),
            ("Add", [at, f"d{place}"], name),
        ]
        return parts, held
    k = rng.standard_normal((3, shape[1], 3, 3))
    gram = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            for dy in range(-2, 3):
                for dx in range(-2, 3):
                    top = k[i][:, max(0, dy) : 3 + min(0, dy), max(0, dx) : 3 + min(0, dx)]
                    low = k[j][:, max(0, -dy) : 3 + min(0, -dy), max(0, -dx) : 3 + min(0, -dx)]
                    gram[i, j] += abs(float((top * low).sum()))
    t = gram.sum(axis=1)
    held = {
        f"w{place}": k,
        f"t{place}": (2.0 / (t.max() if cpl else t)) * np.ones(3),
        f"b{place}": rng.standard_normal(3),
    }
    held[f"t{place}"] = held[f"t{place}"].reshape(1, 3, 1, 1)
    convolved: list[tuple[Any, ...]] = [
        ("Conv", [at, f"w{place}", f"b{place}"], f"a{place}", PAD),
        ("Relu", [f"a{place}"], f"r{place}"),
        ("Mul", [f"r{place}", f"t{place}"], f"m{place}"),
        ("ConvTranspose", [f"m{place}", f"w{place}"], f"d{place}", PAD),
        ("Sub", [at, f"d{place}"], name),
    ]
    return convolved, held


@pytest.mark.parametrize("cpl", [False, True])
@pytest.mark.parametrize("shape", [(1, 12), (1, 2, 7, 6)])
def test_stacks_of_layers_of_constant_one(shape: tuple[int, ...], cpl: bool) -> None:
    rng = np.random.default_rng(1)
    parts: list[Any] = []
    held: dict[str, Any] = {}
    for place in range(3):
        more, own = sll(rng, place, shape, cpl)
        parts += more
        held |= own
    parts.append(("Identity", ["y2"], "y"))
    made = network(nodes(*parts, x=shape, held=held))
    found = levels(made)
    assert found.bounds["product"] > 2.0
    assert found.bounds["lmi"] <= 1.0 + 1e-6
    assert quotient(made, tries=10) <= 1.0 + 1e-9


def drawn(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


A, B = drawn(6, 6), drawn(6, 6)
HELD: Mapping[str, Any] = {
    "a": A,
    "b": B,
    "ten": np.array(10.0),
    "scale": np.full(6, 3.0),
    "zero": np.zeros(6),
    "var": np.full(6, 0.09),
    "tiny": 1e-5 * A,
}
SKIPPED: dict[str, list[tuple[Any, ...]]] = {
    # eclipse-nn leaves out what it does not know, and says ≤ 0.841, 0.736, 0.747 and 0.977 of networks like these.
    "batch normalization": [
        ("MatMul", ["x", "a"], "c"),
        ("BatchNormalization", ["c", "scale", "zero", "zero", "var"], "n"),
        ("Relu", ["n"], "r"),
        ("MatMul", ["r", "b"], "y"),
    ],
    "residual": [
        ("MatMul", ["x", "a"], "c"),
        ("Relu", ["c"], "r"),
        ("MatMul", ["r", "b"], "d"),
        ("Add", ["x", "d"], "y"),
    ],
    "factor": [
        ("MatMul", ["x", "a"], "c"),
        ("Mul", ["c", "ten"], "m"),
        ("Relu", ["m"], "r"),
        ("MatMul", ["r", "b"], "y"),
    ],
    "elu of 5": [("MatMul", ["x", "a"], "c"), ("Elu", ["c"], "r", {"alpha": 5.0}), ("MatMul", ["r", "b"], "y")],
    # gloro #8
    "small weights": [("MatMul", ["x", "tiny"], "c"), ("Relu", ["c"], "r"), ("MatMul", ["r", "tiny"], "y")],
    "negative slopes": [
        ("MatMul", ["x", "a"], "c"),
        ("LeakyRelu", ["c"], "r", {"alpha": -1.5}),
        ("Sub", ["x", "r"], "y"),
    ],
    "absolute": [("Abs", ["x"], "r"), ("MatMul", ["r", "a"], "c"), ("Abs", ["c"], "s"), ("Add", ["s", "x"], "y")],
}


@pytest.mark.parametrize("name", SKIPPED)
def test_what_others_leave_out(name: str) -> None:
    made = network(nodes(*SKIPPED[name], x=(1, 6), held=HELD))
    found = levels(made)
    attained = quotient(made)
    assert 0.3 * found.bounds["lmi"] < attained <= found.bounds["lmi"] * (1.0 + 1e-9)


def test_levels_that_are_asked_for() -> None:
    made = network(nodes(*SKIPPED["residual"], x=(1, 6), held=HELD))
    assert list(levels(made, lmi=False).bounds) == ["product", "fused"]
    found = levels(made)
    assert list(found.bounds) == ["product", "fused", "fast", "lmi"]
    assert found.bounds["lmi"] < found.bounds["fused"]
    assert found.how == {(0, 1): "lmi"}


def test_no_time_is_the_product() -> None:
    made = network(nodes(*SKIPPED["residual"], x=(1, 6), held=HELD))
    found = levels(made, seconds=-1.0)
    assert found.bounds["lmi"] == found.bounds["product"]


def test_sizes_that_are_open_have_the_product_only() -> None:
    """What is composed at an example of a size holds at that size alone."""
    k = np.ones((1, 1, 3, 3)) / 3.0
    parts: list[tuple[Any, ...]] = [
        ("Conv", ["x", "k"], "c", PAD),
        ("Relu", ["c"], "r"),
        ("Conv", ["r", "k"], "y", PAD),
    ]
    open_ = network(nodes(*parts, x=(1, 1, "h", "w"), held={"k": k}))
    found = levels(open_)
    assert found.bounds["lmi"] == found.bounds["product"] >= 9.0
    closed = levels(network(nodes(*parts, x=(1, 1, 4, 4), held={"k": k})))
    assert closed.bounds["lmi"] < 9.0


def test_a_segment_that_is_no_network_of_neurons() -> None:
    made = network(nodes(("Softmax", ["x"], "s", {"axis": 1}), ("Add", ["x", "s"], "y"), x=(1, 5)))
    segment = Segment({"x": (1, 5)}, made.output, made.steps)
    assert Size.of(segment) is None
    assert slope_problem(segment) is None
    assert levels(made).bounds["lmi"] == levels(made).bounds["product"]


@pytest.mark.parametrize("seed", range(25))
def test_random_networks_hold(seed: int) -> None:
    """Dense networks with skips, concatenations and slices: attained ≤ proven."""
    rng = np.random.default_rng(seed)
    held: dict[str, Any] = {f"w{i}": rng.standard_normal((4, 4)) * rng.choice([0.3, 1.0]) for i in range(4)}
    values = ["x"]
    parts: list[tuple[Any, ...]] = []
    for place in range(int(rng.integers(3, 9))):
        old, name = str(rng.choice(values[-3:])), f"v{place}"
        kind = int(rng.integers(0, 5))
        if kind == 0:
            parts.append(("MatMul", [old, f"w{rng.integers(0, 4)}"], name))
        elif kind == 1:
            parts.append(("LeakyRelu", [old], name, {"alpha": float(rng.choice([-1.0, 0.0, 0.2, 1.5]))}))
        elif kind == 2:
            parts.append((str(rng.choice(["Sigmoid", "Tanh", "Softplus", "HardSwish"])), [old], name))
        elif kind == 3:
            parts.append(("Sub", [old, str(rng.choice(values))], name))
        else:
            parts.append(("Concat", [old, values[-1]], f"{name}c", {"axis": 1}))
            held[f"m{place}"] = rng.standard_normal((8, 4)) * 0.4
            parts.append(("MatMul", [f"{name}c", f"m{place}"], name))
        values.append(name)
    parts.append(("Add", [values[-1], values[-2]], "y"))
    made = network(nodes(*parts, x=(1, 4), held=held))
    if made.constant is not None:
        pytest.skip("it does not depend on x")
    assert quotient(made, seed, tries=20) <= levels(made, 5.0).bounds["lmi"] * (1.0 + 1e-9) + 1e-12


def whole(made: Network) -> Segment:
    return Segment({source.name: source.shape for source in made.sources}, made.output, made.steps)


def test_chains_are_written_out_layer_by_layer() -> None:
    weights = [RNG.standard_normal(shape) for shape in ((5, 4), (6, 5), (2, 6))]
    segment = whole(chain(weights))
    assert widths(segment) == [4, 5, 6, 2]
    layers = layers_of(segment)
    assert layers is not None
    assert all((own == given).all() for own, given in zip(layers.weights, weights, strict=True))
    assert [len(low) for low in layers.low] == [5, 6]
    # A linear branch between two activations is one matrix; a skip around one is no chain.
    forked = [("Relu", ["x"], "r"), ("MatMul", ["r", "a"], "c"), ("Add", ["r", "c"], "s"), ("Tanh", ["s"], "y")]
    found = layers_of(whole(network(nodes(*forked, x=(1, 6), held=HELD))))
    assert found is not None
    assert np.allclose(found.weights[1], np.eye(6) + A.T)
    assert widths(whole(network(nodes(*SKIPPED["residual"], x=(1, 6), held=HELD)))) is None


def test_long_chains() -> None:
    """ECLipsE's kind of network, of more rows than are solved at once (Xu and Sivaranjani, 2024, 2404.04375)."""
    rng = np.random.default_rng(3)
    sizes = [4, *[40] * 12, 1]
    weights = [rng.uniform(-1.0, 1.0, (b, a)) / np.sqrt(a) for a, b in itertools.pairwise(sizes)]
    made = chain(weights)
    found = levels(made, 20.0)
    assert found.bounds["lmi"] < 0.05 * found.bounds["product"]
    assert quotient(made, tries=10) <= found.bounds["lmi"]


def test_values_without_elements() -> None:
    """What leads through nothing at all adds nothing, and stops nothing."""
    held = {"none": np.zeros((6, 0)), "back": np.zeros((0, 6)), "a": A}
    parts = [
        ("MatMul", ["x", "none"], "n"),
        ("MatMul", ["n", "back"], "m"),
        ("MatMul", ["x", "a"], "c"),
        ("Relu", ["c"], "r"),
        ("Add", ["m", "r"], "y"),
    ]
    found = levels(network(nodes(*parts, x=(1, 6), held=held)))
    assert found.bounds["lmi"] == pytest.approx(np.linalg.norm(A, 2))
