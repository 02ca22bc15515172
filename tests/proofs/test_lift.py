from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sn_graph as sn
from sn_graph.choices import LiftedSigmaChoice
from sn_graph.passes import LiftResult, PassResult
from sn_graph.proofs import Terms, prove, save
from sn_graph.proofs import lift as proof_of_lift
from sn_graph.runtime.parity import with_given_weights
from tests.support.builders import drawn, node
from tests.support.exported import convolution, in_eval


def written(tmp_path: Path) -> tuple[PassResult, Path]:
    result = sn.lift(convolution(in_eval(drawn(8, 6, 3, 3))))
    path = tmp_path / "lifted.onnx"
    result.save(path)
    return result, path


def change(path: Path, name: str, factor: float) -> None:
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name == name:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(factor), name))
    onnx.save(proto, path)


def test_a_lifted_model_is_proved_by_running_it(tmp_path: Path) -> None:
    result, path = written(tmp_path)
    assert save(result, path).verified == "run"
    assert prove(result, path, Terms()).verified == "run"


@pytest.mark.parametrize(
    ("name", "factor", "said"),
    [("c.weight", 1.0001, "not what the original computes"), ("c.bias", 1.01, "not the original's")],
)
def test_another_tensor_is_found(name: str, factor: float, said: str, tmp_path: Path) -> None:
    result, path = written(tmp_path)
    change(path, name, factor)
    with pytest.raises(sn.VerificationFailed, match=said):
        prove(result, path, Terms())


def test_another_norm_is_found(tmp_path: Path) -> None:
    result = sn.lift(convolution(in_eval(drawn(8, 6, 3, 3))), sigma="exact")
    path = tmp_path / "lifted.onnx"
    assert save(result, path).verified == "run"
    change(path, "c.weight", 1.0001)
    with pytest.raises(sn.VerificationFailed, match="was promised"):
        prove(result, path, Terms())


def test_another_node_is_found(tmp_path: Path) -> None:
    result, path = written(tmp_path)
    proto = onnx.load(path)
    proto.graph.node.append(onnx.helper.make_node("Identity", ["x"], ["more"]))
    onnx.save(proto, path)
    with pytest.raises(sn.VerificationFailed, match="not the original's"):
        prove(result, path, Terms())


def test_what_an_insertion_goes_on_with_is_proved_too(tmp_path: Path) -> None:
    source = convolution(in_eval(drawn(8, 6, 3, 3)))
    result = sn.lift(source, to="insert")
    path = tmp_path / "lifted.onnx"
    assert save(result, path).verified == "run"
    assert isinstance(result.before, LiftResult)
    (target,) = result.before.carried
    wrong = replace(result.before, carried=(replace(target, bound=2.0),))
    with pytest.raises(sn.VerificationFailed, match="not those of the original"):
        save(replace(result, before=wrong), path)


def test_a_weight_that_is_rounded_to_half_precision_behind_its_normalization(tmp_path: Path) -> None:
    nodes, weights = in_eval(drawn(8, 6, 3, 3))
    nodes[-1].output[0] = "normalized"
    nodes.append(node("Cast", ["normalized"], ["w"], to=onnx.TensorProto.FLOAT16))
    nodes += [node("Cast", ["w"], ["wide"], to=onnx.TensorProto.FLOAT)]
    source = convolution((nodes, weights), reads="wide")
    for to in ("fold", "insert"):
        assert save(sn.lift(source, to=to), tmp_path / "out.onnx").verified == "run"


@pytest.mark.parametrize(("name", "factor"), [("c.weight", 1.0001), ("c.bias", 1.01)])
@pytest.mark.parametrize("sigma", ["graph", "exact"])
def test_a_large_model_is_proved_a_weight_at_a_time(
    sigma: LiftedSigmaChoice, name: str, factor: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sn_graph.runtime.parity.given._LARGE", 0)
    monkeypatch.setattr(proof_of_lift, "_WHOLE", 0)
    monkeypatch.setattr(with_given_weights, "__defaults__", (1,))  # a large tensor has a byte or more
    result = sn.lift(convolution(in_eval(drawn(8, 6, 3, 3))), sigma=sigma)
    path = tmp_path / "lifted.onnx"
    proof = save(result, path)
    assert proof.verified == "run"
    assert "not run as a whole" in str(proof.note)
    change(path, name, factor)
    with pytest.raises(sn.VerificationFailed):
        prove(result, path, Terms())
