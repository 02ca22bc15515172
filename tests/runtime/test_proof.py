"""The proof of a written file can fail: every way of writing it wrongly that we could think of is found."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

import sn_graph as sn
from sn_graph.model.files import StagedFiles
from sn_graph.passes.base import PassResult
from sn_graph.runtime.proof import prove, save_verified
from tests.passes.reference import drawn

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[2,4] x) => (float[2,4] y) {
    t = Transpose<perm = [1, 0]>(w)  a = MatMul(x, t)  r = Relu(a)  b = Gemm(r, w, c)  m = ReduceMax<keepdims = 0>(w)
    y = Add(b, m) }"""


def proto(text: str = TEXT) -> onnx.ModelProto:
    model = parse_model(text)
    for name, array in (("w", drawn((4, 4))), ("c", drawn((4,))), ("unused", np.arange(3))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.fixture(params=["in place", "split"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[sn.Model, PassResult, Path]:
    """A folded file, the model it came from, and what the pass says it did."""
    text = (
        TEXT if request.param == "split" else TEXT.replace("ReduceMax<keepdims = 0>(w)", "ReduceMax<keepdims = 0>(c)")
    )
    onnx.save(proto(text), tmp_path / "in.onnx")
    source = sn.Model.open(tmp_path / "in.onnx")
    result = sn.fold(source)
    result.save(tmp_path / "out.onnx")
    return source, result, tmp_path / "out.onnx"


def tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    return next(one for one in model.graph.initializer if one.name == name)


def scaled(model: onnx.ModelProto) -> onnx.TensorProto:
    names = {one.name for one in model.graph.initializer}
    return tensor(model, "w_normalized" if "w_normalized" in names else "w")


def flip_another_tensor(model: onnx.ModelProto) -> None:
    held = tensor(model, "c")
    held.raw_data = bytes([held.raw_data[0] ^ 1]) + held.raw_data[1:]


def flip_an_unused_tensor(model: onnx.ModelProto) -> None:
    held = tensor(model, "unused")
    held.raw_data = held.raw_data[:-1] + b"\x01"


def scale_slightly_wrong(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(scaled(model))
    scaled(model).raw_data = (array * np.float32(1.001)).tobytes()


def one_element_wrong(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(scaled(model)).copy()
    array[2, 3] *= np.float32(1 + 1e-5)
    scaled(model).raw_data = array.tobytes()


def one_element_not_a_number(model: onnx.ModelProto) -> None:
    array = numpy_helper.to_array(scaled(model)).copy()
    array[0, 0] = np.nan
    scaled(model).raw_data = array.tobytes()


def another_shape(model: onnx.ModelProto) -> None:
    scaled(model).dims[:] = [16]


def another_type(model: onnx.ModelProto) -> None:
    scaled(model).data_type = TensorProto.INT32


def drop_a_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.remove(tensor(model, "unused"))


def add_a_tensor(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(drawn((4, 4)), "new"))


def drop_a_node(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    model.graph.node.remove(node)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.input[0] = "a"


def change_a_node(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"


def change_an_attribute(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Transpose":
            node.attribute[0].ints[:] = [0, 1]


def add_a_node(model: onnx.ModelProto) -> None:
    relu = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Relu")
    model.graph.node.insert(relu + 1, helper.make_node("Abs", ["a"], ["more"]))


def rename_an_output(model: onnx.ModelProto) -> None:
    model.graph.node[-1].output[0] = model.graph.output[0].name = "z"


def change_the_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 16


def change_the_metadata(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="a", value="b")


# fmt: off
WRONGS = [
    flip_another_tensor, flip_an_unused_tensor, scale_slightly_wrong, one_element_wrong, one_element_not_a_number,
    another_shape, another_type, drop_a_tensor, add_a_tensor, drop_a_node, change_a_node, change_an_attribute,
    add_a_node, rename_an_output, change_the_opset, change_the_metadata,
]
# fmt: on


@pytest.mark.parametrize("wrong", WRONGS)
def test_a_wrong_file_is_found(
    wrong: Callable[[onnx.ModelProto], None], written: tuple[sn.Model, PassResult, Path]
) -> None:
    source, result, path = written
    assert prove(source, result.rescaled, path).verified == "run"
    model = onnx.load(path)
    wrong(model)
    onnx.save(model, path)
    with pytest.raises(sn.VerificationFailed):
        prove(source, result.rescaled, path)


def test_a_split_that_leaves_the_copy_unread_or_reads_the_wrong_one_is_found(tmp_path: Path) -> None:
    """Structure can't tell who was to be redirected; that it is a copy of the same weight it can."""
    onnx.save(proto(), tmp_path / "in.onnx")
    source = sn.Model.open(tmp_path / "in.onnx")
    result = sn.fold(source)
    result.save(tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    relu = next(node for node in model.graph.node if node.op_type == "Relu")
    relu.input[0] = "w_normalized"
    onnx.save(model, tmp_path / "out.onnx")
    with pytest.raises(sn.VerificationFailed, match="graph is not the original's"):
        prove(source, result.rescaled, tmp_path / "out.onnx")


def test_weights_that_were_not_scaled_at_all_are_found(written: tuple[sn.Model, PassResult, Path]) -> None:
    source, result, path = written
    assert source.path is not None
    path.write_bytes(source.path.read_bytes())
    with pytest.raises(sn.VerificationFailed, match=r"tensor 'w|got lost|not the original"):
        prove(source, result.rescaled, path)


@pytest.fixture
def tampering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that writes the model, and then spoils it."""
    write = StagedFiles.write_model

    def spoil(self: StagedFiles, *arguments: object) -> None:
        write(self, *arguments)  # type: ignore[arg-type]
        model = onnx.load(self.model)
        scale_slightly_wrong(model)
        onnx.save(model, self.model)

    monkeypatch.setattr(StagedFiles, "write_model", spoil)


@pytest.mark.usefixtures("tampering")
def test_nothing_is_put_in_place_where_the_proof_fails(tmp_path: Path) -> None:
    source = sn.Model.open(proto())
    with pytest.raises(sn.VerificationFailed, match="is not the original's divided by its norm"):
        save_verified(source, sn.fold(source), tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("tampering")
def test_force_puts_it_in_place_and_says_that_it_failed(tmp_path: Path) -> None:
    source = sn.Model.open(proto())
    done = save_verified(source, sn.fold(source), tmp_path / "out.onnx", force=True)
    assert (done.verified, done.failed) == ("no", True)
    assert done.note is not None
    assert os.listdir(tmp_path) == ["out.onnx"]


@pytest.mark.usefixtures("tampering")
def test_without_verification_nothing_is_looked_at(tmp_path: Path) -> None:
    source = sn.Model.open(proto())
    done = save_verified(source, sn.fold(source), tmp_path / "out.onnx", verify=False)
    assert (done.verified, done.note, done.failed) == ("no", None, False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("y = RandomNormalLike(b)", "draws random numbers"),
        ("y = odd.Custom(b)", "can't be run"),
        ("s = Constant<value = int64[2] {3, 3}>()  y = Reshape(b, s)", "can't be run"),
    ],
)
def test_what_cannot_be_run_is_checked_by_structure(text: str, why: str, tmp_path: Path) -> None:
    head = '<ir_version: 8, opset_import: ["": 17, "odd": 1]> g (float[2,4] x) => (float[N,M] y) {b = MatMul(x, w) '
    source = sn.Model.open(proto(f"{head}{text}}}"))
    result = sn.fold(source)
    done = save_verified(source, result, tmp_path / "out.onnx")
    assert done.verified == "structure"
    assert why in str(done.note)
    assert "--dim" not in str(done.note)  # which fold does not have
    model = onnx.load(tmp_path / "out.onnx")
    scale_slightly_wrong(model)
    onnx.save(model, tmp_path / "out.onnx")
    with pytest.raises(sn.VerificationFailed):
        prove(source, result.rescaled, tmp_path / "out.onnx")


def test_a_folded_model_that_no_longer_runs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of defence: a file that passes for right but does not load."""
    source = sn.Model.open(proto())
    result = sn.fold(source)
    result.save(tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    model.graph.node[0].op_type = "NoSuchOp"
    onnx.save(model, tmp_path / "out.onnx")
    monkeypatch.setattr("sn_graph.runtime.proof._check_structure", lambda *_: None)
    with pytest.raises(sn.VerificationFailed, match="does not run"):
        prove(source, result.rescaled, tmp_path / "out.onnx")


def test_outputs_are_compared_by_the_tolerances_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(proto(TEXT.replace("(w)\n", "(c)\n")), tmp_path / "in.onnx")
    source = sn.Model.open(tmp_path / "in.onnx")
    result = sn.fold(source)
    result.save(tmp_path / "out.onnx")
    model = onnx.load(tmp_path / "out.onnx")
    scale_slightly_wrong(model)
    onnx.save(model, tmp_path / "out.onnx")
    monkeypatch.setattr("sn_graph.runtime.proof._check_structure", lambda *_: None)
    with pytest.raises(sn.VerificationFailed, match="outputs differ"):
        prove(source, result.rescaled, tmp_path / "out.onnx")
    assert prove(source, result.rescaled, tmp_path / "out.onnx", rtol=0.1).verified == "run"


def test_progress_tells_the_steps(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    source = sn.Model.open(proto())
    save_verified(source, sn.fold(source), tmp_path / "o.onnx", progress=lambda *step: told.append(step))
    assert told[-1] == ("verifying", 3, 3)
    assert {task for task, _, _ in told} == {"writing", "verifying"}


def test_external_data_and_subgraphs(tmp_path: Path) -> None:
    onnx.save(proto(), tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    source = sn.Model.open(tmp_path / "in.onnx")
    assert save_verified(source, sn.fold(source), tmp_path / "out.onnx").verified == "run"
    assert sorted(os.listdir(tmp_path)) == ["in.data", "in.onnx", "out.onnx", "out.onnx.data"]
