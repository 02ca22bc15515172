"""Fused projections: query, key and value in one matrix are found as exporters leave them, other threes are not."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest

import sn_graph as sn
from tests.support.builders import drawn, network, node
from tests.support.runs import run

WIDE, HEADS = 12, 2  # of each of the three; the input has 8
WEIGHT, BIAS = drawn(8, 3 * WIDE), drawn(3 * WIDE, seed=1)
WEIGHT[:, WIDE : 2 * WIDE] *= 2.0
WEIGHT[:, 2 * WIDE :] *= 5.0
THIRDS = np.split(WEIGHT, 3, axis=1)


def attention(query: str, key: str, value: str, rank: int = 3) -> list[onnx.NodeProto]:
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    return [
        node("Transpose", [key], ["kt"], perm=swapped),
        node("MatMul", [query, "kt"], ["scores"]),
        node("Mul", ["scores", "scale"], ["scaled"]),
        node("Softmax", ["scaled"], ["weights"], axis=-1),
        node("MatMul", ["weights", value], ["y"]),
    ]


PRODUCT = [node("MatMul", ["x", "w"], ["p"]), node("Add", ["b", "p"], ["q"])]
GEMM = [node("Gemm", ["x", "wt", "b"], ["q"], transB=1)]
SPLIT = [node("Split", ["q"], ["q0", "q1", "q2"], axis=-1, num_outputs=3)]
SLICES = [node("Slice", ["q", f"at{part}", f"at{part + 1}", "last"], [f"q{part}"]) for part in range(3)]
THREE_FIRST = [
    node("Reshape", ["q", "three_first"], ["r"]),
    node("Transpose", ["r"], ["t"], perm=[2, 0, 3, 1, 4]),
    node("Split", ["t"], ["s0", "s1", "s2"], axis=0, num_outputs=3),
    *(node("Squeeze", [f"s{part}", "first"], [f"q{part}"]) for part in range(3)),
]
UNBOUND = [*THREE_FIRST[:2], *(node("Gather", ["t", f"part{part}"], [f"q{part}"], axis=0) for part in range(3))]
HEADS_FIRST = [  # as GPT-NeoX and BLOOM store it: the three of each head stand together
    node("Reshape", ["q", "heads_first"], ["r"]),
    node("Transpose", ["r"], ["t"], perm=[3, 0, 2, 1, 4]),
    *UNBOUND[2:],
]
INTERLEAVED = [WEIGHT.reshape(8, HEADS, 3, WIDE // HEADS)[:, :, part].reshape(8, -1) for part in range(3)]
STORED: dict[str, Any] = {
    "w": WEIGHT, "wt": WEIGHT.T.copy(), "b": BIAS, "scale": np.float32(0.3),
    "last": np.array([-1]), "first": np.array([0]),
    **{f"at{part}": np.array([part * WIDE]) for part in range(4)},
    **{f"part{part}": np.array(part) for part in range(3)},
    "three_first": np.array([0, 0, 3, HEADS, WIDE // HEADS]), "heads_first": np.array([0, 0, HEADS, 3, WIDE // HEADS]),
    "heads": np.array([0, 0, 3, WIDE]),
}  # fmt: skip
CASES = {
    "split": ([*PRODUCT, *SPLIT, *attention("q0", "q1", "q2")], THIRDS),
    "slices": ([*PRODUCT, *SLICES, *attention("q0", "q1", "q2")], THIRDS),
    "without a bias": ([node("MatMul", ["x", "w"], ["q"]), *SPLIT, *attention("q0", "q1", "q2")], THIRDS),
    "three first": ([*PRODUCT, *THREE_FIRST, *attention("q0", "q1", "q2", 4)], THIRDS),
    "unbound": ([*PRODUCT, *UNBOUND, *attention("q0", "q1", "q2", 4)], THIRDS),
    "heads first": ([*PRODUCT, *HEADS_FIRST, *attention("q0", "q1", "q2", 4)], INTERLEAVED),
}
GATES = [
    node("Sigmoid", ["q0"], ["open"]),
    node("Mul", ["open", "q1"], ["kept"]),
    node("Add", ["kept", "q2"], ["z"]),
    node("Softmax", ["z"], ["y"], axis=-1),
]
OTHERS = {
    "gates": [*PRODUCT, *SPLIT, *GATES],
    "three heads": [
        *PRODUCT,
        node("Reshape", ["q", "heads"], ["r"]),
        node("Transpose", ["r"], ["h"], perm=[0, 2, 1, 3]),
        *attention("h", "h", "h", 4),
    ],
}


def model(nodes: list[onnx.NodeProto], rows: int = 3) -> onnx.ModelProto:
    read = {name for one in nodes for name in one.input}
    stored = {name: array for name, array in STORED.items() if name in read}
    proto = network(nodes, stored, {"x": (1, rows, 8)}, outputs=["y"], opset=18)
    assert np.isfinite(run(proto, {"x": drawn(1, rows, 8)})[0]).all()
    return proto


@pytest.mark.parametrize("case", CASES)
def test_query_key_and_value_are_told_with_their_norms(case: str) -> None:
    nodes, parts = CASES[case]
    (record,) = sn.inspect(model(nodes)).sites
    three, norms = record.notes[:2]
    assert "query, key and value are one matrix" in three
    found = [float(number) for number in re.findall(r"\w+ (\d[\d.e+-]*)", norms)]
    assert found == pytest.approx([np.linalg.norm(part, 2) for part in parts], rel=1e-4)
    assert three in sn.fold(model(nodes)).sites[0].notes
    assert three in sn.insert(model(nodes)).sites[0].notes


def test_a_gemm_has_its_outputs_first() -> None:
    cut = [
        node("Reshape", ["q0", "flat"], ["a"]),
        node("Reshape", ["q1", "flat"], ["k"]),
        node("Identity", ["q2"], ["v"]),
    ]
    nodes = [*GEMM, *SPLIT, *cut, *attention("a", "k", "v", 2)]
    stored = {name: STORED[name] for name in ("wt", "b", "scale")} | {"flat": np.array([-1, WIDE])}
    proto = network(nodes, stored, {"x": (3, 8)}, outputs=["y"], opset=18)
    (record,) = sn.inspect(proto).sites
    found = [float(number) for number in re.findall(r"\w+ (\d[\d.e+-]*)", record.notes[1])]
    assert found == pytest.approx([np.linalg.norm(part, 2) for part in THIRDS], rel=1e-4)


@pytest.mark.parametrize("case", OTHERS)
def test_other_threes_are_left_alone(case: str) -> None:
    for record in sn.inspect(model(OTHERS[case])).sites:
        assert not [note for note in record.notes if "query" in note]
