"""The proof of a written file can fail: every way of writing it wrongly that we could think of is found."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

import sn_graph as sn
from sn_graph.model import Graph, Node, Scope
from sn_graph.passes import PassResult
from sn_graph.proofs import Terms, prove, save
from sn_graph.rewrite import Copy
from tests.support.builders import branch, constant, drawn, network, node
from tests.support.tampering import tampering

__all__ = ["tampering"]

TEXT = """<ir_version: 8, opset_import: ["": 17]> g (float[2,4] x) => (float[2,4] y) {
    t = Transpose<perm = [1, 0]>(w)  a = MatMul(x, t)  r = Relu(a)  b = Gemm(r, w, c)  m = ReduceMax<keepdims = 0>(w)
    y = Add(b, m) }"""


def proto(text: str = TEXT) -> onnx.ModelProto:
    model = parse_model(text)
    for name, array in (("w", drawn(4, 4, seed=1)), ("c", drawn(4, seed=1)), ("unused", np.arange(3))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


@pytest.fixture(params=["in place", "split"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[PassResult, Path]:
    """What the pass says it did, and the folded file."""
    text = (
        TEXT if request.param == "split" else TEXT.replace("ReduceMax<keepdims = 0>(w)", "ReduceMax<keepdims = 0>(c)")
    )
    onnx.save(proto(text), tmp_path / "in.onnx")
    return folded(tmp_path)


def folded(folder: Path) -> tuple[PassResult, Path]:
    """Fold in.onnx into out.onnx."""
    result = sn.fold(folder / "in.onnx")
    result.save(folder / "out.onnx")
    return result, folder / "out.onnx"


def split(folder: Path) -> tuple[PassResult, Path]:
    """A folded file whose weight was split: w and its Transpose t have copies, as the pass recorded."""
    onnx.save(proto(), folder / "in.onnx")
    result, path = folded(folder)
    assert set(result.copies) == {Copy("w_normalized", "w"), Copy("t_normalized", "t")}
    return result, path


def change(path: Path, wrong: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    wrong(model)
    onnx.save(model, path)


def by_type(model: onnx.ModelProto, op_type: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == op_type)


def making(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if output in node.output)


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
    model.graph.initializer.append(numpy_helper.from_array(drawn(4, 4, seed=1), "new"))


def drop_a_node(model: onnx.ModelProto) -> None:
    node = next(node for node in model.graph.node if node.op_type == "Relu")
    model.graph.node.remove(node)
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    gemm.input[0] = "a"


def change_a_node(model: onnx.ModelProto) -> None:
    next(node for node in model.graph.node if node.op_type == "Relu").op_type = "Sigmoid"


def change_an_attribute(model: onnx.ModelProto) -> None:
    for each in model.graph.node:
        if each.op_type == "Transpose":
            each.attribute[0].ints[:] = [0, 1]


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
def test_a_wrong_file_is_found(wrong: Callable[[onnx.ModelProto], None], written: tuple[PassResult, Path]) -> None:
    result, path = written
    assert prove(result, path, Terms()).verified == "run"
    change(path, wrong)
    with pytest.raises(sn.VerificationFailed):
        prove(result, path, Terms())


def test_a_split_that_leaves_the_copy_unread_or_reads_the_wrong_one_is_found(tmp_path: Path) -> None:
    """Structure can't tell who was to be redirected; that it is a copy of the same weight it can."""
    result, path = split(tmp_path)

    def misread(model: onnx.ModelProto) -> None:
        by_type(model, "Relu").input[0] = "w_normalized"

    change(path, misread)
    with pytest.raises(sn.VerificationFailed, match="graph is not the original's"):
        prove(result, path, Terms())


# Copies: what was added for readers that must not read the original is taken out as it was recorded, and no more


def add_a_copy_that_is_not_recorded(model: onnx.ModelProto) -> None:
    """A true copy, and read as the original would be."""
    copy = onnx.NodeProto()
    copy.CopyFrom(making(model, "t"))
    copy.output[0], copy.name = "t_more", ""
    model.graph.node.insert(1, copy)
    by_type(model, "Gemm").input[1] = "t_more"


def add_a_constant_that_is_not_recorded(model: onnx.ModelProto) -> None:
    copy = model.graph.initializer.add()
    copy.CopyFrom(tensor(model, "w_normalized"))
    copy.name = "w_more"
    by_type(model, "Gemm").input[1] = "w_more"


def alter_a_copy(model: onnx.ModelProto) -> None:
    making(model, "t_normalized").attribute[0].ints[:] = [0, 1]


def alter_a_copys_operator(model: onnx.ModelProto) -> None:
    copy = making(model, "t_normalized")
    copy.op_type = "Identity"
    copy.ClearField("attribute")


def copy_reads_another(model: onnx.ModelProto) -> None:
    making(model, "t_normalized").input[0] = "c"


def copy_makes_more(model: onnx.ModelProto) -> None:
    making(model, "t_normalized").output.append("t_more")


def drop_a_copied_node(model: onnx.ModelProto) -> None:
    """Its readers read the original again, as if nobody had normalized what they read."""
    model.graph.node.remove(making(model, "t_normalized"))
    by_type(model, "MatMul").input[1] = "t"


def give_a_copy_an_input(model: onnx.ModelProto) -> None:
    """A client could feed it: the original has no such input."""
    model.graph.input.append(helper.make_tensor_value_info("w_normalized", TensorProto.FLOAT, [4, 4]))


def give_a_copy_out(model: onnx.ModelProto) -> None:
    model.graph.output.append(helper.make_tensor_value_info("w_normalized", TensorProto.FLOAT, [4, 4]))


# fmt: off
ATTACKS = [
    add_a_copy_that_is_not_recorded, add_a_constant_that_is_not_recorded, alter_a_copy, alter_a_copys_operator,
    copy_reads_another, copy_makes_more, drop_a_copied_node, give_a_copy_an_input, give_a_copy_out,
]
# fmt: on


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_attack_on_the_copies_is_found(attack: Callable[[onnx.ModelProto], None], tmp_path: Path) -> None:
    result, path = split(tmp_path)
    assert prove(result, path, Terms()).verified == "run"
    change(path, attack)
    with pytest.raises(sn.VerificationFailed):
        prove(result, path, Terms())


# fmt: off
RECORDS = {
    "none": (),
    "one missing": (Copy("w_normalized", "w"),),
    "of another constant": (Copy("w_normalized", "c"), Copy("t_normalized", "t")),
    "of another node": (Copy("w_normalized", "w"), Copy("t_normalized", "a")),
    "of what is not there": (Copy("w_normalized", "w"), Copy("t_normalized", "nosuch")),
    "of a node that is the original's": (Copy("w_normalized", "w"), Copy("t_normalized", "t"), Copy("r", "a")),
    "the wrong way round": (Copy("w", "w_normalized"), Copy("t", "t_normalized")),
}
# fmt: on


@pytest.mark.parametrize("copies", RECORDS.values(), ids=RECORDS)
def test_a_wrong_record_of_the_copies_is_found(copies: tuple[Copy, ...], tmp_path: Path) -> None:
    """As if rewriting recorded something else than it did."""
    result, path = split(tmp_path)
    with pytest.raises(sn.VerificationFailed):
        prove(replace(result, copies=copies), path, Terms())


def test_copies_of_captured_weights_and_constant_nodes_are_taken_out(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["": 17]> g (float[2,4] x, bool on) => (float[2,4] y) {
        m = ReduceMax<keepdims = 0>(w)
        z = If (on) <then_branch = t () => (float[2,4] p) {i = Transpose(w)  j = Transpose(i)  p = MatMul(x, j)},
                     else_branch = e () => (float[2,4] q)
                         {n = ReduceMin<keepdims = 0>(k)  u = MatMul(x, k)  q = Add(u, n)}>
        y = Add(z, m) }"""
    model = parse_model(text)
    model.graph.initializer.append(numpy_helper.from_array(drawn(4, 4), "w"))
    body = next(one.g for one in by_type(model, "If").attribute if one.name == "else_branch")
    body.node.insert(0, constant("k", drawn(4, 4, seed=2)))
    onnx.save(model, tmp_path / "in.onnx")
    result, path = folded(tmp_path)
    assert {copy.original for copy in result.copies} == {"w", "i", "j", "k"}
    assert prove(result, path, Terms()).verified == "run"


def test_weights_that_were_not_scaled_at_all_are_found(written: tuple[PassResult, Path]) -> None:
    result, path = written
    path.write_bytes(path.with_name("in.onnx").read_bytes())
    with pytest.raises(sn.VerificationFailed, match=r"tensor 'w|got lost|not the original"):
        prove(result, path, Terms())


@pytest.mark.usefixtures("tampering")
def test_nothing_is_put_in_place_where_the_proof_fails(tmp_path: Path) -> None:
    with pytest.raises(sn.VerificationFailed, match="is not the original's"):
        save(sn.fold(proto()), tmp_path / "out.onnx")
    assert os.listdir(tmp_path) == []


@pytest.mark.usefixtures("tampering")
def test_force_puts_it_in_place_and_says_that_it_failed(tmp_path: Path) -> None:
    done = save(sn.fold(proto()), tmp_path / "out.onnx", force=True)
    assert (done.verified, done.failed) == ("no", True)
    assert done.note is not None
    assert os.listdir(tmp_path) == ["out.onnx"]


@pytest.mark.usefixtures("tampering")
def test_without_verification_nothing_is_looked_at(tmp_path: Path) -> None:
    done = save(sn.fold(proto()), tmp_path / "out.onnx", verify=False)
    assert (done.verified, done.note, done.failed) == ("no", None, False)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("y = RandomNormalLike(b)", "draws random numbers"),
        ("t = Constant<value = bool {1}>()  y = Dropout(b, , t)", "draws random numbers (Dropout)"),
        ("y = odd.Custom(b)", "can't be run"),
        ("s = Constant<value = int64[2] {3, 3}>()  y = Reshape(b, s)", "can't be run"),
    ],
)
def test_what_cannot_be_run_is_checked_by_structure(text: str, why: str, tmp_path: Path) -> None:
    head = '<ir_version: 8, opset_import: ["": 17, "odd": 1]> g (float[2,4] x) => (float[N,M] y) {b = MatMul(x, w) '
    result = sn.fold(proto(f"{head}{text}}}"))
    done = save(result, tmp_path / "out.onnx")
    assert done.verified == "structure"
    assert why in str(done.note)
    assert "--dim" not in str(done.note)  # which fold does not have
    change(tmp_path / "out.onnx", scale_slightly_wrong)
    with pytest.raises(sn.VerificationFailed):
        prove(result, tmp_path / "out.onnx", Terms())


def test_a_folded_model_that_no_longer_runs_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of defence: a file that passes for right but does not load."""
    result, path = split(tmp_path)

    def unknown(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type = "NoSuchOp"

    change(path, unknown)
    monkeypatch.setattr("sn_graph.proofs.fold._check_structure", lambda *_: None)
    with pytest.raises(sn.VerificationFailed, match="does not run"):
        prove(result, path, Terms())


def test_outputs_are_compared_by_the_tolerances_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    onnx.save(proto(TEXT.replace("(w)\n", "(c)\n")), tmp_path / "in.onnx")
    result, path = folded(tmp_path)
    change(path, scale_slightly_wrong)
    monkeypatch.setattr("sn_graph.proofs.fold._check_structure", lambda *_: None)
    monkeypatch.setattr("sn_graph.proofs.fold.check_norms", lambda *_: None)
    with pytest.raises(sn.VerificationFailed, match="outputs differ"):
        prove(result, path, Terms())
    assert prove(result, path, Terms(rtol=0.1)).verified == "run"


def test_progress_tells_the_steps(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    save(sn.fold(proto()), tmp_path / "o.onnx", progress=lambda *step: told.append(step))
    assert told[-1] == ("verifying", 4, 4)
    assert {task for task, _, _ in told} == {"writing", "verifying"}


def test_external_data_and_subgraphs(tmp_path: Path) -> None:
    onnx.save(proto(), tmp_path / "in.onnx", save_as_external_data=True, location="in.data", size_threshold=0)
    assert save(sn.fold(tmp_path / "in.onnx"), tmp_path / "out.onnx").verified == "run"
    assert sorted(os.listdir(tmp_path)) == ["in.data", "in.onnx", "out.onnx", "out.onnx.data"]


def test_a_copy_before_an_unnamed_body(tmp_path: Path) -> None:
    """A copied Constant moves the positions that tell unnamed nodes, and the constants in their bodies, apart."""
    add = node("Add", ["m", "c"], ["o"])
    bodies = [branch([add], {"c": drawn(4, seed=seed)}) for seed in (1, 2)]
    choice = node("If", ["yes"], ["b"], then_branch=bodies[0], else_branch=bodies[1])
    nodes = [constant("w", drawn(4, 4)), node("MatMul", ["x", "w"], ["m"]), choice, node("Add", ["b", "w"])]
    model = network(nodes, {"yes": np.array(True)}, {"x": (4, 4)})
    result = sn.fold(model)
    assert result.copies
    proof = save(result, tmp_path / "out.onnx")
    assert proof.verified == "run", proof.note


def test_a_weight_behind_several_identities_that_splits_is_proved(tmp_path: Path) -> None:
    nodes = [
        node("Identity", ["w"], ["a"]),
        node("Identity", ["a"], ["b"]),
        node("Identity", ["b"], ["c"]),
        node("MatMul", ["x", "c"], ["h"]),
        node("Add", ["h", "w"], ["y"]),
    ]
    result = sn.fold(network(nodes, {"w": drawn(6, 6)}, {"x": (6, 6)}))
    assert save(result, tmp_path / "folded.onnx").verified == "run"


def test_many_readers_along_a_row_of_identities_are_walked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 400
    nodes = [node("Identity", [f"i{place}"], [f"i{place + 1}"]) for place in range(count)]
    nodes += [node("MatMul", ["x", f"i{place + 1}"], [f"y{place}"]) for place in range(count)]
    nodes.append(node("Sum", [f"y{place}" for place in range(count)], ["y"]))
    result = sn.fold(network(nodes, {"i0": drawn(6, 6)}, {"x": (6, 6)}))
    asked, producer = [0], Graph.producer

    def counted(graph: Graph, scope: Scope, name: str) -> Node | None:
        asked[0] += 1
        return producer(graph, scope, name)

    monkeypatch.setattr(Graph, "producer", counted)
    assert save(result, tmp_path / "folded.onnx").verified == "run"
    assert asked[0] < 60 * count  # of all proofs together; a walk for each reader would be 80,000 by itself
