"""The circle against the network in its windows, its bounds against attained quotients, and cases made to break it."""

from typing import Any

import numpy as np
import pytest

from sn_graph.certify import Network
from sn_graph.certify.frequencies import Circle
from sn_graph.certify.segments import Segment
from sn_graph.certify.steps import Array, Elementwise, Linear
from sn_graph.spectral.lmi import frequency_bound
from tests.support.certified import network, nodes

PAD = {"pads": [1, 1, 1, 1]}


def segment_of(made: Network) -> Segment:
    return Segment({source.name: source.shape for source in made.sources}, made.output, made.steps)


def circle_of(made: Network, twist: int = 1) -> Circle:
    found = Circle.of(segment_of(made), twist)
    assert found is not None
    return found


def proven(made: Network, twist: int = 1) -> float:
    circle = circle_of(made, twist)
    return frequency_bound(circle.problem(circle.frequencies)).value


def attained(made: Network, seed: int, steps: int = 60) -> float:
    """The largest norm of Jacobians at a few points, by power iteration."""
    rng = np.random.default_rng(seed)
    best = 0.0
    for scale in (0.1, 1.0, 10.0):
        values = made.values([scale * rng.standard_normal(made.sources[0].shape)])
        x = rng.standard_normal(made.sources[0].shape)
        for _ in range(steps):
            x = x / np.linalg.norm(x)
            y = made.push(values, [x])
            best = max(best, float(np.linalg.norm(y)))
            (x,) = made.pull(values, y)
    return best


def drawn(name: str, seed: int) -> Network:
    rng = np.random.default_rng(seed)
    held = {
        "k": rng.standard_normal((2, 2, 3, 3)) * 0.4,
        "w": rng.standard_normal((3, 2, 3, 3)) * 0.4,
        "v": rng.standard_normal((2, 3, 3, 3)) * 0.4,
        "one": rng.standard_normal((2, 2, 1, 1)),
        "g": rng.standard_normal((2, 1, 1)),
        "slope": rng.uniform(-0.5, 1.5, (3, 1, 1)),
    }
    size = (1, 2, int(rng.integers(4, 8)), int(rng.integers(4, 8)))
    pool = {"kernel_shape": [2, 2], "strides": [2, 2]}
    parts: dict[str, list[tuple[Any, ...]]] = {
        "chain": [("Conv", ["x", "w"], "a", PAD), ("PRelu", ["a", "slope"], "b"), ("Conv", ["b", "v"], "y", PAD)],
        "block": [
            ("Relu", ["x"], "r"),
            ("Conv", ["r", "w"], "a", PAD),
            ("Relu", ["a"], "b"),
            ("Conv", ["b", "v"], "c", PAD),
            ("Add", ["x", "c"], "y"),
        ],
        "pooled": [
            ("Conv", ["x", "w"], "a", PAD),
            ("Relu", ["a"], "b"),
            ("Conv", ["b", "v"], "c", PAD),
            ("AveragePool", ["c"], "d", pool),
            ("AveragePool", ["x"], "e", pool),
            ("Conv", ["e", "one"], "f"),
            ("Add", ["d", "f"], "y"),
        ],
        "strided": [
            ("Conv", ["x", "w"], "a", {"strides": [2, 2], "pads": [1, 0, 1, 2]}),
            ("LeakyRelu", ["a"], "b", {"alpha": 0.2}),
            ("Conv", ["b", "v"], "y", {"strides": [2, 1], "pads": [1, 1, 1, 1]}),
        ],
        "masked": [
            ("Conv", ["x", "k"], "a", PAD),
            ("Mul", ["a", "g"], "b"),
            ("Conv", ["b", "w"], "c", PAD),
            ("Relu", ["c"], "d"),
            ("Conv", ["d", "v"], "e", PAD),
            ("Sub", ["a", "e"], "y"),
        ],
        "blocks": [
            ("Conv", ["x", "w"], "a", PAD),
            ("Relu", ["a"], "b"),
            ("ConvTranspose", ["b", "w"], "c", PAD),
            ("Sub", ["x", "c"], "d"),
            ("Conv", ["d", "w"], "e", PAD),
            ("Tanh", ["e"], "f"),
            ("ConvTranspose", ["f", "w"], "g_", PAD),
            ("Sub", ["d", "g_"], "y"),
        ],
    }
    return network(nodes(*parts[name], x=size, held=held))


NAMES = ("chain", "block", "pooled", "strided", "masked", "blocks")


def windows(made: Network, x: Array) -> dict[str, Array]:
    """Each value of the network without its offsets, with activations that are linear: slopes of 0.5."""
    values = {made.names[0]: x}
    for step in made.steps:
        operands = [values[name] for name in step.operands]
        if isinstance(step, Linear):
            values[step.result] = step.push(operands, operands)
        else:
            assert isinstance(step, Elementwise)
            values[step.result] = 0.5 * operands[0]
    return values


def transform(circle: Circle, key: str, values: Array) -> Array:
    """The unitary transform of a window, 0 outside, by the definition: [frequencies, aliases · channels]."""
    finer, period = circle.finer[key], circle.period
    sizes = [k * q for k, q in zip(period, finer, strict=True)]
    phi = circle.twist / 2.0
    waves = [
        np.exp(-2j * np.pi * np.outer(np.arange(n) + phi, np.arange(m)) / n) / np.sqrt(n)
        for n, m in zip(sizes, values.shape[1:], strict=True)
    ]
    found = np.einsum("chw,kh,lw->klc", values, *waves)
    split = found.reshape(finer[0], period[0], finer[1], period[1], -1).transpose(1, 3, 0, 2, 4)
    return np.asarray(split.reshape(period[0] * period[1], -1))


@pytest.mark.parametrize("twist", [0, 1])
@pytest.mark.parametrize("name", NAMES)
def test_the_matrices_give_the_values_in_their_windows(name: str, twist: int) -> None:
    """Transforms of the atoms, multiplied by each frequency's matrices and back, are the values in their windows."""
    made = drawn(name, 3)
    circle = circle_of(made, twist)
    rng = np.random.default_rng(0)
    values = windows(made, rng.standard_normal(made.sources[0].shape))
    every = np.stack(np.meshgrid(*map(np.arange, circle.period), indexing="ij"), axis=-1).reshape(-1, 2)
    problem = circle.problem(every)
    atoms = [transform(circle, key, values[atom.name][0]) for key, atom in circle.expansion.atoms.items()]
    stacked = np.concatenate(atoms, axis=1)[:, :, None]
    rows = {key: atom.name if atom.step is None else atom.step.operands[0] for key, atom in circle.neurons}
    targets = [*rows.items(), (circle.end, circle.end)]
    made_rows = np.concatenate([problem.weights @ stacked, problem.output @ stacked], axis=1)[:, :, 0]
    start = 0
    for key, value in targets:
        window = values[value][0]
        width = circle.aliases(key) * len(window)
        part = made_rows[:, start : start + width].reshape(*circle.period, *circle.finer[key], -1)
        start += width
        finer, period = circle.finer[key], circle.period
        whole = part.transpose(2, 0, 3, 1, 4).reshape(finer[0] * period[0], finer[1] * period[1], -1)
        phi = twist / 2.0
        back = [
            np.exp(2j * np.pi * np.outer(np.arange(m), np.arange(n) + phi) / n) / np.sqrt(n)
            for n, m in zip(whole.shape[:2], window.shape[1:], strict=True)
        ]
        assert np.allclose(np.einsum("klc,hk,wl->chw", whole, *back), window, atol=1e-12)
    assert start == made_rows.shape[1]


@pytest.mark.parametrize("twist", [0, 1])
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(3))
def test_bounds_hold(name: str, twist: int, seed: int) -> None:
    made = drawn(name, seed)
    bound = proven(made, twist)
    assert np.isfinite(bound)
    assert attained(made, seed) <= bound * (1.0 + 1e-9)


@pytest.mark.parametrize("alpha", [0.2, -0.3, 1.7])
def test_slopes_of_one_sign_hold_outside_too(alpha: float) -> None:
    """Linear slopes would let nothing out of a window, and a neuron outside must not be taken for one of [0.2, 1]."""
    held = {"k": np.ones((1, 1, 1, 3)), "j": np.array([[[[1.0, -1.0, 1.0]]]])}
    row = {"pads": [0, 1, 0, 1]}
    parts = [
        ("Conv", ["x", "k"], "a", row),
        ("LeakyRelu", ["a"], "b", {"alpha": alpha}),
        ("Conv", ["b", "j"], "y", row),
    ]
    made = network(nodes(*parts, x=(1, 1, 1, 4), held=held))
    bound = min(proven(made, 0), proven(made, 1))
    best = 0.0
    for signs in range(1 << 4):
        slopes = np.array([alpha if signs >> i & 1 else 1.0 for i in range(4)])
        columns = [
            made.steps[2].push([], [made.steps[0].push([], [e.reshape(1, 1, 1, 4)]) * slopes]) for e in np.eye(4)
        ]
        best = max(best, float(np.linalg.norm(np.stack([c.reshape(-1) for c in columns], axis=1), 2)))
    assert best <= bound * (1.0 + 1e-9)


def test_an_orthogonal_block_is_one() -> None:
    """x − 2 Kᵀ relu(K x) with K Kᵀ ≤ I, as SLL has it (Araujo et al., 2023, 2303.03169), has the constant 1."""
    rng = np.random.default_rng(5)
    k = rng.standard_normal((3, 2, 3, 3))
    held = {"w": k / np.abs(k).sum(axis=(1, 2, 3)).max(), "two": np.array(2.0)}
    k_norm = np.sqrt(np.abs(held["w"]).sum(axis=(1, 2, 3)).max() * np.abs(held["w"]).sum(axis=(0, 2, 3)).max())
    held["w"] = held["w"] / k_norm
    parts = [
        ("Conv", ["x", "w"], "a", PAD),
        ("Relu", ["a"], "b"),
        ("ConvTranspose", ["b", "w"], "c", PAD),
        ("Mul", ["c", "two"], "d"),
        ("Sub", ["x", "d"], "y"),
    ]
    made = network(nodes(*parts, x=(1, 2, 7, 5), held=held))
    assert proven(made) <= 1.0 + 1e-6


def test_what_is_no_circle() -> None:
    flat = network(nodes(("Relu", ["x"], "y"), x=(1, 3)))
    assert Circle.of(segment_of(flat)) is None
    soft = network(nodes(("Softmax", ["x"], "y", {"axis": 1}), x=(1, 3, 4, 4)))
    assert Circle.of(segment_of(soft)) is None
    linear = network(nodes(("Neg", ["x"], "y"), x=(1, 3, 4, 4)))
    assert Circle.of(segment_of(linear)) is None
