"""The proof of an insertion can fail: whatever is wrong with the written file is found, and nothing takes its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from safetensors.numpy import save_file

import sn_graph as sn
from sn_graph import proofs
from sn_graph.errors import VerificationFailed
from sn_graph.proofs import Proof
from sn_graph.rewrite import Emitter
from tests.support.builders import DTYPES, drawn, network, node, saved
from tests.support.tampering import Change, tamper


@pytest.fixture
def path(tmp_path: Path) -> Path:
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("Tanh", ["h"], ["t"]), node("MatMul", ["t", "b"], ["y"])]
    weights = {"a": drawn(5, 64), "b": drawn(64, 6, seed=1)}
    return saved(network(nodes, weights, {"x": ("n", 5)}), tmp_path / "m.onnx")


def save(path: Path, *, verify: bool = True, force: bool = False, **options: Any) -> Proof:
    """Insert the model at `path`, and save the result as out.onnx beside it, proved."""
    return proofs.save(sn.insert(path, **options), path.with_name("out.onnx"), verify=verify, force=force)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"state_layout": "per-weight", "scale": "weight"},
        {"state_mode": "required", "seed": 5},
        {"state_mode": "required", "state_layout": "per-weight", "sigma": "exact"},
        {"bound": 2.0, "clip": True, "power_iterations": 3, "seed": 2},
        {"include": ["a"]},
    ],
)
def test_a_good_insertion_is_proved_by_running(options: dict[str, Any], path: Path) -> None:
    assert save(path, **options) == Proof("run")
    assert path.with_name("out.onnx").exists()


@pytest.mark.parametrize("mode", ["default", "required"])
def test_the_first_state_of_a_file_is_proved_too(mode: str, path: Path) -> None:
    save_file({"a.u": drawn(64), "b.u": drawn(6)}, path.with_name("u"))
    assert save(path, state=path.with_name("u"), state_mode=mode, convention="keras") == Proof("run")


@pytest.mark.parametrize("sigma", ["power", "exact"])
@pytest.mark.parametrize("op_type", ["MatMul", "Gemm"])
@pytest.mark.parametrize("iterations", [1, 5])
def test_a_float64_insertion_is_proved_from_the_state_that_it_holds(
    sigma: str, op_type: str, iterations: int, tmp_path: Path
) -> None:
    """u is float32 in the graph; from the u before it was rounded, outputs differ by more than float64's tolerance."""
    weight = drawn(64, 32).astype(np.float64)
    made = network([node(op_type, ["x", "w"], ["y"])], {"w": weight}, {"x": (3, 64)}, dtype="float64")
    path = saved(made, tmp_path / "m.onnx")
    for seed in range(4):
        assert save(path, seed=seed, sigma=sigma, power_iterations=iterations) == Proof("run")


@pytest.mark.parametrize("sigma", ["power", "exact"])
@pytest.mark.parametrize(
    ("stored", "casts", "dtype"),
    [
        ("float16", ["float32"], "float32"),
        ("float16", ["float64"], "float64"),
        ("bfloat16", ["float32"], "float32"),
        ("float32", ["float64"], "float64"),
        ("float32", ["float16", "float32"], "float32"),
        ("float64", ["bfloat16", "float32"], "float32"),
    ],
)
def test_a_weight_behind_casts_is_compared_in_the_coarsest_type(
    stored: str, casts: list[str], dtype: str, sigma: str, tmp_path: Path
) -> None:
    """fold rounds the weight to that type after the division, insert before it."""
    names = ["w", *(f"c{step}" for step in range(len(casts)))]
    codes = [helper.np_dtype_to_tensor_dtype(DTYPES[cast]) for cast in casts]
    nodes = [node("Cast", [a], [b], to=to) for a, b, to in zip(names, names[1:], codes, strict=False)]
    nodes.append(node("MatMul", ["x", names[-1]], ["y"]))
    made = network(nodes, {"w": drawn(64, 32).astype(DTYPES[stored])}, {"x": (3, 64)}, dtype=dtype)
    assert save(saved(made, tmp_path / "m.onnx"), sigma=sigma) == Proof("run")


def weight_changed(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = (numpy_helper.to_array(proto.graph.initializer[0]) * np.float32(2)).tobytes()


def first_state_changed(proto: onnx.ModelProto) -> None:
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == "sn_u")
    tensor.raw_data = (numpy_helper.to_array(tensor) ** 2).tobytes()


def constant_changed(proto: onnx.ModelProto) -> None:
    (tensor,) = (tensor for tensor in proto.graph.initializer if tensor.name == "sn/bound")
    tensor.raw_data = np.float32(3).tobytes()


def node_changed(proto: onnx.ModelProto) -> None:
    next(one for one in proto.graph.node if one.op_type == "Div").op_type = "Mul"


def metadata_changed(proto: onnx.ModelProto) -> None:
    proto.metadata_props[0].value = proto.metadata_props[0].value.replace('"original": "c', '"original": "d')


def metadata_dropped(proto: onnx.ModelProto) -> None:
    del proto.metadata_props[:]


CHANGES: dict[Change, str] = {
    weight_changed: "strip does not give the original back",
    first_state_changed: "outputs differ",
    constant_changed: "outputs differ",
    node_changed: "strip does not accept what was written",
    metadata_changed: "strip does not accept what was written",
    metadata_dropped: "what was written holds no metadata of the insertion",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_tampered_file_is_found_out(change: Change, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tamper(monkeypatch, change)
    with pytest.raises(VerificationFailed, match=CHANGES[change]):
        save(path, bound=2.0)
    assert os.listdir(path.parent) == ["m.onnx"]
    forced = save(path, bound=2.0, force=True)
    assert (forced.verified, forced.failed) == ("no", True)
    assert path.with_name("out.onnx").exists()


def test_a_wrong_iteration_is_found_out_though_its_hash_is_right(path: Path) -> None:
    """As if insert itself were wrong: it writes the hash of what it made."""
    gemv = Emitter.gemv
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Emitter, "norm", lambda self, value, _, name: self.op("ReduceL1", [value], name))
        with pytest.raises(VerificationFailed, match="outputs differ"):
            save(path)
    with pytest.MonkeyPatch.context() as patch:

        def broken(self: Any, matrix: str, column: str, name: str, *, transposed: bool, double: bool) -> str:
            return gemv(self, matrix, column, name, transposed=not transposed, double=double)

        patch.setattr(Emitter, "gemv", broken)
        with pytest.raises(VerificationFailed, match="the inserted model does not run"):
            save(path)


def test_no_verification_looks_at_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tamper(monkeypatch, weight_changed)
    assert save(path, verify=False) == Proof("no")


def test_what_cannot_be_run_is_proved_by_structure(path: Path) -> None:
    proto = onnx.load(path)
    proto.graph.node[1].domain = "odd"
    proto.opset_import.add(domain="odd", version=1)
    onnx.save(proto, path)
    proof = save(path)
    assert proof.verified == "structure"
    assert "can't be run" in str(proof.note)


def test_bfloat16_is_proved_by_structure(tmp_path: Path) -> None:
    weight = drawn(5, 6).astype(ml_dtypes.bfloat16)
    model = network([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, {"x": (2, 5)}, dtype="bfloat16")
    assert save(saved(model, tmp_path / "m.onnx")).verified == "structure"


@pytest.mark.parametrize(("op_type", "inputs"), [("RandomNormalLike", ["h"]), ("Dropout", ["h", "", "training"])])
def test_random_models_are_proved_by_structure(op_type: str, inputs: list[str], path: Path) -> None:
    proto = onnx.load(path)
    proto.graph.node[1].CopyFrom(node(op_type, inputs, ["t"]))
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "training"))
    onnx.save(proto, path)
    proof = save(path)
    assert (proof.verified, op_type in str(proof.note)) == ("structure", True)


def test_where_nothing_was_inserted_the_model_is_as_it_was(path: Path) -> None:
    proof = save(path, include=["nosuch"])
    assert (proof.verified, proof.note) == ("structure", "nothing was inserted, and the graph is as it was")
    assert path.with_name("out.onnx").read_bytes() == path.read_bytes()


def test_float16_folds_and_inserts_alike_within_its_rounding(tmp_path: Path) -> None:
    weights = {"a": drawn(5, 64).astype(np.float16), "b": drawn(64, 6, seed=1).astype(np.float16)}
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"], ["y"])]
    model = network(nodes, weights, {"x": (2, 5)}, dtype="float16")
    assert save(saved(model, tmp_path / "m.onnx")) == Proof("run")
