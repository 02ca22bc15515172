"""Level 2 against norms known beforehand, and against the product."""

from typing import Any

import numpy as np
import pytest

from sn_graph.certify import Network
from sn_graph.certify.fused import fused_bound
from sn_graph.certify.product import product_bounds
from sn_graph.certify.segments import Segment
from tests.support.certified import constant, network, nodes

RNG = np.random.default_rng(0)


def fused(made: Network) -> float:
    bounds = product_bounds(made)
    assert isinstance(bounds, list)
    segment = Segment({source.name: source.shape for source in made.sources}, made.output, made.steps)
    found = fused_bound(segment, {one.step.result: one.factors for one in bounds})
    assert found <= constant(made)
    return found


def dense(made: Network) -> float:
    """The norm of a linear network, by its matrix."""
    size = int(np.prod(made.sources[0].shape))
    zero = made.forward(np.zeros(made.sources[0].shape))
    columns = [(made.forward(one.reshape(made.sources[0].shape)) - zero).reshape(-1) for one in np.eye(size)]
    return float(np.linalg.norm(np.stack(columns, axis=1), 2))


def drawn(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape)


HELD = {
    "w": drawn(3, 2, 3, 3),
    "k": drawn(2, 2, 3, 3),
    "one": drawn(4, 3, 1, 1),
    "gamma": drawn(3),
    "beta": drawn(3),
    "mean": drawn(3),
    "var": np.abs(drawn(3)) + 0.1,
    "a": drawn(6, 5),
    "b": drawn(5, 6),
    "minus": -np.eye(6),
}
PAD = {"pads": [1, 1, 1, 1]}
IMAGE, VECTOR = (1, 2, 6, 5), (1, 6)
LINEAR: dict[str, tuple[tuple[int, ...], list[tuple[Any, ...]]]] = {
    "batch normalization": (
        IMAGE,
        [
            ("Conv", ["x", "w"], "c", PAD),
            ("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], "y"),
        ],
    ),
    "skip": (IMAGE, [("Conv", ["x", "k"], "c", PAD), ("Add", ["x", "c"], "y")]),
    "pool": (
        IMAGE,
        [("Conv", ["x", "w"], "c", PAD), ("AveragePool", ["c"], "y", {"kernel_shape": [2, 2], "strides": [2, 1]})],
    ),
    "pointwise": (IMAGE, [("Conv", ["x", "w"], "c", PAD), ("Conv", ["c", "one"], "y")]),
    "padded twice": (IMAGE, [("Conv", ["x", "k"], "c", PAD), ("Conv", ["c", "k"], "y", PAD)]),
    "products": (VECTOR, [("MatMul", ["x", "a"], "c"), ("MatMul", ["c", "b"], "y")]),
    "concatenated": (IMAGE, [("Conv", ["x", "k"], "c", PAD), ("Concat", ["x", "c"], "y", {"axis": 1})]),
    "nothing is left": (VECTOR, [("MatMul", ["x", "minus"], "c"), ("Add", ["x", "c"], "y")]),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear_networks_have_their_norm(name: str) -> None:
    shape, parts = LINEAR[name]
    made = network(nodes(*parts, x=shape, held=HELD))
    true = dense(made)
    assert true * (1.0 - 1e-12) <= fused(made) <= true * (1.0 + 1e-6) + 1e-12


def test_branches_between_activations() -> None:
    """relu(x + Wx) where W = −I is 0, whatever stands behind."""
    made = network(
        nodes(
            ("MatMul", ["x", "minus"], "c"),
            ("Add", ["x", "c"], "s"),
            ("Relu", ["s"], "r"),
            ("MatMul", ["r", "a"], "d"),
            ("Tanh", ["d"], "y"),
            x=VECTOR,
            held=HELD,
        )
    )
    assert constant(made) > 1.0
    assert fused(made) < 1e-12


def test_disjoint_parts_stay_disjoint() -> None:
    """A concatenation of two activations counts √2, not 2."""
    parts = [
        ("Relu", ["x"], "a_"),
        ("Tanh", ["x"], "t"),
        ("Concat", ["a_", "t"], "c", {"axis": 1}),
        ("Neg", ["c"], "y"),
    ]
    assert fused(network(nodes(*parts, x=VECTOR))) == pytest.approx(np.sqrt(2.0))


@pytest.mark.parametrize("seed", range(20))
def test_random_branches_hold(seed: int) -> None:
    """No quotient of two inputs is above the bound."""
    rng = np.random.default_rng(seed)
    held = {f"k{i}": rng.standard_normal((2, 2, 3, 3)) * 0.4 for i in range(3)}
    values = ["x"]
    parts: list[tuple[Any, ...]] = []
    for place in range(6):
        old = str(rng.choice(values[-3:]))
        kind = rng.integers(0, 3)
        name = f"v{place}"
        if kind == 0:
            parts.append(("Conv", [old, f"k{rng.integers(0, 3)}"], name, PAD))
        elif kind == 1:
            parts.append(("LeakyRelu", [old], name, {"alpha": 0.2}))
        else:
            parts.append(("Sub", [old, values[-1]], name) if old != values[-1] else ("Neg", [old], name))
        values.append(name)
    parts.append(("Add", [values[-1], values[-2]], "y"))
    made = network(nodes(*parts, x=IMAGE, held=held))
    bound = fused(made)
    for _ in range(20):
        x, d = rng.standard_normal((2, *IMAGE))
        scale = 10.0 ** rng.uniform(-3, 1)
        moved = np.linalg.norm(made.forward(x + scale * d) - made.forward(x))
        assert moved <= bound * scale * np.linalg.norm(d) * (1.0 + 1e-9)
