"""Networks that take steps: sound files pass though rounding flips what lies behind, and wrong ones are still found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sn_graph as sn
from sn_graph.model import Model
from sn_graph.proofs import Proof, Terms, save
from sn_graph.proofs.outputs import prove_outputs
from sn_graph.runtime import Side, make_feeds
from tests.support.builders import Weights, branch, drawn, function, network, node
from tests.support.tampering import tamper, tampering

__all__ = ["tampering"]

SIZE = 64
Nodes = Sequence[onnx.NodeProto]


def behind(steps: Nodes, weights: Weights, functions: Sequence[onnx.FunctionProto] = ()) -> onnx.ModelProto:
    """Two products with steps from d to s between them; d is what rounding makes of 0, so each of its steps flips."""
    first, second = drawn(SIZE, SIZE), drawn(SIZE, 16, seed=1)
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Sub", ["h", "h0"], ["d"]), *steps, node("MatMul", ["s", "b"])]
    model = network(
        nodes,
        {"a": first, "b": second, "h0": np.zeros((64, SIZE), np.float32), **weights},
        {"x": (64, SIZE)},
        opset=18,
        functions=functions,
    )
    (feed,) = make_feeds(Model.open(model))
    (record, _) = sn.fold(model).sites
    assert record.sigma_used is not None
    expected = feed["x"].astype(np.float64) @ first.astype(np.float64) / record.sigma_used
    model.graph.initializer[2].CopyFrom(numpy_helper.from_array(expected.astype(np.float32), "h0"))
    return model


ZERO, HALF, ONE = np.float32(0), np.float32(0.5), np.float32(1)
FLOAT = TensorProto.FLOAT
CASES: dict[str, tuple[Nodes, Weights]] = {
    "Sign": ([node("Sign", ["d"], ["s"])], {}),
    "QuantizeLinear": (
        [
            node("Add", ["d", "half"], ["e"]),
            node("QuantizeLinear", ["e", "one", "z"], ["i"]),
            node("DequantizeLinear", ["i", "one", "z"], ["s"]),
        ],
        {"half": HALF, "one": ONE, "z": np.array(0, np.int8)},
    ),
    "DynamicQuantizeLinear": (
        [
            node("DynamicQuantizeLinear", ["d"], ["i", "q", "z"]),
            node("Sub", ["i", "z"], ["j"]),
            node("Cast", ["j"], ["s"], to=FLOAT),
        ],
        {},
    ),
    "Floor": ([node("Floor", ["d"], ["s"])], {}),
    "Ceil": ([node("Ceil", ["d"], ["s"])], {}),
    "Round": ([node("Add", ["d", "half"], ["e"]), node("Round", ["e"], ["s"])], {"half": HALF}),
    "Cast": (
        [
            node("Add", ["d", "one"], ["e"]),
            node("Cast", ["e"], ["i"], to=TensorProto.INT32),
            node("Cast", ["i"], ["s"], to=FLOAT),
        ],
        {"one": ONE},
    ),
    "Greater": (
        [node("Greater", ["d", "zero"], ["c"]), node("Where", ["c", "one", "half"], ["s"])],
        {"zero": ZERO, "one": ONE, "half": HALF},
    ),
    "ArgMax": ([node("ArgMax", ["d"], ["i"], axis=0, keepdims=1), node("Cast", ["i"], ["s"], to=FLOAT)], {}),
    "TopK": ([node("TopK", ["d", "k"], ["t", "i"]), node("Cast", ["i"], ["s"], to=FLOAT)], {"k": np.array([SIZE])}),
    "NonZero": (
        [
            node("Relu", ["d"], ["r"]),
            node("NonZero", ["r"], ["i"]),
            node("Cast", ["i"], ["f"], to=FLOAT),
            node("ReduceSum", ["f", "last"], ["m"], keepdims=1),
            node("Add", ["d", "m0"], ["d2"]),
            node("Slice", ["m", "0", "1"], ["m1"]),
            node("Add", ["d2", "m1"], ["s"]),
        ],
        {"last": np.array([1]), "0": np.array([0]), "1": np.array([1]), "m0": ONE},
    ),
    "Hardmax": ([node("Hardmax", ["d"], ["s"])], {}),
}


def sides(model: onnx.ModelProto, changes: Sequence[Callable[[onnx.ModelProto], None]]) -> tuple[Side, Side]:
    """The folded model, and the folded model with changes."""
    result = sn.fold(model).to_proto()
    other = onnx.ModelProto()
    other.CopyFrom(result)
    for change in changes:
        change(other)
    return Side(Model.open(result), "one", optimize=False), Side(Model.open(other), "other", optimize=False)


def scaled(name: str, factor: float) -> Callable[[onnx.ModelProto], None]:
    def change(proto: onnx.ModelProto) -> None:
        (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == name)
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))

    return change


def judged(model: onnx.ModelProto, *changes: Callable[[onnx.ModelProto], None]) -> Proof:
    """What the proof of outputs alone says of changes."""
    source = Model.open(model)
    return prove_outputs(source, None, *sides(model, changes), make_feeds(source), Terms(), "other")


def proved(model: onnx.ModelProto, command: str, folder: Path) -> Proof:
    result = sn.fold(model) if command == "fold" else sn.insert(model, sigma="exact")
    return save(result, folder / "out.onnx")


@pytest.mark.parametrize("command", ["fold", "insert"])
@pytest.mark.parametrize("case", CASES)
def test_steps_that_flip(case: str, command: str, tmp_path: Path) -> None:
    proof = proved(behind(*CASES[case]), command, tmp_path)
    assert proof.verified == "run"
    assert case in str(proof.note)


@pytest.mark.parametrize("weight", ["a", "b"])
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_weight_before_or_behind_a_step_is_found(case: str, weight: str) -> None:
    """Of a thousandth, which no rounding explains; the same changed in its last bits is not."""
    model = behind(*CASES[case])
    with pytest.raises(sn.VerificationFailed, match="piece by piece"):
        judged(model, scaled("a", 1 + 1e-7), scaled(weight, 1.002))
    assert judged(model, scaled("a", 1 + 1e-7)).verified == "run"


def test_an_output_that_passes_no_step_is_judged_as_ever() -> None:
    model = behind(*CASES["Sign"])
    model.graph.output.append(helper.make_tensor_value_info("h", FLOAT, None))
    with pytest.raises(sn.VerificationFailed, match="'h'"):
        judged(model, scaled("a", 1.002))


@pytest.mark.parametrize("place", ["If", "function"])
@pytest.mark.parametrize("command", ["fold", "insert"])
def test_steps_in_bodies_are_judged_from_outside(command: str, place: str, tmp_path: Path) -> None:
    """What goes into the node, and what its outputs make, is compared; what is inside is proved by structure."""
    body, step = branch([node("Sign", ["d"], ["o"])]), [node("Step", ["d"], ["s"], domain="local")]
    if place == "If":
        step = [node("If", ["yes"], ["s"], then_branch=body, else_branch=branch([node("Neg", ["d"], ["o2"])]))]
    model = behind(step, {"yes": np.array(True)}, functions=[function("Step", ["x"], [node("Sign", ["x"])])])
    proof = proved(model, command, tmp_path)
    assert proof.verified == "structure"
    assert "Sign" in str(proof.note)
    for weight in ("a", "b"):
        with pytest.raises(sn.VerificationFailed):
            judged(model, scaled("a", 1 + 1e-7), scaled(weight, 1.002))


@pytest.mark.parametrize("command", ["fold", "insert"])
def test_weights_with_which_nothing_runs(command: str, tmp_path: Path) -> None:
    """So many elements lie above 1 before, and none behind: a Reshape fits one only. It is nobody's fault."""
    nodes = [
        node("MatMul", ["x", "a"], ["h"]),
        node("Reshape", ["h", "flat"], ["f"]),
        node("Greater", ["f", "one"], ["c"]),
    ]
    nodes += [node("Compress", ["f", "c"], ["k"], axis=0), node("TopK", ["k", "few"], ["y", "i"])]
    weights: Weights = {"a": drawn(8, 8) * 50, "flat": np.array([-1]), "one": np.float32(20), "few": np.array([3])}
    proof = proved(network(nodes, weights, {"x": (2, 8)}), command, tmp_path)
    assert proof.verified == "structure"
    assert "with the new weights the original does not run" in str(proof.note)


@pytest.mark.usefixtures("tampering")
@pytest.mark.parametrize("command", ["fold", "insert"])
def test_models_without_steps_fail_as_ever(command: str, tmp_path: Path) -> None:
    model = network([node("MatMul", ["x", "a"])], {"a": drawn(8, 8)}, {"x": (2, 8)})
    with pytest.raises(sn.VerificationFailed):
        proved(model, command, tmp_path)
    assert not (tmp_path / "out.onnx").exists()


def test_a_sigma_that_is_wrong_is_found_where_outputs_tell_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The u of the graph is another one, and the signs that come out are the same for any σ."""
    body = branch([node("MatMul", ["x", "a"], ["h1"]), node("Sign", ["h1"], ["o"])])
    step = node("If", ["yes"], ["s"], then_branch=body, else_branch=branch([node("Neg", ["x"], ["o2"])]))
    model = network([step, node("Identity", ["s"])], {"a": drawn(8, 8), "yes": np.array(True)}, {"x": (2, 8)})

    def change(proto: onnx.ModelProto) -> None:
        iterated = next(tensor for tensor in proto.graph.initializer if tensor.name == "sn_u")
        iterated.CopyFrom(numpy_helper.from_array(drawn(8, 1, seed=5), "sn_u"))

    assert proved(model, "insert", tmp_path).verified == "run"
    tamper(monkeypatch, change)
    with pytest.raises(sn.VerificationFailed, match="σ"):
        proved(model, "insert", tmp_path)


@pytest.mark.parametrize("command", ["fold", "insert"])
def test_rounding_that_grows_with_depth(command: str, tmp_path: Path) -> None:
    """Sixty layers of which each makes the differences of its inputs larger; no step is among them."""
    nodes, weights, at = [], {"axis": np.array([1]), "one": np.ones(1, np.float32), "no": np.zeros(1, np.float32)}, "x"
    for layer in range(60):
        names = [f"{name}{layer}" for name in ("w", "h", "i", "n", "o", "t")]
        weights[names[0]] = drawn(64, 64, seed=layer)
        nodes += [node("MatMul", [at, names[0]], [names[1]]), node("Unsqueeze", [names[1], "axis"], [names[2]])]
        nodes += [node("InstanceNormalization", [names[2], "one", "no"], [names[3]], epsilon=1e-12)]
        nodes += [node("Squeeze", [names[3], "axis"], [names[4]]), node("Tanh", [names[4]], [names[5]])]
        at = names[5]
    model = network([*nodes, node("Identity", [at])], weights, {"x": (16, 64)})
    proof = proved(model, command, tmp_path)
    assert (proof.verified, "rounding grows" in str(proof.note)) == ("run", True)

    def turned(proto: onnx.ModelProto) -> None:  # InstanceNormalization sees no factor
        array = numpy_helper.to_array(proto.graph.initializer[33]).copy()
        array[0] *= np.float32(1.01)
        proto.graph.initializer[33].CopyFrom(numpy_helper.from_array(array, proto.graph.initializer[33].name))

    source = Model.open(model)
    plan = sn.make_plan(source)
    with pytest.raises(sn.VerificationFailed, match="piece by piece"):
        prove_outputs(source, plan, *sides(model, [turned]), make_feeds(source), Terms(), "other")
