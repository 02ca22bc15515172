"""Models opened, changed and saved, against onnx's own reading of the same files."""

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from sn_graph.errors import ModelError
from sn_graph.model import Graph, Model, Storage
from sn_graph.model.skeleton import LARGE
from tests.support.carriers import (
    FLOATS,
    PLACES,
    Made,
    find_tensors,
    make_model,
    make_tensor,
    models,
    tensors_by_name,
    unknown,
)
from tests.support.places import CORPUS
from tests.support.stored import BIG, array, external, folder, random_weight, saved, simple, write

CORPUS_MODELS = sorted(CORPUS.rglob("*.onnx"))


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
    assert tensor.payload is not None
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
