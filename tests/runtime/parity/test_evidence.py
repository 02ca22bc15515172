"""What a comparison proves little about is said of it, and only then."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sn_graph as sn
from sn_graph.proofs import save
from sn_graph.runtime.parity import doubts
from tests.support.builders import Array, Weights, drawn, network, node, saved
from tests.support.command_line import invoke
from tests.support.places import ROOT

WEIGHT = drawn(8, 4)


def model(nodes: list[onnx.NodeProto], **weights: Array) -> onnx.ModelProto:
    named: Weights = {name: np.asarray(array, np.float32) for name, array in weights.items()}
    return network(nodes, named, {"x": ("n", 8)})


def product(weight: Array, *more: onnx.NodeProto, **weights: Any) -> onnx.ModelProto:
    """h = x · W and what follows, which gives y."""
    return model([node("MatMul", ["x", "w"], ["h"]), *more], w=weight, **weights)


def beside(weight: Array) -> onnx.ModelProto:
    column = np.zeros((8, 1), np.float32)
    column[0] = 1e6
    nodes = [node("MatMul", ["x", "b"], ["c"]), node("Concat", ["h", "c"], ["y"], axis=1)]
    return product(weight, *nodes, b=column)


def batch(sign: float) -> onnx.ModelProto:
    nodes = [node("Mul", ["x", "s"], ["xs"]), node("MatMul", ["xs", "w"], ["y"])]
    return model(nodes, s=np.array([[1e5], [sign]]), w=WEIGHT)


PAIRS: dict[str, tuple[onnx.ModelProto, onnx.ModelProto, str]] = {
    "all NaN": (
        product(WEIGHT, node("Sqrt", ["h"], ["s"]), node("ReduceSum", ["s"], ["y"], keepdims=0)),
        product(-5 * WEIGHT, node("Log", ["h"], ["s"]), node("ReduceSum", ["s"], ["y"], keepdims=0)),
        "all its values are NaN",
    ),
    "dead ReLU": (
        product(WEIGHT, node("Sub", ["h", "c"], ["g"]), node("Relu", ["g"], ["y"]), c=50),
        product(-3 * WEIGHT, node("Sub", ["h", "c"], ["g"]), node("Relu", ["g"], ["y"]), c=50),
        "all its values are 0",
    ),
    "saturated": (
        product(WEIGHT, node("Mul", ["h", "c"], ["g"]), node("Sigmoid", ["g"], ["y"]), c=1e6),
        product(WEIGHT / 100, node("Mul", ["h", "c"], ["g"]), node("Sigmoid", ["g"], ["y"]), c=1e6),
        "as saturated ones are",
    ),
    "constant": (
        product(np.abs(WEIGHT), node("Add", ["h", "c"], ["g"]), node("Sigmoid", ["g"], ["y"]), c=1e3),
        product(3 * np.abs(WEIGHT), node("Add", ["h", "c"], ["g"]), node("Sigmoid", ["g"], ["y"]), c=1e3),
        "all its values are about 1",
    ),
    "a channel of 1e6": (beside(WEIGHT), beside(-WEIGHT), "what is allowed follows from place on the last axis 4"),
    "a sample of a batch": (batch(1.0), batch(-1.0), "sample 1 is off by"),
    "below atol": (
        product(WEIGHT, node("Mul", ["h", "c"], ["y"]), c=1e-7),
        product(-WEIGHT, node("Mul", ["h", "c"], ["y"]), c=1e-7),
        "is not above --atol",
    ),
    "infinite": (
        product(
            np.abs(WEIGHT),
            node("Exp", ["h"], ["e"]),
            node("Mul", ["e", "c"], ["g"]),
            node("Div", ["g", "z"], ["y"]),
            c=1e38,
            z=0,
        ),
        product(
            np.abs(WEIGHT) * 3,
            node("Exp", ["h"], ["e"]),
            node("Mul", ["e", "c"], ["g"]),
            node("Div", ["g", "z"], ["y"]),
            c=1e38,
            z=0,
        ),
        "all its values are NaN or infinity",
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_a_pair_that_passes_and_differs(name: str, tmp_path: Path) -> None:
    left, right, expected = PAIRS[name]
    (found,) = sn.compare(left, right).comparisons
    assert found.ok
    assert expected in " ".join(found.notes)
    paths = saved(left, tmp_path / "a.onnx"), saved(right, tmp_path / "b.onnx")
    ended = invoke("verify", *paths)
    assert ended.code == 0
    assert "remarks" in ended.out
    told = invoke("verify", *paths, "--json").json["comparisons"][0]
    assert told["notes"] == list(found.notes)
    assert told["ok"] is True


def test_an_output_without_elements() -> None:
    inputs = {"x": np.zeros((0, 8), np.float32)}
    nodes = [node("Identity", ["h"], ["y"])]
    (found,) = sn.compare(product(WEIGHT, *nodes), product(-WEIGHT, *nodes), inputs=inputs).comparisons
    assert found.ok
    assert "no elements" in found.notes[0]


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.onnx")), ids=lambda path: path.stem)
def test_ordinary_models_have_no_notes(path: Path) -> None:
    result = sn.verify(path, path, steps=2)
    assert [row.notes for row in result.comparisons] == [()] * len(result.comparisons)
    assert result.doubt is None


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=4).filter(lambda shape: int(np.prod(shape)) > 4),
    st.sampled_from([np.float32, np.float64, np.float16, ml_dtypes.bfloat16]),
    st.integers(0, 999),
)
def test_random_outputs_have_no_notes(shape: list[int], kind: Any, seed: int) -> None:
    values = np.random.default_rng(seed).standard_normal(shape).astype(kind)
    assert doubts(values, values, 1e-4, 1e-6) == ()
    assert doubts(np.abs(values) + 1, np.abs(values) + 1, 1e-4, 1e-6) == ()


def test_what_is_not_a_number_in_part() -> None:
    values = np.arange(8.0)
    values[:3] = np.nan
    assert doubts(values, values, 1e-9, 1e-12) == ()
    values[:5] = np.inf
    assert "5 of its 8 values are NaN or infinity" in doubts(values, values, 1e-9, 1e-12)[0]


def test_integers_booleans_and_text() -> None:
    assert doubts(np.array([3, 3]), np.array([3, 3]), 0, 0) == ()
    assert "each of its 20 values is 3" in doubts(np.full(20, 3), np.full(20, 3), 0, 0)[0]
    assert "each of its 20 values is False" in doubts(np.zeros(20, bool), np.zeros(20, bool), 0, 0)[0]
    assert doubts(np.arange(20), np.arange(20), 0, 0) == ()
    assert doubts(np.array(["a"] * 20), np.array(["a"] * 20), 0, 0) == ()


def test_channels_of_images() -> None:
    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8))
    image[:, 1] *= 1e7
    (note,) = doubts(image, image, 1e-4, 1e-6)
    assert note.startswith("channel 1 (")
    other = image.copy()
    other[:, 0] *= -1
    (note,) = doubts(other, image, 1e-4, 1e-6)
    assert note.startswith("channel 0 is off by")


def test_zeros_beside_values_are_no_doubt() -> None:
    """One class is certain and the others are exactly 0: so they are on both sides."""
    values = np.array([[1.0, 0.0, 0.0], [0.3, 0.7, 0.0]])
    assert doubts(values, values, 1e-4, 1e-6) == ()


def test_fold_and_insert_say_that_their_run_proved_little(tmp_path: Path) -> None:
    dead = PAIRS["dead ReLU"][0]
    for make in (sn.fold, sn.insert):
        proof = save(make(dead), tmp_path / "out.onnx")
        assert proof.verified == "run"
        assert proof.note is not None
        assert "proves little" in proof.note
    ended = invoke("fold", saved(dead, tmp_path / "in.onnx"), "-o", tmp_path / "out.onnx")
    assert ended.code == 0
    assert "proves little" in ended.err
    assert "by structure only" not in ended.err
