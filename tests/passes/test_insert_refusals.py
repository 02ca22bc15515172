"""What insert skips, leaves unchanged or refuses, and the sizes of weights between."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import sn_graph as sn
from sn_graph.errors import UsageError
from sn_graph.proofs import save
from tests.support.builders import Array, branch, call, constant, drawn, function, network, node
from tests.support.networks import rows
from tests.support.oracle import power_iteration, seeded
from tests.support.runs import check, close, divided, session, strips_to

SQUARE, X = drawn(4, 4), {"x": (2, 4)}
KERAS: dict[str, Any] = {"convention": "keras", "steps": (1, 10)}


# Skipped, unchanged, refused


def test_more_iterations_than_a_runtime_loads() -> None:
    proto = network(
        [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])], {"w": SQUARE, "v": SQUARE}, X
    )
    assert len(sn.insert(proto, power_iterations=20).sites) == 2
    with pytest.raises(UsageError, match="6,000 power iterations in a graph are too many, because each is nodes"):
        sn.insert(proto, power_iterations=3000)


@pytest.mark.parametrize("through", ["", "function"])
def test_bodies_that_cannot_read_the_state(through: str) -> None:
    weight = drawn(4, 4)
    body = branch(
        [call("dense", ["h"], "t")] if through else [node("MatMul", ["h", "own"], ["t"])],
        {} if through else {"own": weight},
        name="decoder",
    )
    search = node("BeamSearch", ["x"], ["y"], name="search", domain="com.microsoft", decoder=body)
    dense = function("dense", ["x"], [constant("w", weight), node("MatMul", ["x", "w"], ["y"])])
    model = network([search], {}, {"x": (2, 4)}, functions=[dense] if through else [])
    (site,) = sn.insert(model).sites
    assert (site.status, site.reason) == ("skipped", "inside a BeamSearch, whose body can't read the state")


@pytest.mark.parametrize(
    ("weight", "status", "words"),
    [
        (np.zeros((4, 4), np.float32), "unchanged", "all zeros"),
        (drawn(4, 4) * np.float32(1e19), "skipped", "would leave float32"),
        (drawn(4, 4) * np.float32(1e-17), "skipped", "would leave float32"),
        (np.full((4, 400), 9e17, np.float32), "skipped", "would leave float32"),
        (np.full((4, 4), 3e4, np.float16), "skipped", "does not fit into float16"),
        (np.full((4, 4), 1e-6, np.float16), "skipped", "does not fit into float16"),
        (drawn(4, 4).astype(np.float64) * 1e40, "skipped", "σ that goes out is float32"),
    ],
)
def test_weights_that_are_left_alone(weight: Array, status: str, words: str) -> None:
    model = network([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, {"x": (2, 4)}, dtype=weight.dtype.name)
    result = sn.insert(model)
    (site,) = result.sites
    assert site.status == status
    assert words in str(site.reason)
    assert result.to_proto().graph == model.graph
    assert (result.to_proto() == model) == (status == "skipped")  # unchanged is done, and strip must know it


@pytest.mark.parametrize("size", [1e-14, 1e-11, 1e-7, 1e17])
def test_weights_of_any_size_between_are_exact(size: float) -> None:
    """The floor of 1e-12 under ‖x‖ does not act on small weights, where it would make σ wrong."""
    weight = (drawn(5, 4) * size).astype(np.float32)
    model = network([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, {"x": (2, 5)})
    result = sn.insert(model, convention="keras")
    y, u_next, sigma = session(result.to_proto()).run(None, {"x": drawn(2, 5)})
    expected, u = power_iteration(weight.T.astype(np.float64) / size, seeded("w", 4))
    close(sigma, np.array([expected * size]), 1e-5, "σ")
    close(u_next, u.reshape(-1, 1), 1e-5, "u")
    close(y, session(divided(model, {"w": expected * size})).run(None, {"x": drawn(2, 5)})[0], 1e-5, "y")
    assert any("Keras's own epsilon" in note for note in result.sites[0].notes) == (size < 1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_nan_is_refused(dtype: Any) -> None:
    weight = drawn(4, 4)
    weight[1, 2] = np.nan
    model = network([node("MatMul", ["x", "w"], ["y"])], {"w": weight.astype(dtype)}, {"x": (2, 4)})
    with pytest.raises(sn.ModelError, match=r"weight 'w' holds 1 NaN value.*--exclude"):
        sn.insert(model)
    assert sn.insert(model, exclude=["w"]).sites[0].status == "skipped"


def test_opset_6_is_refused_with_the_way_out() -> None:
    model = network([node("MatMul", ["x", "w"], ["y"])], {"w": drawn(4, 4)}, {"x": (2, 4)}, opset=6, ir=3)
    with pytest.raises(sn.ModelError, match=r"has opset 6.*version_converter.*or fold it"):
        sn.insert(model)


def test_an_old_model_lists_its_initializers_as_inputs() -> None:
    weight, bias = drawn(6, 3, 3, 3), drawn(6, seed=1)
    model = network(
        [node("Conv", ["x", "w", "b"], ["y"])],
        {"w": weight, "b": bias},
        {"x": (1, 3, 5, 5), "w": (6, 3, 3, 3), "b": (6,)},
        opset=8,
        ir=3,
    )
    inserted = check(model, {"w": rows(weight)}, {"x": drawn(1, 3, 5, 5)}, **KERAS)
    assert inserted.ir_version == 4
    assert [one.name for one in inserted.graph.input] == ["x", "sn_u"]
    strips_to(inserted, model)


@pytest.mark.parametrize(("first", "last", "fits"), [(12, 9, True), (6, 13, True), (13, 6, False)])
def test_of_several_opsets_the_last_counts(first: int, last: int, fits: bool, tmp_path: Path) -> None:
    """What is inserted is written for the opset that onnxruntime takes, and the imports stay as they were."""
    model = network([node("MatMul", ["x", "w"])], {"w": drawn(2000, 4)}, {"x": (2, 2000)}, opset=first)
    model.opset_import.append(onnx.helper.make_opsetid("ai.onnx", last))
    if not fits:
        with pytest.raises(sn.ModelError, match="has opset 6"):
            sn.insert(model)
        return
    assert save(sn.insert(model), tmp_path / "i.onnx").verified == "run"
    assert sn.strip(tmp_path / "i.onnx").to_proto() == model
