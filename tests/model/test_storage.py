"""Models opened, changed and saved, against onnx's own reading of the same files."""

import contextlib
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data

from sn_graph.errors import ModelError, SnGraphError, UsageError
from sn_graph.model import Model, Storage
from sn_graph.model import storage as module
from sn_graph.model.graph import Graph
from sn_graph.model.storage import LARGE
from tests.model.carriers import (
    FLOATS,
    PLACES,
    Made,
    field,
    find_tensors,
    make_model,
    make_tensor,
    models,
    tag,
    tensors_by_name,
    unknown,
)

CORPUS = Path(__file__).parents[3] / "shared" / "corpus"
CORPUS_MODELS = sorted(CORPUS.rglob("*.onnx"))
BIG = 3 * LARGE  # bytes


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def saved(model: Model, path: Path, storage: Storage = Storage.KEEP) -> bytes:
    model.save(path, storage)
    return path.read_bytes()


def array(tensor: onnx.TensorProto) -> np.ndarray:
    return numpy_helper.to_array(tensor)


def simple(**weights: np.ndarray) -> onnx.ModelProto:
    """A model of Identity nodes over weights."""
    tensors = [numpy_helper.from_array(weight, name) for name, weight in weights.items()]
    nodes = [helper.make_node("Identity", [name], [f"{name}.out"]) for name in weights]
    return helper.make_model(helper.make_graph(nodes, "g", [], [], tensors))


def random_weight(count: int = BIG // 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


def external(path: Path, proto: onnx.ModelProto, one_file: bool = True) -> Path:
    """Write a model with external data by onnx itself."""
    convert_model_to_external_data(proto, all_tensors_to_one_file=one_file, location="weights" if one_file else None)
    onnx.save(proto, path)
    return path


# Reading


@settings(max_examples=80, deadline=None)
@given(models())
def test_a_model_reads_as_onnx_reads_it(made: Made) -> None:
    content, tensors, _ = made
    expected = onnx.ModelProto.FromString(content)
    with folder() as place:
        for model in (Model.open(write(place / "m.onnx", content)), Model.open(expected)):
            assert not model.modified
            named = tensors_by_name(model.proto)
            for name, reference in tensors_by_name(expected).items():
                found = model.array(named[name])
                assert found.dtype == array(reference).dtype
                np.testing.assert_array_equal(found, array(reference))
                assert (named[name].dims, named[name].data_type) == (reference.dims, reference.data_type)
            for name, tensor in tensors.items():
                if tensor.payload is not None and len(tensor.payload) >= LARGE:
                    assert tensor.payload not in named[name].SerializeToString()
            assert model.to_proto() == expected
            if model.path:
                assert saved(model, place / "out.onnx") == content


@pytest.mark.parametrize("place", PLACES)
def test_a_tensor_in_any_place_is_read_scaled_and_written(tmp_path: Path, place: str) -> None:
    tensor = make_tensor("t", "FLOAT", BIG // 4, "raw", 1)
    content = make_model([(place, tensor)], 2)
    model = Model.open(write(tmp_path / "m.onnx", content))
    (found,) = find_tensors(model.proto)
    assert not found.HasField("raw_data")
    model.scale(found, 2.0)
    expected = content.replace(tensor.payload, (array(tensor.proto) * np.float32(2)).tobytes())
    assert saved(model, tmp_path / "out.onnx") == expected


def test_a_tensor_without_data_has_no_array(tmp_path: Path) -> None:
    proto = simple(w=random_weight())
    proto.graph.initializer[0].ClearField("raw_data")
    proto.graph.initializer.add(name="empty", data_type=TensorProto.FLOAT, dims=[0, 3])
    model = Model.open(write(tmp_path / "m.onnx", proto.SerializeToString()))
    bare, empty = model.proto.graph.initializer
    for call in (model.array, lambda tensor: model.scale(tensor, 2.0)):
        with pytest.raises(ModelError, match="tensor 'w' holds no data; export the model with its weights"):
            call(bare)
    assert model.array(empty).shape == (0, 3)
    assert model.array(empty).dtype == np.float32


def test_what_is_open_already_is_passed_through() -> None:
    model = Model.open(simple(w=random_weight()))
    assert Model.open(model) is model
    assert model.path is None
    assert model.name == "<model>"


def test_a_proto_is_copied_when_it_is_opened() -> None:
    proto = simple(w=random_weight())
    model = Model.open(proto)
    proto.graph.initializer[0].raw_data = bytes(BIG)
    np.testing.assert_array_equal(model.array(model.proto.graph.initializer[0]), random_weight())


# Changing


@settings(max_examples=80, deadline=None)
@given(models(types=FLOATS), st.integers(0, 2**32), st.floats(0.01, 100))
def test_scaling_changes_the_payload_alone(made: Made, choice: int, factor: float) -> None:
    content, tensors, _ = made
    name = random.Random(choice).choice(sorted(tensors))
    tensor, before = tensors[name], onnx.ModelProto.FromString(content)
    if not tensors_by_name(before)[name].dims[0]:
        return
    with folder() as place:
        model = Model.open(write(place / "m.onnx", content))
        model.scale(tensors_by_name(model.proto)[name], factor)
        assert model.modified
        out = saved(model, place / "out.onnx")
        assert model.to_proto() == onnx.ModelProto.FromString(out)
    after = onnx.ModelProto.FromString(out)
    old, new = array(tensors_by_name(before)[name]), array(tensors_by_name(after)[name])
    exact = old.astype(np.float64) * factor
    precision = 2.0**-8 if old.dtype.itemsize == 2 else 2.0**-22
    np.testing.assert_allclose(new.astype(np.float64), exact, rtol=precision, atol=1e-7 if precision > 0.001 else 0)
    tensors_by_name(after)[name].CopyFrom(tensors_by_name(before)[name])
    assert after == before
    if tensor.payload is not None and content.count(tensor.payload) == 1 and len(out) == len(content):
        start = content.index(tensor.payload)
        assert out[:start] == content[:start]
        assert out[start + len(tensor.payload) :] == content[start + len(tensor.payload) :]
    if tensor.payload is not None and old.dtype.itemsize > 2:
        assert len(out) == len(content)


@settings(max_examples=40, deadline=None)
@given(models(), st.integers(0, 2**32))
def test_replacing_changes_the_payload_alone(made: Made, choice: int) -> None:
    content, tensors, _ = made
    name = random.Random(choice).choice(sorted(tensors))
    before = onnx.ModelProto.FromString(content)
    old = array(tensors_by_name(before)[name])
    if "float8" in old.dtype.name or "int4" in old.dtype.name or old.size == 0:
        return
    new = old[::-1].copy()
    model = Model.open(before)
    model.replace(tensors_by_name(model.proto)[name], new)
    np.testing.assert_array_equal(model.array(tensors_by_name(model.proto)[name]), new)
    after = model.to_proto()
    np.testing.assert_array_equal(array(tensors_by_name(after)[name]), new)
    tensors_by_name(after)[name].CopyFrom(tensors_by_name(before)[name])
    assert after == before


def test_a_replacement_is_cast_and_has_the_same_shape() -> None:
    model = Model.open(simple(w=np.zeros((2, 3), np.float16)))
    (tensor,) = model.proto.graph.initializer
    model.replace(tensor, np.full((2, 3), 0.1))
    np.testing.assert_array_equal(array(model.to_proto().graph.initializer[0]), np.full((2, 3), 0.1, np.float16))
    with pytest.raises(ValueError, match=r"has shape \(2, 3\), its new data \(3, 2\)"):
        model.replace(tensor, np.zeros((3, 2)))


@pytest.mark.parametrize("count", [7, BIG // 4, 1 << 20])
def test_factors_multiply_and_an_inverse_restores_nothing_else(tmp_path: Path, count: int) -> None:
    weight = random_weight(count)
    path = write(tmp_path / "m.onnx", simple(w=weight, v=weight).SerializeToString())
    model = Model.open(path)
    tensor = model.proto.graph.initializer[0]
    model.scale(tensor, 4.0)
    model.scale(tensor, 0.5)
    np.testing.assert_array_equal(model.array(tensor), weight * np.float32(2))
    w, v = model.to_proto().graph.initializer
    np.testing.assert_array_equal(array(w), weight * np.float32(2))
    np.testing.assert_array_equal(array(v), weight)


@pytest.mark.parametrize("count", [7, BIG // 4])
def test_changes_beside_the_data_are_written_too(tmp_path: Path, count: int) -> None:
    """A new name or element type of a scaled or replaced tensor must not be lost when its payload is exchanged."""
    model = Model.open(
        write(tmp_path / "m.onnx", simple(w=random_weight(count), v=random_weight(count)).SerializeToString())
    )
    w, v = model.proto.graph.initializer
    model.scale(w, 2.0)
    w.doc_string = "doubled"
    v.data_type = TensorProto.DOUBLE
    model.replace(v, np.ones(count))
    w, v = onnx.ModelProto.FromString(saved(model, tmp_path / "out.onnx")).graph.initializer
    assert w.doc_string == "doubled"
    np.testing.assert_array_equal(array(w), random_weight(count) * np.float32(2))
    assert array(v).dtype == np.float64
    np.testing.assert_array_equal(array(v), np.ones(count))


@pytest.mark.parametrize("count", [7, BIG // 4])
@pytest.mark.parametrize("in_file", [False, True])
def test_copies_of_a_tensor_keep_their_data_and_go_their_own_way(tmp_path: Path, count: int, in_file: bool) -> None:
    weight = random_weight(count)
    proto = simple(w=weight)
    path = tmp_path / "m.onnx"
    if in_file:
        external(path, proto)
    else:
        path.write_bytes(proto.SerializeToString())
    model = Model.open(path)
    graph = model.proto.graph
    model.scale(graph.initializer[0], 2.0)
    for name in ("same", "other"):
        twin = graph.initializer.add()
        twin.CopyFrom(graph.initializer[0])
        twin.name = name
    model.scale(graph.initializer[2], 4.0)
    del graph.initializer[0]
    model.save(tmp_path / "out.onnx")
    same, other = onnx.load(tmp_path / "out.onnx").graph.initializer
    np.testing.assert_array_equal(array(same), weight * np.float32(2))
    np.testing.assert_array_equal(array(other), weight * np.float32(8))
    np.testing.assert_array_equal(model.array(graph.initializer[0]), array(same))


def test_a_tensor_can_move_between_graphs(tmp_path: Path) -> None:
    tensor = make_tensor("t", "FLOAT", BIG // 4, "packed", 1)
    model = Model.open(write(tmp_path / "m.onnx", make_model([("subgraph initializer", tensor)], 2)))
    inner = model.proto.graph.node[0].attribute[0].g
    model.proto.graph.initializer.add().CopyFrom(inner.initializer[0])
    del inner.initializer[:]
    after = onnx.ModelProto.FromString(saved(model, tmp_path / "out.onnx"))
    assert after.graph.initializer[0].float_data == tensor.proto.float_data
    assert not after.graph.node[0].attribute[0].g.initializer


@pytest.mark.parametrize("count", [7, BIG // 4])
@pytest.mark.parametrize("form", ["raw", "packed"])
def test_embedded_data_are_the_tensors_own(tmp_path: Path, count: int, form: str) -> None:
    tensor = make_tensor("t", "FLOAT", count, form, 1)
    model = Model.open(write(tmp_path / "m.onnx", make_model([("initializer", tensor)], 2)))
    found = model.proto.graph.initializer[0]
    assert model.is_large(found) == (count > 7)
    model.embed(found)
    assert found == tensor.proto
    assert not model.is_large(found)
    model.scale(found, 2.0)
    model.embed(found)
    np.testing.assert_array_equal(array(found), array(tensor.proto) * np.float32(2))


@pytest.mark.parametrize("count", [7, BIG // 4])
def test_shared_data_are_those_of_the_source(tmp_path: Path, count: int) -> None:
    weight = random_weight(count)
    model = Model.open(write(tmp_path / "m.onnx", simple(w=weight).SerializeToString()))
    model.scale(model.proto.graph.initializer[0], 2.0)
    twin = TensorProto(name="twin", dims=[count, 1], doc_string="of its own")
    model.share(model.proto.graph.initializer[0], twin)
    assert (twin.name, list(twin.dims), twin.doc_string) == ("twin", [count, 1], "of its own")
    np.testing.assert_array_equal(model.array(twin), weight.reshape(count, 1) * np.float32(2))


def test_a_copied_model_is_independent(tmp_path: Path) -> None:
    weight = random_weight()
    model = Model.open(write(tmp_path / "m.onnx", simple(w=weight).SerializeToString()))
    model.scale(model.proto.graph.initializer[0], 2.0)
    twin = model.copy()
    model.scale(model.proto.graph.initializer[0], 2.0)
    twin.proto.graph.name = "twin"
    twin.replace(twin.proto.graph.initializer[0], -weight)
    np.testing.assert_array_equal(array(model.to_proto().graph.initializer[0]), weight * np.float32(4))
    np.testing.assert_array_equal(array(twin.to_proto().graph.initializer[0]), -weight)
    assert model.proto.graph.name == "g"


def test_a_change_of_the_graph_keeps_what_onnx_does_not_know(tmp_path: Path) -> None:
    tensors = [("initializer", make_tensor("w", "FLOAT", BIG // 4, "raw", 1))]
    content = make_model(tensors, 3) + unknown(random.Random(5))
    model = Model.open(write(tmp_path / "m.onnx", content))
    model.proto.producer_name = "changed"
    model.scale(model.proto.graph.initializer[0], 2.0)
    after = onnx.ModelProto.FromString(saved(model, tmp_path / "out.onnx"))
    before = onnx.ModelProto.FromString(content)
    before.producer_name = "changed"
    before.graph.initializer[0].raw_data = (array(before.graph.initializer[0]) * np.float32(2)).tobytes()
    assert after == before
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


def test_scaled_weights_of_many_blocks_are_right_in_the_proto() -> None:
    """to_proto gathers blocks that reuse their room."""
    weight = random_weight(3 << 18)
    model = Model.open(simple(w=weight))
    model.scale(model.proto.graph.initializer[0], 2.0)
    np.testing.assert_array_equal(array(model.to_proto().graph.initializer[0]), weight * np.float32(2))


def test_a_scale_that_overflows_leaves_no_file(tmp_path: Path) -> None:
    model = Model.open(simple(w=np.full(1000, 3e38, np.float32)))
    model.scale(model.proto.graph.initializer[0], 2.0)
    with pytest.raises(ModelError, match="does not fit into float32; choose a smaller --bound"):
        model.save(tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


# Storage


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


# Bad input


@pytest.fixture(scope="module")
def small_model() -> bytes:
    places = [
        ("initializer", make_tensor("w", "FLOAT", 300, "raw", 1)),
        ("constant", make_tensor("c", "INT64", 9, "packed", 2)),
    ]
    return make_model(places, 4)


def open_bytes(content: bytes) -> Model:
    with folder() as place:
        model = Model.open(write(place / "m.onnx", content))
        Graph(model.proto)
        for tensor in find_tensors(model.proto):
            with contextlib.suppress(SnGraphError):
                model.array(tensor)
        model.save(place / "out.onnx")
        return model


def test_every_prefix_is_read_or_refused(small_model: bytes) -> None:
    refused = 0
    for length in range(len(small_model)):
        try:
            open_bytes(small_model[:length])
        except ModelError:
            refused += 1
    assert refused > 0.98 * len(small_model)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_flipped_bytes_are_read_or_refused(small_model: bytes, data: st.DataObject) -> None:
    content = bytearray(small_model)
    head = st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(head, min_size=1, max_size=4)):
        content[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(SnGraphError):
        open_bytes(bytes(content))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for attempt in (content, field(7, content), field(7, field(1, field(5, content))), field(7, field(5, content))):
        with contextlib.suppress(SnGraphError):
            open_bytes(attempt)


def nested(depth: int) -> bytes:
    """A model whose If nodes hold one another."""
    content = field(2, b"g")
    for _ in range(depth):
        content = field(1, field(5, field(1, b"then_branch") + field(6, content)) + field(4, b"If"))
    return tag(1, 0) + b"\x08" + field(7, content)


@pytest.mark.parametrize("depth", [1, 10, 30, 32, 33, 34, 100, 5000])
def test_deep_nesting_is_read_as_protobuf_does_or_refused(depth: int) -> None:
    content = nested(depth)
    try:
        onnx.ModelProto.FromString(content)
    except Exception:  # whatever protobuf calls it
        with pytest.raises(ModelError):
            open_bytes(content)
    else:
        assert open_bytes(content).to_proto() == onnx.ModelProto.FromString(content)


@pytest.mark.parametrize(
    "content",
    [b"", b"\x00", b"\n", b"no model, just text\n" * 100, b"\x08\x08", b"PK\x03\x04" + bytes(300), bytes(5000)],
)
def test_files_that_are_no_models(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ModelError, match=r"m\.onnx: .*\w.*[;:] .*\w"):
        Model.open(write(tmp_path / "m.onnx", content))


def test_paths_that_are_no_files(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.onnx can't be read: No such file"):
        Model.open(tmp_path / "absent.onnx")
    with pytest.raises(ModelError, match="can't be read: it is a folder"):
        Model.open(tmp_path)
    with pytest.raises(ModelError, match="can't be read: Not a directory"):
        Model.open(write(tmp_path / "file", b"x") / "m.onnx")


def test_a_model_in_two_parts_is_refused(tmp_path: Path) -> None:
    content = simple(w=random_weight()).SerializeToString()
    with pytest.raises(ModelError, match="GraphProto in it comes in two parts"):
        Model.open(write(tmp_path / "m.onnx", content + content))


@pytest.mark.parametrize("location", ["../w", "/w", "link", "absent", "short", "", "a\0b", "loop"])
def test_bad_data_files_are_refused_when_the_model_is_opened(tmp_path: Path, location: str) -> None:
    proto = simple(w=random_weight())
    (tensor,) = proto.graph.initializer
    (tmp_path / "short").write_bytes(bytes(10))
    (tmp_path / "link").symlink_to("short")
    (tmp_path / "loop").symlink_to("loop")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(BIG))):
        tensor.external_data.add(key=key, value=value)
    with pytest.raises(ModelError, match=r"m\.onnx: .*; (put|copy) "):
        Model.open(write(tmp_path / "m.onnx", proto.SerializeToString()))


# Real models


@pytest.mark.skipif(not CORPUS_MODELS, reason="the folder of real models, ../shared/corpus, is not here")
@pytest.mark.parametrize("path", CORPUS_MODELS, ids=lambda path: str(path.relative_to(CORPUS)))
def test_real_models_survive(tmp_path: Path, path: Path) -> None:
    model, expected = Model.open(path), onnx.load(path)
    bare = onnx.load(path, load_external_data=False)
    inline = not any(tensor.data_location == TensorProto.EXTERNAL for tensor in find_tensors(bare))
    out = saved(model, tmp_path / "out.onnx")
    if inline:
        assert out == path.read_bytes()
        assert model.to_proto() == expected
    model.save(tmp_path / "external.onnx", Storage.EXTERNAL)
    Model.open(tmp_path / "external.onnx").save(tmp_path / "inline.onnx", Storage.INLINE)
    reference = list(find_tensors(expected))
    for other in (model.to_proto(), *(onnx.load(tmp_path / f"{name}.onnx") for name in ("out", "external", "inline"))):
        tensors = list(find_tensors(other))
        assert len(tensors) == len(reference)
        for left, right in zip(tensors, reference, strict=True):
            assert (left.name, left.dims, left.data_type) == (right.name, right.dims, right.data_type)
            if right.data_type and (right.ByteSize() > 50 or 0 not in right.dims):
                np.testing.assert_array_equal(array(left), array(right))
    Graph(model.proto)
