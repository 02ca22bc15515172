"""The proof of a stripped model can fail: what is written is the model before the insertion, or it is not there."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sn_graph as sn
from sn_graph.errors import VerificationFailed
from sn_graph.model import Storage
from sn_graph.passes import PassResult
from sn_graph.proofs import Proof, Terms, prove, save
from tests.support.builders import drawn, network, node, saved
from tests.support.networks import as_numbers, branched, called, discriminator, quantized
from tests.support.runs import tensors
from tests.support.tampering import Change, tamper

NOTE = "it is equal to the model before the insertion, node by node and tensor by tensor"


def large() -> onnx.ModelProto:
    """A weight in raw bytes and one in float_data, both large enough for a data file."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"])]
    return network(nodes, {"w": drawn(32, 48), "v": as_numbers(drawn(48, 32, seed=1))}, {"x": ["n", 32]})


def stripped(folder: Path, make: Callable[[], onnx.ModelProto] = large, external: bool = False) -> PassResult:
    """What strip makes of an inserted file."""
    saved(make(), folder / "m.onnx", external)
    sn.insert(folder / "m.onnx").save(folder / "sn.onnx")
    return sn.strip(folder / "sn.onnx")


@pytest.mark.parametrize("make", [large, discriminator, quantized, branched, called])
@pytest.mark.parametrize("storage", list(Storage))
@pytest.mark.parametrize("external", [False, True])
def test_what_strip_makes_is_proved(
    make: Callable[[], onnx.ModelProto], storage: Storage, external: bool, tmp_path: Path
) -> None:
    result = stripped(tmp_path, make, external)
    assert save(result, tmp_path / "out.onnx", storage) == Proof("structure", NOTE)
    written = onnx.load(tmp_path / "out.onnx")
    for _, tensor in tensors(written.graph):
        tensor.ClearField("data_location")  # which onnx.load leaves on what it read from a data file
    if storage is Storage.EXTERNAL or (external and storage is Storage.KEEP):
        assert_same_numbers(written, make())  # float_data has no external form
    else:
        assert written == make()
    if storage is Storage.INLINE and not external:
        assert (tmp_path / "out.onnx").read_bytes() == make().SerializeToString(deterministic=True)


def assert_same_numbers(proto: onnx.ModelProto, other: onnx.ModelProto) -> None:
    for (name, ours), (_, theirs) in zip(tensors(proto.graph), tensors(other.graph), strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(ours), numpy_helper.to_array(theirs))
        ours.CopyFrom(theirs)
        assert ours.name == name or not ours.name
    assert proto == other


def weight_changed(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.raw_data = tensor.raw_data[:-1] + bytes([tensor.raw_data[-1] ^ 1])


def encoding_changed(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[1]
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name))


def weight_added(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.float32), "more"))


def weight_dropped(proto: onnx.ModelProto) -> None:
    del proto.graph.initializer[1]


def node_changed(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].name = "other"


def node_added(proto: onnx.ModelProto) -> None:
    proto.graph.node.append(node("Identity", ["y"], ["z"]))


def input_added(proto: onnx.ModelProto) -> None:
    proto.graph.input.append(onnx.helper.make_tensor_value_info("sn_u", onnx.TensorProto.FLOAT, [80, 1]))


def metadata_left(proto: onnx.ModelProto) -> None:
    proto.metadata_props.add(key="sn_graph", value="{}")


CHANGES = [
    *(weight_changed, encoding_changed, weight_added, weight_dropped),
    *(node_changed, node_added, input_added, metadata_left),
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_tampered_file_is_refused_and_nothing_is_written(
    change: Change, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = stripped(tmp_path)
    tamper(monkeypatch, change)
    with pytest.raises(VerificationFailed, match="the written model is not the one before the insertion"):
        save(result, tmp_path / "out.onnx")
    assert sorted(os.listdir(tmp_path)) == ["m.onnx", "sn.onnx"]
    forced = save(result, tmp_path / "out.onnx", force=True)
    assert (forced.verified, forced.failed) == ("no", True)
    assert save(result, tmp_path / "out.onnx", verify=False) == Proof("no")


def test_tampered_external_data_are_found(tmp_path: Path) -> None:
    result = stripped(tmp_path, external=True)
    result.save(tmp_path / "out.onnx")
    assert prove(result, tmp_path / "out.onnx", Terms()).verified == "structure"
    data = tmp_path / "out.onnx.data"
    content = bytearray(data.read_bytes())
    content[5] ^= 1
    data.write_bytes(content)
    with pytest.raises(VerificationFailed, match="tensor 'w' is another"):
        prove(result, tmp_path / "out.onnx", Terms())


def test_a_wrong_restoration_is_found_by_the_hash_that_insert_recorded(tmp_path: Path) -> None:
    """As if restoring itself were wrong: the file holds what it made, and that is not what was inserted into."""
    result = stripped(tmp_path)
    wrong = result.model.copy()
    wrong.proto.graph.node[0].name = "other"
    with pytest.raises(VerificationFailed, match="hash that insert recorded"):
        save(replace(result, model=wrong), tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


def test_a_source_that_holds_no_insertion_proves_nothing(tmp_path: Path) -> None:
    result = stripped(tmp_path)
    plain = replace(result, source=result.model)
    with pytest.raises(VerificationFailed, match="hash that insert recorded"):
        save(plain, tmp_path / "out.onnx")


def test_a_weight_that_was_trained_since_is_the_one_that_is_written(tmp_path: Path) -> None:
    stripped(tmp_path)
    trained = onnx.load(tmp_path / "sn.onnx")
    (tensor,) = (tensor for tensor in trained.graph.initializer if tensor.name == "w")
    tensor.raw_data = drawn(32, 48, seed=9).tobytes()
    assert save(sn.strip(trained), tmp_path / "out.onnx").verified == "structure"
    written = onnx.load(tmp_path / "out.onnx")
    np.testing.assert_array_equal(numpy_helper.to_array(written.graph.initializer[0]), drawn(32, 48, seed=9))


def test_what_is_stripped_in_place_is_proved_first(tmp_path: Path) -> None:
    result = stripped(tmp_path)
    assert save(result, tmp_path / "sn.onnx").verified == "structure"
    assert onnx.load(tmp_path / "sn.onnx") == large()
