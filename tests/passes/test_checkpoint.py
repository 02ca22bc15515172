import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sn_graph as sn
from sn_graph.choices import SigmaChoice
from sn_graph.errors import ModelError, UsageError
from tests.support.checkpoints import entry, llama, raw, sigma

PROJECTIONS = [r"_proj\.weight$"]


def header_of(path: Path) -> bytes:
    content = path.read_bytes()
    return content[: 8 + int.from_bytes(content[:8], "little")]


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64], ids=lambda d: np.dtype(d).name
)
@pytest.mark.parametrize("method", ["exact", "upper", "power"])
def test_chosen_weights_get_the_bound_and_nothing_else_changes(tmp_path: Path, dtype: Any, method: SigmaChoice) -> None:
    source, output = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_file(llama(dtype=dtype), source, metadata={"format": "pt", "note": "größe"})
    result = sn.fold_checkpoint(source, sigma=method, bound=2.0, include=PROJECTIONS)
    result.save(output)
    assert header_of(output) == header_of(source)
    before, after = load_file(source), load_file(output)
    unit = float(ml_dtypes.finfo(dtype).eps)  # type: ignore[no-untyped-call]
    for name, value in before.items():
        if not name.endswith("_proj.weight"):
            np.testing.assert_array_equal(after[name], value)
        elif method == "exact":
            assert sigma(after[name]) == pytest.approx(2.0, rel=2e-6 + unit)
        elif method == "upper":
            assert 2.0 * (1 - 1e-5 - 2 * unit) <= sigma(after[name]) <= 2.0
        else:
            assert sigma(after[name]) > 2.0 * (1 - unit)  # the estimate is low
    assert {record.status for record in result.sites if record.id.endswith("_proj.weight")} == {"folded"}
    assert {record.status for record in result.sites if not record.id.endswith("_proj.weight")} == {"skipped"}


def test_output_may_be_the_input(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(llama(), path)
    sn.fold_checkpoint(path).save(path)
    assert all(sigma(value) == pytest.approx(1.0, rel=3e-6) for value in load_file(path).values() if value.ndim == 2)
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_order_and_spaces_of_a_header_stay(tmp_path: Path) -> None:
    text = (
        b'{ "b":{"shape":[1,2],"dtype":"F32","data_offsets":[8,16]},\n'
        b'"a":{"dtype":"F32","data_offsets":[0,8],"shape":[2,1]}}   '
    )
    path = raw(tmp_path / "a.safetensors", text, np.array([3.0, 4.0, 6.0, 8.0], np.float32).tobytes())
    sn.fold_checkpoint(path).save(tmp_path / "b.safetensors")
    assert header_of(tmp_path / "b.safetensors") == header_of(path)
    after = load_file(tmp_path / "b.safetensors")
    np.testing.assert_allclose(after["a"].ravel(), [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(after["b"].ravel(), [0.6, 0.8], rtol=1e-6)


def test_zero_clipped_and_higher_ranks_stay(tmp_path: Path) -> None:
    weights = {
        "zero": np.zeros((3, 3), np.float32),
        "small": np.eye(2, dtype=np.float32) * 0.5,
        "conv": np.ones((2, 2, 3, 3), np.float32),
    }
    save_file(weights, tmp_path / "a.safetensors")
    result = sn.fold_checkpoint(tmp_path / "a.safetensors", clip=True)
    told = {record.id: (record.status, record.reason) for record in result.sites}
    assert (told["zero"][0], told["small"][0], told["conv"][0]) == ("unchanged", "unchanged", "skipped")
    assert "2-D" in str(told["conv"][1])
    result.save(tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


def test_integers_beside_the_weights_stay(tmp_path: Path) -> None:
    header = {"codes": entry("I8", [2, 2], 0, 4), "w": entry("F32", [1, 1], 4, 8)}
    path = raw(tmp_path / "a.safetensors", header, b"abcd" + np.float32(5.0).tobytes())
    result = sn.fold_checkpoint(path)
    result.save(tmp_path / "b.safetensors")
    assert (tmp_path / "b.safetensors").read_bytes()[-8:] == b"abcd" + np.float32(1.0).tobytes()


def test_values_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    save_file({"w": np.array([[np.inf]], np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="infinite"):
        sn.fold_checkpoint(tmp_path / "a.safetensors")


def test_a_factor_that_the_type_can_not_hold_is_refused(tmp_path: Path) -> None:
    save_file({"w": np.eye(2, dtype=np.float16)}, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="does not fit"):
        sn.fold_checkpoint(tmp_path / "a.safetensors", bound=1e6).save(tmp_path / "b.safetensors")
    assert os.listdir(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "model.gguf"])
def test_what_is_not_one_file_is_not_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="one \\.safetensors file"):
        sn.fold_checkpoint(tmp_path / name)


@pytest.mark.parametrize(
    "option", [{"bound": 0.0}, {"bound": float("nan")}, {"power_iterations": 0}, {"seed": -1}, {"sigma": "none"}]
)
def test_options_that_are_none_are_usage_errors(tmp_path: Path, option: Any) -> None:
    save_file(llama(), tmp_path / "a.safetensors")
    with pytest.raises(UsageError):
        sn.fold_checkpoint(tmp_path / "a.safetensors", **option)


def test_fold_sends_checkpoints_to_their_own_function(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="fold_checkpoint"):
        sn.fold(tmp_path / "a.safetensors")
