"""External data: read, kept and made, against what onnx and onnxruntime make of the same files."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from onnx import TensorProto, numpy_helper

from sn_graph.errors import UsageError
from sn_graph.model import Model, Storage
from sn_graph.model import storage as module
from sn_graph.model.skeleton import LARGE
from tests.support.carriers import (
    Made,
    find_tensors,
    models,
    tensors_by_name,
)
from tests.support.stored import array, external, folder, random_weight, simple, write


@pytest.mark.parametrize("one_file", [True, False])
def test_external_data_are_read_scaled_and_kept_external(tmp_path: Path, one_file: bool) -> None:
    weights = {"w": random_weight(seed=1), "v": random_weight(seed=2), "small": random_weight(3)}
    path = external(tmp_path / "m.onnx", simple(**weights), one_file)
    original = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    model = Model.open(path)
    for tensor in model.proto.graph.initializer:
        np.testing.assert_array_equal(model.array(tensor), weights[tensor.name])
    assert [array(t).tobytes() for t in model.to_proto().graph.initializer] == [w.tobytes() for w in weights.values()]
    model.scale(model.proto.graph.initializer[0], 2.0)
    (tmp_path / "out").mkdir()
    model.save(tmp_path / "out" / "out.onnx")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"out.onnx", "out.onnx.data"}
    weights["w"] = weights["w"] * np.float32(2)
    for tensor in onnx.load(tmp_path / "out" / "out.onnx").graph.initializer:
        np.testing.assert_array_equal(array(tensor), weights[tensor.name])
    assert {name: (tmp_path / name).read_bytes() for name in original} == original


def test_aliased_ranges_stay_one_range(tmp_path: Path) -> None:
    weight = random_weight()
    path = external(tmp_path / "m.onnx", simple(a=weight, b=weight, c=weight))
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[1].value = "0"
    path.write_bytes(proto.SerializeToString())
    model = Model.open(path)
    model.scale(model.proto.graph.initializer[2], 2.0)
    model.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").stat().st_size == 2 * weight.nbytes
    a, b, c = (array(tensor) for tensor in onnx.load(tmp_path / "out.onnx").graph.initializer)
    np.testing.assert_array_equal(a, weight)
    np.testing.assert_array_equal(b, weight)
    np.testing.assert_array_equal(c, weight * np.float32(2))


def test_external_tensors_without_elements_have_their_file(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    proto = simple(w=np.zeros(0, np.float32))
    (tensor,) = proto.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="empty")
    model = Model.open(write(tmp_path / "m.onnx", proto.SerializeToString()))
    model.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").stat().st_size == 0
    assert onnx.load(tmp_path / "out.onnx").graph.initializer[0].dims == [0]


def test_where_data_are_external_inline_leftovers_do_not_count(tmp_path: Path) -> None:
    weight = random_weight()
    path = external(tmp_path / "m.onnx", simple(w=weight))
    proto = onnx.load(path, load_external_data=False)
    proto.graph.initializer[0].raw_data = bytes(weight.nbytes)
    model = Model.open(write(path, proto.SerializeToString()))
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), weight)
    np.testing.assert_array_equal(array(model.to_proto().graph.initializer[0]), weight)


@settings(max_examples=60, deadline=None)
@given(models())
def test_storage_converts_there_and_back(made: Made) -> None:
    content, *_ = made
    expected = onnx.ModelProto.FromString(content)
    with folder() as place:
        Model.open(write(place / "m.onnx", content)).save(place / "out.onnx", Storage.EXTERNAL)
        moved = onnx.load(place / "out.onnx", load_external_data=False)
        for tensor in find_tensors(moved):
            initializers = [t.name for graph in _graphs(expected.graph) for t in graph.initializer]
            if tensor.data_location == TensorProto.EXTERNAL:
                assert tensor.name in initializers
            elif tensor.name in initializers:
                assert tensor.ByteSize() < 2 * LARGE
        Model.open(place / "out.onnx").save(place / "back.onnx", Storage.INLINE)
        back = onnx.ModelProto.FromString((place / "back.onnx").read_bytes())
        for name, tensor in tensors_by_name(expected).items():
            for other in (back, onnx.load(place / "out.onnx")):
                np.testing.assert_array_equal(array(tensors_by_name(other)[name]), array(tensor))
    for proto in (back, expected):
        for tensor in find_tensors(proto):
            tensor.CopyFrom(TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type))
    assert back == expected


def _graphs(message: Message) -> Iterator[onnx.GraphProto]:
    if isinstance(message, onnx.GraphProto):
        yield message
    for descriptor, value in message.ListFields():
        if descriptor.message_type is not None and descriptor.name != "external_data":
            for item in value if descriptor.is_repeated else [value]:
                yield from _graphs(item)


def test_past_protobufs_limit_a_model_becomes_external(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random_weight(5000)
    model = Model.open(simple(w=weight))
    monkeypatch.setattr(module, "PROTOBUF_LIMIT", 10_000)
    model.save(tmp_path / "out.onnx")
    np.testing.assert_array_equal(array(onnx.load(tmp_path / "out.onnx").graph.initializer[0]), weight)
    assert (tmp_path / "out.onnx.data").stat().st_size == weight.nbytes
    for call in (lambda: model.save(tmp_path / "inline.onnx", Storage.INLINE), model.to_proto):
        with pytest.raises(UsageError, match="passes 2 GiB, which protobuf can't hold inline"):
            call()
    assert {path.name for path in tmp_path.iterdir()} == {"out.onnx", "out.onnx.data"}


@pytest.mark.parametrize("storage", [Storage.INLINE, Storage.EXTERNAL])
def test_output_may_be_input(tmp_path: Path, storage: Storage) -> None:
    path, weight = tmp_path / "m.onnx", random_weight(1 << 20)
    Model.open(simple(w=weight)).save(path, storage)
    for _ in range(3):
        model = Model.open(path)
        model.scale(model.proto.graph.initializer[0], 2.0)
        model.save(path)
    np.testing.assert_array_equal(array(onnx.load(path).graph.initializer[0]), weight * np.float32(8))
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), weight * np.float32(8))
    assert len(list(tmp_path.iterdir())) == (1 if storage is Storage.INLINE else 2)


def test_onnxruntime_runs_external_weights_of_graph_and_subgraph(tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    text = """<ir_version: 8, opset_import: ["": 17]> g (bool b) => (float[4096] y) {
        c = Constant <value = float[1] {0}> ()
        z = If (b) <then_branch = t () => (float[4096] p) { p = Add(w, i) },
                    else_branch = e () => (float[4096] q) { q = Identity(w) }>
        y = Add(z, c)
    }"""
    proto, weight = onnx.parser.parse_model(text), random_weight(4096)
    constant, branch = proto.graph.node[0], proto.graph.node[1].attribute[0].g
    constant.attribute[0].t.CopyFrom(numpy_helper.from_array(weight))
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    branch.initializer.append(numpy_helper.from_array(weight, "i"))
    Model.open(proto).save(tmp_path / "m.onnx", Storage.EXTERNAL)
    assert (tmp_path / "m.onnx").stat().st_size < 2 * weight.nbytes  # the Constant's alone
    onnx.checker.check_model(tmp_path / "m.onnx")
    (y,) = onnxruntime.InferenceSession(tmp_path / "m.onnx", providers=["CPUExecutionProvider"]).run(
        None, {"b": np.array(True)}
    )
    np.testing.assert_array_equal(y, weight + weight + weight)
