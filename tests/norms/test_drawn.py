"""What is drawn of weights, against numpy's SVD and onnx's own names."""

from __future__ import annotations

import numpy as np
import pytest

from sn_graph.model import Model
from sn_graph.norms import draw, drawn, inspect
from sn_graph.plan import build_plan
from sn_graph.report import Drawn
from sn_graph.state import State
from tests.support.builders import Array, network, node
from tests.support.builders import drawn as normal

WEIGHTS = {
    "small.weight": normal(6, 9),
    "wide.weight": normal(9, 40, seed=1),
    "zero.weight": np.zeros((40, 5), np.float32),
}


def model_of(weights: dict[str, Array]) -> Model:
    names = ["x", *(f"h{place}" for place in range(len(weights)))]
    nodes = [
        node("MatMul", [names[place], name], [names[place + 1]], name=f"/{name}") for place, name in enumerate(weights)
    ]
    return Model.open(network(nodes, weights, {"x": (1, 6)}, [names[-1]]))


def drawings(state: State | None = None) -> dict[str, Drawn]:
    model = model_of(WEIGHTS)
    plan = build_plan(model)
    return draw(inspect(model, plan).sites, model, plan, state=state)


def test_singular_values_and_estimates() -> None:
    found = drawings()
    for name, weight in WEIGHTS.items():
        values = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
        np.testing.assert_allclose(found[name].values, values, atol=1e-6 * (values[0] or 1.0))  # of a Gram matrix
        assert found[name].rank == min(weight.shape)
        assert found[name].picture is not None
    runs = found["small.weight"].estimates
    assert runs is not None
    assert len(runs.runs) == 3
    assert all(run[0] < run[-1] <= found["small.weight"].values[0] * (1 + 1e-9) for run in runs.runs)
    assert found["zero.weight"].estimates is None


def test_estimates_start_from_a_weights_own_u() -> None:
    weight = WEIGHTS["small.weight"].astype(np.float64)
    leading = np.linalg.svd(weight)[2][0]
    runs = drawings(State({"small.weight": leading}, {}))["small.weight"].estimates
    assert runs is not None
    assert runs.start == "its own u"
    np.testing.assert_allclose(runs.runs[0], np.linalg.norm(weight, 2), rtol=1e-6)


@pytest.mark.parametrize(("limit", "value"), [("_LONGEST_SIDE", 5), ("_OPERATIONS", 100.0)])
def test_what_would_take_long_is_left_out_with_a_reason(
    limit: str, value: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawn, limit, value)
    found = drawings()["wide.weight"]
    assert found.values == ()
    assert found.left_out is not None
    assert found.picture is not None
