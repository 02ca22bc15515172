"""Sparse weights: measured as the dense ones that they stand for, and folded by their values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import sn_graph as sn
from sn_graph import proofs
from sn_graph.errors import VerificationFailed
from sn_graph.passes import PassResult
from tests.support.builders import Array, drawn, network, node, value
from tests.support.oracle import sigma_max
from tests.support.runs import run, shaped


def sparse_of(name: str, dense: Array, flat: bool = True) -> onnx.SparseTensorProto:
    """A sparse tensor of the elements that are not 0."""
    places = np.flatnonzero(dense) if flat else np.argwhere(dense)
    values = numpy_helper.from_array(dense[dense != 0], name)
    return helper.make_sparse_tensor(values, numpy_helper.from_array(places.astype(np.int64), "at"), dense.shape)


def product(weight: onnx.SparseTensorProto, inputs: int, held: bool = False) -> onnx.ModelProto:
    nodes = [node("Constant", [], ["s"], sparse_value=weight)] if held else []
    proto = network([*nodes, node("MatMul", ["x", "s"])], {}, {"x": (3, inputs)})
    if not held:
        proto.graph.sparse_initializer.append(weight)
    return proto


def pruned(rows: int, cols: int, kept: float, seed: int = 0) -> Array:
    dense = drawn(rows, cols, seed=seed) * (np.random.default_rng(seed).random((rows, cols)) < kept)
    dense[0, 0] = 1.0
    return dense.astype(np.float32)


@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 9), cols=st.integers(1, 9), kept=st.floats(0.05, 1.0), flat=st.booleans(), held=st.booleans()
)
def test_measured_and_folded(
    tmp_path_factory: pytest.TempPathFactory, rows: int, cols: int, kept: float, flat: bool, held: bool
) -> None:
    dense = pruned(rows, cols, kept)
    exact = sigma_max(dense)
    proto = product(sparse_of("s", dense, flat), rows, held)
    (found,) = sn.inspect(proto).sites
    assert (found.id, found.shape, found.status) == ("s", (rows, cols), "eligible")
    assert found.sigma == pytest.approx(exact, rel=1e-6)
    out = tmp_path_factory.mktemp("fold") / "out.onnx"
    proofs.save(sn.fold(proto), out)
    written = onnx.load(out)
    onnx.checker.check_model(shaped(written))
    sparse = written.graph.node[0].attribute[0].sparse_tensor if held else written.graph.sparse_initializer[0]
    np.testing.assert_allclose(numpy_helper.to_array(sparse.values), dense[dense != 0] / exact, rtol=2e-6)
    x = drawn(3, rows, seed=1)
    if not held:  # onnxruntime reads no sparse Constant of this form
        np.testing.assert_allclose(run(written, {"x": x})[0], x @ (dense / exact), atol=1e-5)


def test_a_large_one_stays_where_its_bytes_are(tmp_path: Path) -> None:
    """Past 1 KB the values are a payload outside the skeleton."""
    dense = pruned(80, 60, 0.3)
    (tmp_path / "in.onnx").write_bytes(product(sparse_of("s", dense), 80).SerializeToString())
    result = sn.fold(tmp_path / "in.onnx", sigma="upper")
    assert proofs.save(result, tmp_path / "out.onnx").verified == "run"
    before, after = (tmp_path / "in.onnx").read_bytes(), (tmp_path / "out.onnx").read_bytes()
    assert len(before) == len(after)
    whole = np.zeros(dense.size, np.float32)
    sparse = onnx.load(tmp_path / "out.onnx").graph.sparse_initializer[0]
    whole[numpy_helper.to_array(sparse.indices)] = numpy_helper.to_array(sparse.values)
    assert sigma_max(whole.reshape(dense.shape)) <= 1.0


def test_places_that_were_moved_are_found(tmp_path: Path) -> None:
    result = sn.fold(product(sparse_of("s", pruned(6, 5, 0.5)), 6))
    sparse = result.model.proto.graph.sparse_initializer[0]
    places = numpy_helper.to_array(sparse.indices).copy()
    places[-1] += 1 if places[-1] < 29 else -1
    sparse.indices.raw_data = places.tobytes()
    with pytest.raises(VerificationFailed, match="stand in other places"):
        proofs.save(result, tmp_path / "out.onnx")


def test_insert_says_what_to_do() -> None:
    result: PassResult = sn.insert(product(sparse_of("s", pruned(6, 5, 0.5)), 6), force=True)
    assert (result.sites[0].status, "fold it, or store it dense" in str(result.sites[0].reason)) == ("skipped", True)


def test_another_reader_must_keep_the_original() -> None:
    proto = product(sparse_of("s", pruned(6, 5, 0.5)), 6)
    proto.graph.node.append(node("Abs", ["s"], ["a"]))
    proto.graph.output.append(value("a"))
    (found,) = sn.inspect(proto).sites
    assert (found.status, "not all its readers get the same tensor" in str(found.reason)) == ("skipped", True)


def dims(*given: int) -> Callable[[onnx.SparseTensorProto], None]:
    def change(sparse: onnx.SparseTensorProto) -> None:
        sparse.dims[:] = given

    return change


def places(*given: int) -> Callable[[onnx.SparseTensorProto], None]:
    def change(sparse: onnx.SparseTensorProto) -> None:
        count = sparse.values.dims[0]
        sparse.indices.raw_data = np.array([*given, *range(count)][:count]).tobytes()

    return change


def of_halves(sparse: onnx.SparseTensorProto) -> None:
    sparse.indices.data_type = onnx.TensorProto.INT32
    sparse.indices.raw_data = np.arange(sparse.values.dims[0], dtype=np.int32).tobytes()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (dims(1 << 20, 1 << 20), "a sparse tensor of 1,099,511,627,776 elements of which"),
        (dims(1 << 62, 1 << 62), "store it dense"),
        (dims(0, 5), "its shape has a zero"),
        (dims(-6, 5), "its shape has a zero"),
        (dims(2, 2), "do not fit its shape"),
        (places(-1), "do not fit its shape"),
        (places(999), "do not fit its shape"),
        (places(3, 3), "do not fit its shape"),
        (of_halves, "do not fit its shape"),
    ],
)
def test_what_does_not_fit_is_skipped(change: Callable[[onnx.SparseTensorProto], None], told: str) -> None:
    sparse = sparse_of("s", pruned(6, 5, 0.9))
    change(sparse)
    (found,) = sn.inspect(product(sparse, 6)).sites
    assert (found.id, found.status) == ("s", "skipped")
    assert told in (found.reason or "")
