"""State files: every form that is read, and each refusal in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError
from sn_graph.model import Model, Storage
from sn_graph.state import State, load_state, read_state, save_state, skeleton_hash
from tests.support.builders import Array, drawn, model, node

LENGTHS = {"a": 4, "If_0/then_branch::b": 3}
U = {"a.u": np.arange(1, 5, dtype=np.float32), "If_0/then_branch::b.u": np.ones(3, np.float32)}


def network(scale: float = 1.0) -> Model:
    weights = {"a": scale * drawn(16, 64), "b": scale * drawn(64, 4)}
    return model([node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"])], weights)


def saved(folder: Path, tensors: dict[str, Array], **metadata: str) -> Path:
    path = folder / "state.safetensors"
    save_file(tensors, path, metadata or None)
    return path


@pytest.mark.parametrize("shape", [(4,), (4, 1), (1, 4)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_forms_of_u(shape: tuple[int, ...], dtype: Any, tmp_path: Path) -> None:
    path = saved(tmp_path, {**U, "a.u": U["a.u"].astype(dtype).reshape(shape), "other.u": np.ones(7, np.float32)})
    state = load_state(path, network(), LENGTHS)
    assert set(state.u) == set(LENGTHS)
    assert state.u["a"].dtype == (np.float64 if dtype is np.float64 else np.float32)
    np.testing.assert_array_equal(state.u["a"], [1, 2, 3, 4])
    assert state.sigma == {}


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_sigma(shape: tuple[int, ...], tmp_path: Path) -> None:
    path = saved(tmp_path, {**U, "a.sigma": np.full(shape, 2.5, np.float32)})
    assert load_state(path, network(), LENGTHS).sigma == {"a": 2.5}


def test_header(tmp_path: Path) -> None:
    header = {"sn_graph": "1", "model": skeleton_hash(network()), "convention": "keras", "step": "7"}
    assert set(load_state(saved(tmp_path, U, **header), network(), LENGTHS).u) == set(LENGTHS)
    assert set(load_state(saved(tmp_path, U, framework="pt"), network(), LENGTHS).u) == set(LENGTHS)


def test_the_hash_is_of_the_skeleton(tmp_path: Path) -> None:
    """Other weights, external data and a new name of the file leave it; another graph does not."""
    base = skeleton_hash(network())
    assert len(base) == 64
    assert skeleton_hash(network(scale=2.0)) == base
    for storage in (Storage.INLINE, Storage.EXTERNAL):
        network().save(tmp_path / f"{storage}.onnx", storage)
        assert skeleton_hash(Model.open(tmp_path / f"{storage}.onnx")) == base
    onnx.save(network().to_proto(), tmp_path / "all.onnx", save_as_external_data=True, size_threshold=0)
    assert skeleton_hash(Model.open(tmp_path / "all.onnx")) == base
    other = network()
    other.proto.graph.node[0].name = "renamed"
    assert skeleton_hash(other) != base
    scaled = network()
    scaled.scale(scaled.proto.graph.initializer[0], 0.5)
    assert skeleton_hash(scaled) == base


A = U["a.u"]


@pytest.mark.parametrize(
    ("tensors", "header", "complaint"),
    [
        ({"a.u": A}, {}, "holds no 'If_0/then_branch::b.u'"),
        ({"a": A}, {}, "holds no 'a.u'"),
        ({"a.u": A[:3]}, {}, r"'a.u' has shape \[3\], where \[4\] is needed"),
        ({"a.u": A.reshape(2, 2)}, {}, r"shape \[2, 2\]"),
        ({"a.u": A.reshape(1, 1, 4)}, {}, r"shape \[1, 1, 4\]"),
        ({"a.u": A * np.float32(np.nan)}, {}, "from which no iteration can start"),
        ({"a.u": A * 0}, {}, "from which no iteration can start"),
        ({"a.u": A.astype(np.int32)}, {}, "element type I32"),
        ({"a.u": A.astype(ml_dtypes.float8_e4m3fn)}, {}, "element type F8"),
        ({"a.sigma": np.ones(2, np.float32)}, {}, r"'a.sigma' has shape \[2\]"),
        ({"a.sigma": np.float32(np.nan) * A[:1]}, {}, "'a.sigma' is nan"),
        ({"a.sigma": -A[:1]}, {}, "'a.sigma' is -1.0"),
        ({"a.sigma": A[:1].astype(np.int64)}, {}, "element type I64"),
        ({}, {"sn_graph": "2"}, "version '2'"),
        ({}, {"sn_graph": "1", "model": "0" * 64}, "belongs to another model"),
        ({}, {"step": "-1"}, "step '-1'"),
        ({}, {"step": "many"}, "step 'many'"),
    ],
)
def test_refusals(tensors: dict[str, Array], header: dict[str, str], complaint: str, tmp_path: Path) -> None:
    whole = tensors if complaint.startswith("holds no") else {**U, **tensors}
    path = saved(tmp_path, whole, **header)
    with pytest.raises(ModelError, match=complaint) as failure:
        load_state(path, network(), LENGTHS)
    assert "\n" not in str(failure.value)


def test_what_is_saved_is_read_back(tmp_path: Path) -> None:
    path, hashed = tmp_path / "state.safetensors", skeleton_hash(network())
    u = {name.removesuffix(".u"): array for name, array in U.items()}
    for state in (State(u, {"a": 2.5, "If_0/then_branch::b": 0.1}, 12), State(u, {"a": 2.5}), State(u, {})):
        save_state(path, state, hashed, "torch")
        for found in (load_state(path, network(), LENGTHS), read_state(path, LENGTHS, hashed, "it")):
            assert found.step == state.step
            assert found.sigma == {site: float(np.float32(sigma)) for site, sigma in state.sigma.items()}
            for site, vector in u.items():
                np.testing.assert_array_equal(found.u[site], vector)
    assert list(tmp_path.iterdir()) == [path]  # nothing temporary stays
    with pytest.raises(ModelError, match="belongs to another model; use the state saved with it"):
        read_state(path, LENGTHS, "0" * 64, "it")


def test_a_state_in_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnavailable, match="can't be written"):
        save_state(tmp_path / "none" / "state.safetensors", State({}, {}), "0" * 64, "keras")


@pytest.mark.parametrize("content", [b"", b"12", b"\x08\0\0\0\0\0\0\0notjson!", b"\xff" * 64, b"{}"])
def test_files_that_are_no_state(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError) as failure:
        load_state(path, network(), LENGTHS)
    assert "\n" not in str(failure.value)


def test_a_truncated_file_a_missing_one_and_a_folder(tmp_path: Path) -> None:
    path = saved(tmp_path, U)
    path.write_bytes(path.read_bytes()[:-1])
    for where in (path, tmp_path / "none", tmp_path):
        with pytest.raises(ModelError) as failure:
            load_state(where, network(), LENGTHS)
        assert "\n" not in str(failure.value)


@pytest.mark.parametrize("step", ["9" * 5000, "9" * 19, "-1", "1.5", "", "٣"])
def test_steps_that_are_no_number_of_runs_are_refused(step: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a number of runs") as refused:
        load_state(saved(tmp_path, U, step=step), network(), LENGTHS)
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("element", [1e300, 3e38, 1e-300, np.nan, -np.inf, 0.0, 1e20, 1e-30])
def test_a_u_whose_norm_is_none_is_refused_by_its_site(element: float, tmp_path: Path) -> None:
    """One that an inserted graph would take for dead, and begin anew without a word, too."""
    u: dict[str, Array] = {**U, "a.u": np.full(4, element, np.float64)}
    with pytest.raises(
        ModelError, match=r"'a\.u' has the norm (inf|nan|0|2e[+-][0-9]+), from which no iteration can start"
    ):
        load_state(saved(tmp_path, u), network(), LENGTHS)


@pytest.mark.parametrize("source", [None, 5, [1.0], b"path"])
def test_what_is_neither_a_path_nor_arrays(source: Any) -> None:
    with pytest.raises(UsageError, match="is not a state; give a path, or arrays u by site id"):
        load_state(source, network(), LENGTHS)


@pytest.mark.filterwarnings("error")
def test_complex_numbers_are_refused() -> None:
    with pytest.raises(ModelError, match="'a' is not an array of numbers: its numbers are complex"):
        load_state({**U, "a": np.ones(4, np.complex64)}, network(), LENGTHS)
