"""What spectral normalization does not concern: training information, optional types, overloads, sparse tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import sn_graph as sn
from tests.support.builders import call, constant, drawn, function, graph, initializer, network, node, saved, value
from tests.support.command_line import invoke
from tests.support.oracle import sigma_max
from tests.support.runs import ONNXRUNTIME, fold_file, run

X = drawn(3, 4, seed=5)


def trained() -> onnx.ModelProto:
    """A model with a training graph that holds a weight of its own, and a value of an optional type."""
    nodes = [
        node("Optional", ["x"], ["perhaps"]),
        node("OptionalGetElement", ["perhaps"], ["given"]),
        node("MatMul", ["given", "w"]),
    ]
    proto = network(nodes, {"w": drawn(4, 5)}, {"x": (3, 4)}, ir=10)
    optional = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, [3, 4]))
    proto.graph.value_info.append(helper.make_value_info("perhaps", optional))
    step = graph([node("MatMul", ["x", "own"], ["h"])], {"own": drawn(4, 4, seed=1)}, (), ("h",))
    info = proto.training_info.add()
    info.algorithm.CopyFrom(step)
    info.initialization.CopyFrom(graph([node("RandomNormal", [], ["w0"], shape=[4, 5])], {}, (), ("w0",)))
    binding = info.initialization_binding.add()
    binding.key, binding.value = "w", "w0"
    proto.graph.output[0].CopyFrom(value("y", [3, 5]))
    return proto


def test_training_and_optional_types_stay_byte_for_byte(tmp_path: Path) -> None:
    path = saved(trained(), tmp_path / "in.onnx")
    assert [site["id"] for site in invoke("inspect", path, "--json").json["sites"]] == ["w"]
    assert invoke("fold", path, "-o", tmp_path / "folded.onnx").code == 0
    before, after = path.read_bytes(), (tmp_path / "folded.onnx").read_bytes()
    weight = drawn(4, 5).tobytes()
    start = before.index(weight)
    assert before[:start] == after[:start]
    assert before[start + len(weight) :] == after[start + len(weight) :]
    assert invoke("insert", path, "-o", tmp_path / "inserted.onnx").code == 0
    inserted = onnx.load(tmp_path / "inserted.onnx")
    assert list(inserted.training_info) == list(onnx.load(path).training_info)
    assert invoke("strip", tmp_path / "inserted.onnx", "-o", tmp_path / "back.onnx").code == 0
    assert (tmp_path / "back.onnx").read_bytes() == before


@pytest.mark.skipif(ONNXRUNTIME < (1, 28), reason="onnxruntime before 1.28 calls the first overload for all")
def test_overloads_of_a_function(tmp_path: Path) -> None:
    """Two functions of one name are told apart by their overload, in which one holds its weight transposed."""
    first, second = drawn(4, 4), drawn(4, 4, seed=1)
    plain = function("F", ["a"], [constant("k", first), node("MatMul", ["a", "k"])], overload="plain")
    turned = function("F", ["a"], [constant("k", second), node("Gemm", ["a", "k"], transB=1)], overload="turned")
    calls = [call("F", ["x"], "h"), call("F", ["h"], "y")]
    for one, overload in zip(calls, ("plain", "turned"), strict=True):
        one.overload = overload
    proto = network(calls, {}, {"x": (3, 4)}, ir=10, functions=[plain, turned])
    proto.graph.output[0].CopyFrom(value("y", [3, 4]))
    written, result = fold_file(proto, tmp_path)
    assert [site.id for site in result.sites] == ["local::F:plain::k", "local::F:turned::k"]
    expected = X @ (first / sigma_max(first)) @ (second / sigma_max(second)).T
    np.testing.assert_allclose(run(written, {"x": X})[0], expected, atol=3e-6)
    inserted = sn.insert(proto)
    assert [site.status for site in inserted.sites] == ["inserted"] * 2
    assert sn.strip(inserted.to_proto()).to_proto() == proto


def test_a_sparse_weight_beside_a_dense_one(tmp_path: Path) -> None:
    proto = network([node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "s"])], {"w": drawn(4, 4)}, {"x": (3, 4)})
    proto.graph.output[0].CopyFrom(value("y", [3, 4]))
    values = initializer("s", np.array([2.0, 3.0], np.float32))
    indices = initializer("places", np.array([[0, 1], [2, 3]]))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4, 4]))
    path = saved(proto, tmp_path / "in.onnx")
    ended = invoke("fold", path, "-o", tmp_path / "out.onnx", "--json", "--exclude", "^s$")
    assert ended.code == 0, ended.err
    dense, sparse = ended.json["sites"]
    assert (dense["status"], sparse["id"], sparse["status"]) == ("folded", "s", "skipped")
    assert onnx.load(tmp_path / "out.onnx").graph.sparse_initializer == proto.graph.sparse_initializer
