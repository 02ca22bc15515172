"""The trials of certify: graphs that onnxruntime runs, and attacks that find what is there."""

from __future__ import annotations

import numpy as np
import pytest

from tests.support.certified import constant, network, nodes
from tools.certify_trials import attack, graphs

F = np.float32


@pytest.mark.parametrize("seed", range(4))
def test_a_graph_is_the_same_for_a_seed_and_runs(seed: int) -> None:
    model, shape = graphs.make(seed)
    assert model.SerializeToString() == graphs.make(seed)[0].SerializeToString()
    output = graphs.session(model).run(None, {"x": np.ones(shape, F)})[0]
    assert np.isfinite(output).all()
    assert attack.attained(model, shape, 0.1, seed) <= constant(network(model)) * (1 + 1e-4) + 1e-6


def test_the_attack_attains_a_norm_and_is_not_fooled_by_rounding() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 4)).astype(F)
    model = nodes(("MatMul", ["x", "w"], "y"), x=("N", 5), held={"w": weight})
    exact = float(np.linalg.norm(weight.astype(np.float64), 2))
    assert attack.attained(model, (1, 5), 0.5, 0) == pytest.approx(exact, rel=1e-3)
    shifted = nodes(("Add", ["x", "b"], "y"), x=("N", 5), held={"b": np.full(5, 1e5, F)})
    assert attack.attained(shifted, (1, 5), 0.3, 0) <= 1.0 + 1e-4
