"""strip(insert(m)) = m, as a proto, and as bytes where m was serialized canonically; on every real model at hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import sn_graph as sn
from sn_graph.model import Storage
from sn_graph.proofs import save
from tests.support.builders import branch, constant, drawn, initializer, network, node, value
from tests.support.places import CORPUS, ONNX_MODELS, corpus, require_corpus
from tests.support.runs import tensors

CASES = [pytest.param(CORPUS / row["path"], id=row["path"]) for row in corpus()]
CASES += [pytest.param(path, id=path.name) for path in ONNX_MODELS]
EVERY = ["Conv", "ConvTranspose", "Gemm", "MatMul", "Gather", "LSTM", "GRU", "RNN", "Attention", "FusedConv"]
WAYS: list[dict[str, Any]] = [
    {},
    {"state_layout": "per-weight", "state_mode": "required"},
    {"scale": "weight", "bound": 2.0, "clip": True, "op_types": EVERY},
]


def test_the_corpus_is_here() -> None:
    require_corpus()


@pytest.mark.parametrize("way", WAYS, ids=["packed", "per-weight", "weight"])
@pytest.mark.parametrize("path", CASES)
def test_every_model_at_hand(path: Path, way: dict[str, Any], tmp_path: Path) -> None:
    try:
        result = sn.insert(path, force=True, **way)
    except sn.ModelError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert "needs 7 or later" in refusal
        return
    original = sn.Model.open(path).to_proto()
    inserted = result.to_proto()
    if result.idle:
        assert inserted == original
        return
    assert sn.strip(inserted).to_proto() == original
    result.save(tmp_path / "in.onnx", Storage.EXTERNAL if way.get("bound") else Storage.KEEP)
    sn.strip(tmp_path / "in.onnx").save(tmp_path / "out.onnx", Storage.INLINE)
    assert without_place(onnx.load(tmp_path / "out.onnx")) == without_place(onnx.load(path))
    if path.read_bytes() == original.SerializeToString(deterministic=True):
        assert (tmp_path / "out.onnx").read_bytes() == path.read_bytes()
    if is_valid(original):
        onnx.checker.check_model(inserted)


def is_valid(model: onnx.ModelProto) -> bool:
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError:
        return False
    return True


@pytest.fixture
def model() -> onnx.ModelProto:
    weights = {"w": drawn(32, 32), "v": drawn(4, 32, seed=1)}
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Gemm", ["h", "v", "b"], ["y"], transB=1)]
    return network(nodes, weights | {"b": drawn(4)}, {"x": ("n", 32)})


@pytest.mark.parametrize("storage", list(Storage))
@pytest.mark.parametrize("source", ["inline", "external"])
@pytest.mark.parametrize("encoding", ["raw", "typed"])
def test_every_storage(encoding: str, source: str, storage: Storage, model: onnx.ModelProto, tmp_path: Path) -> None:
    if encoding == "typed":
        for tensor in model.graph.initializer:
            array = numpy_helper.to_array(tensor)
            tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.FLOAT, array.shape, array.reshape(-1)))
    external = source == "external"
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=external, location="m.data", size_threshold=0)
    original = onnx.load(tmp_path / "m.onnx")
    sn.insert(tmp_path / "m.onnx").save(tmp_path / "i.onnx", storage)
    sn.strip(tmp_path / "i.onnx").save(tmp_path / "s.onnx", Storage.INLINE)
    assert without_place(onnx.load(tmp_path / "s.onnx")) == without_place(original)
    if not external:
        assert (tmp_path / "s.onnx").read_bytes() == original.SerializeToString(deterministic=True)
    sn.strip(tmp_path / "i.onnx").save(tmp_path / "k.onnx")
    kept = storage is Storage.EXTERNAL or (external and storage is Storage.KEEP)
    assert (tmp_path / "k.onnx.data").exists() == (kept and encoding == "raw")  # typed fields have no external form
    assert without_place(onnx.load(tmp_path / "k.onnx")) == without_place(original)


def without_place(model: onnx.ModelProto) -> onnx.ModelProto:
    """onnx.load leaves data_location set on what it read from a data file."""
    for _, tensor in tensors(model.graph):
        tensor.ClearField("data_location")
    return model


def test_sixteen_bit_floats_as_varints_come_back_from_external_data(tmp_path: Path) -> None:
    array = drawn(64, 64).astype(np.float16)
    tensor = helper.make_tensor("w", TensorProto.FLOAT16, array.shape, array.reshape(-1))
    assert tensor.int32_data
    model = network([node("MatMul", ["x", "w"], ["y"])], {"w": tensor}, {"x": (2, 64)}, dtype="float16")
    sn.insert(model).save(tmp_path / "i.onnx", Storage.EXTERNAL)
    assert sn.strip(tmp_path / "i.onnx").to_proto() == model


def test_weights_of_zeros_alone_are_stripped_too(tmp_path: Path) -> None:
    """Nothing is inserted, but it counts as done: the metadata say so, and the graph stays as it was."""
    model = network([node("MatMul", ["x", "w"])], {"w": np.zeros((4, 4), np.float32)}, {"x": (2, 4)}, ir=3)
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 4]))
    inserted = sn.insert(model).to_proto()
    assert (inserted.graph, inserted.ir_version) == (model.graph, 3)
    assert sn.strip(inserted).to_proto() == model
    with pytest.raises(sn.ModelError, match="holds an inserted iteration already"):
        sn.insert(inserted)
    session = sn.StatefulSession(inserted)
    session.normalize_weights()
    assert (session.run(None, {"x": drawn(2, 4)})[0] == 0).all()
    assert session.state() == session.sigma == {}
    session.bake(tmp_path / "baked.onnx")
    assert onnx.load(tmp_path / "baked.onnx") == model


def bodies(name: str = "") -> list[onnx.NodeProto]:
    """An If within an If, a Loop and a Scan in a row, each body with a constant of 64 bytes or more; from m to y."""
    deep = branch([node("Add", ["m", "c1"], ["o1"])], {"c1": drawn(32, seed=1)})
    inner = node("If", ["yes"], ["i"], name=name, then_branch=deep, else_branch=branch([node("Neg", ["m"], ["o2"])]))
    then = branch([node("Mul", ["m", "c2"], ["o3"]), inner, node("Add", ["o3", "i"], ["o4"])], {"c2": drawn(32)})
    other = branch([constant("c3", drawn(32, seed=3)), node("Add", ["m", "c3"], ["o5"])])
    loop = helper.make_graph(
        [node("Identity", ["go"], ["going"]), node("Add", ["h", "c4"], ["h_out"])],
        "loop",
        [value("i0", (), TensorProto.INT64), value("go", (), TensorProto.BOOL), value("h")],
        [value("going", (), TensorProto.BOOL), value("h_out")],
        [initializer("c4", drawn(32, seed=4))],
    )
    scan = helper.make_graph(
        [node("Add", ["row", "c5"], ["out"])],
        "scan",
        [value("row", (32,))],
        [value("out", (32,))],
        [initializer("c5", drawn(32))],
    )
    return [
        node("If", ["yes"], ["a"], name=name, then_branch=then, else_branch=other),
        node("Loop", ["two", "", "a"], ["b"], name=name, body=loop),
        node("Scan", ["b"], ["y"], name=name, body=scan, num_scan_inputs=1),
    ]


@pytest.mark.parametrize("opset", [11, 17])
@pytest.mark.parametrize("name", ["", "twin"], ids=["unnamed", "one name for all"])
def test_bodies_of_nodes_that_their_position_tells(name: str, opset: int, tmp_path: Path) -> None:
    """Nodes that are put before them move their positions, but must not move what the metadata refer to."""
    nodes = [node("MatMul", ["x", "w"], ["m"]), *bodies(name)]
    weights = {"w": drawn(32, 32), "yes": np.array(True), "two": np.array(2)}
    model = network(nodes, weights, {"x": (3, 32)}, opset=opset)
    inserted = sn.insert(model).to_proto()
    assert sn.strip(inserted).to_proto() == model
    proof = save(sn.insert(model), tmp_path / "i.onnx")
    assert proof.verified == ("structure" if name else "run"), proof.note  # onnxruntime refuses twins


def test_a_plain_model_is_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(sn.ModelError, match="nothing that insert wrote"):
        sn.strip(model)


def test_a_model_that_another_tool_changed_is_refused(model: onnx.ModelProto) -> None:
    def renamed(proto: onnx.ModelProto) -> None:
        proto.graph.node[-1].name = "other"

    def dropped(proto: onnx.ModelProto) -> None:
        del proto.graph.node[-1]

    def frozen(proto: onnx.ModelProto) -> None:
        del proto.graph.input[-1]

    for change in (renamed, dropped, frozen):
        inserted = sn.insert(model).to_proto()
        change(inserted)
        with pytest.raises(sn.ModelError, match="changed by another tool since the insertion"):
            sn.strip(inserted)


def changed_metadata(inserted: onnx.ModelProto, change: Any) -> onnx.ModelProto:
    (entry,) = inserted.metadata_props
    entry.value = change(entry.value)
    return inserted


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[:-9],
        lambda _: "[]",
        lambda _: "{}",
        lambda _: "[" * 100_000,
        lambda text: json.dumps(json.loads(text) | {"version": 2}),
        lambda text: json.dumps(json.loads(text) | {"kind": "lifted"}),
        lambda text: json.dumps(json.loads(text) | {"sites": [1]}),
        lambda text: json.dumps(json.loads(text) | {"original": json.loads(text)["original"][:-7]}),
        lambda text: json.dumps(json.loads(text) | {"original": "\x00"}),
        lambda text: json.dumps(json.loads(text) | {"original": "00000"}),
        lambda text: json.dumps(json.loads(text) | {"original": 5}),
    ],
)
def test_damaged_metadata_are_refused(change: Any, model: onnx.ModelProto) -> None:
    with pytest.raises(sn.ModelError):
        sn.strip(changed_metadata(sn.insert(model).to_proto(), change))


def test_a_weight_changed_since_stays_changed(model: onnx.ModelProto) -> None:
    """The data are the inserted model's: after training there, say, strip gives the model with the new weights."""
    inserted = sn.insert(model).to_proto()
    after = drawn(32, 32, seed=9)
    inserted.graph.initializer[0].raw_data = after.tobytes()
    stripped = sn.strip(inserted).to_proto()
    assert numpy_helper.to_array(stripped.graph.initializer[0]).tobytes() == after.tobytes()
    model.graph.initializer[0].raw_data = after.tobytes()
    assert stripped == model


def test_weights_are_not_stored_twice() -> None:
    """A ResNet's hundreds of small vectors neither: the kept skeleton holds names and structure alone."""
    nodes, weights, name = [], {}, "x"
    for number in range(50):
        weights[f"w{number}"] = drawn(8, 8, 3, 3, seed=number)
        weights |= {f"{kind}{number}": drawn(8, seed=number) ** 2 + 1 for kind in ("scale", "bias", "mean", "var")}
        nodes.append(node("Conv", [name, f"w{number}"], [f"c{number}"], pads=[1] * 4))
        parts = [f"c{number}", *(f"{kind}{number}" for kind in ("scale", "bias", "mean", "var"))]
        name = f"h{number}"
        nodes.append(node("BatchNormalization", parts, [name]))
    nodes.append(node("Relu", [name], ["y"]))
    model = network(nodes, {key: value.astype(np.float32) for key, value in weights.items()}, {"x": (1, 8, 8, 8)})
    inserted = sn.insert(model).to_proto()
    content = json.loads(inserted.metadata_props[0].value)
    assert len(content["sites"]) == 50
    assert len(content["original"]) < 10_000  # 8 kB of vectors alone would not go in
    assert sn.strip(inserted).to_proto() == model
