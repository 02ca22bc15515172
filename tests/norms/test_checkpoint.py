import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import sn_graph as sn
from sn_graph.errors import ModelError, UsageError
from tests.support.checkpoints import CONFIG, entry, llama, raw, save_sharded, sigma
from tests.support.places import MODELS, ROOT


@pytest.mark.parametrize(
    "dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64], ids=lambda d: np.dtype(d).name
)
def test_norms_are_those_of_float64_svd(tmp_path: Path, dtype: Any) -> None:
    save_file(llama(dtype=dtype), tmp_path / "a.safetensors")
    stored = load_file(tmp_path / "a.safetensors")
    report = sn.inspect(tmp_path / "a.safetensors", sigma="upper")
    assert {record.id for record in report.sites} == {name for name, value in stored.items() if value.ndim >= 2}
    for record in report.sites:
        matrix = stored[record.id].astype(np.float64)
        assert record.sigma is not None
        assert record.sigma == pytest.approx(np.linalg.norm(matrix, 2), rel=1e-6)
        assert record.sigma_upper is not None
        assert np.linalg.norm(matrix, 2) <= record.sigma_upper <= record.sigma * (1 + 2e-6)
        assert record.frobenius == pytest.approx(np.linalg.norm(matrix), rel=1e-12)
        assert record.stable_rank == pytest.approx((np.linalg.norm(matrix) / np.linalg.norm(matrix, 2)) ** 2, rel=3e-6)
        rows, columns = matrix.shape
        assert record.sigma_scaled == pytest.approx(record.sigma * np.sqrt(columns / rows))
        assert (record.op_types, record.consumers, record.dtype) == ((), (), np.dtype(dtype).name)


def test_higher_ranks_are_matrices_of_their_first_axis(tmp_path: Path) -> None:
    kernel = np.random.default_rng(0).standard_normal((6, 3, 2, 2)).astype(np.float32)
    save_file({"conv.weight": kernel, "bias": np.ones(6, np.float32)}, tmp_path / "a.safetensors")
    (record,) = sn.inspect(tmp_path / "a.safetensors").sites
    assert (record.matrix, record.shape) == ((6, 12), (6, 3, 2, 2))
    assert record.sigma == pytest.approx(sigma(kernel), rel=1e-6)


def test_shards_and_one_file_have_the_same_records(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    save_file(llama(), tmp_path / "one" / "a.safetensors")
    one, other = sn.inspect(tmp_path / "one" / "a.safetensors"), sn.inspect(save_sharded(tmp_path, llama()))
    assert sorted(one.sites, key=lambda r: r.id) == sorted(other.sites, key=lambda r: r.id)


def test_heads_are_measured_each(tmp_path: Path) -> None:
    save_file(llama(), tmp_path / "a.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    records = {record.role: record for record in sn.inspect(tmp_path / "a.safetensors", per_head=True).sites}
    weights = llama()
    for role, heads in (("q_proj", 4), ("k_proj", 2)):
        record = records[role]
        parts = np.split(weights[record.id], heads)
        assert record.sigma_heads == pytest.approx([sigma(part) for part in parts], rel=1e-6)
        assert record.to_json()["sigma_heads"] == list(record.sigma_heads)
    assert records["v_proj"].sigma_heads == ()
    assert "sigma_heads" not in records["v_proj"].to_json()


def test_unknown_heads_are_said(tmp_path: Path) -> None:
    save_file(llama(), tmp_path / "a.safetensors")
    record = next(r for r in sn.inspect(tmp_path / "a.safetensors", per_head=True).sites if r.role == "q_proj")
    assert "config.json" in record.notes[0]


def test_a_base_adds_its_norm_and_that_of_the_difference(tmp_path: Path) -> None:
    base, tuned = llama(0), llama(0)
    name = "model.layers.0.mlp.up_proj.weight"
    tuned[name] = tuned[name] + np.float32(0.01) * llama(1)[name]
    del base["lm_head.weight"]
    base["model.embed_tokens.weight"] = base["model.embed_tokens.weight"][:40]
    save_file(base, tmp_path / "base.safetensors")
    save_file(tuned, tmp_path / "tuned.safetensors")
    report = sn.inspect(tmp_path / "tuned.safetensors", against=tmp_path / "base.safetensors")
    records = {record.id: record for record in report.sites}
    changed = records[name]
    assert changed.sigma_base == pytest.approx(sigma(base[name]), rel=1e-6)
    assert changed.sigma_delta == pytest.approx(sigma(tuned[name].astype(np.float64) - base[name]), rel=1e-5)
    assert records["model.layers.1.mlp.up_proj.weight"].sigma_delta == 0.0
    for missing in ("lm_head.weight", "model.embed_tokens.weight"):
        told = records[missing].to_json()
        assert (told["sigma_base"], told["sigma_delta"]) == (None, None)
        assert "not compared" in told["notes"][0]
    assert "sigma_base" not in sn.inspect(tmp_path / "tuned.safetensors").sites[0].to_json()


def test_onnx_models_get_the_same_columns_and_bases(tmp_path: Path) -> None:
    model = MODELS / "torch_patchgan_discriminator.onnx"
    folded = tmp_path / "folded.onnx"
    sn.fold(model).save(folded)
    for record in sn.inspect(folded, against=model).sites:
        assert record.sigma is not None
        assert record.sigma_base is not None
        # W/σ − W has the norm σ·|1/σ − 1|.
        assert record.sigma_delta == pytest.approx(abs(1.0 - record.sigma_base), rel=2e-6, abs=1e-6)
        assert record.stable_rank is not None
        assert record.stable_rank >= 1.0 - 1e-6
        assert {"frobenius", "stable_rank", "sigma_scaled"} <= record.to_json().keys()
        assert "role" not in record.to_json()


def test_a_base_of_another_kind_is_matched_by_name(tmp_path: Path) -> None:
    model = sn.Model.open(MODELS / "torch_patchgan_discriminator.onnx")
    record = sn.inspect(model).sites[0]
    tensor = next(t for t in model.proto.graph.initializer if t.name == record.weight)
    save_file({record.weight: model.array(tensor)}, tmp_path / "a.safetensors")
    (compared, *rest) = sn.inspect(model, against=tmp_path / "a.safetensors").sites
    assert compared.sigma_base == pytest.approx(compared.sigma, rel=1e-6)
    assert compared.sigma_delta == 0.0
    assert all(record.sigma_base is None for record in rest)


def test_values_that_are_not_finite_are_refused_unless_left_out(tmp_path: Path) -> None:
    weights = llama()
    weights["lm_head.weight"][3, 3] = np.nan
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(ModelError, match="1 NaN value"):
        sn.inspect(tmp_path / "a.safetensors")
    report = sn.inspect(tmp_path / "a.safetensors", exclude=["^lm_head"])
    assert next(record for record in report.sites if record.id == "lm_head.weight").status == "skipped"
    save_file(llama(), tmp_path / "b.safetensors")
    with pytest.raises(ModelError, match="--against"):
        sn.inspect(tmp_path / "b.safetensors", against=tmp_path / "a.safetensors")


def test_what_has_no_values_is_listed_with_the_reason(tmp_path: Path) -> None:
    header = {"a": entry("I32", [2, 2], 0, 16), "b": entry("F32", [0, 3], 16, 16), "c": entry("F4", [2, 2], 16, 18)}
    report = sn.inspect(raw(tmp_path / "a.safetensors", header, bytes(18)))
    assert [record.status for record in report.sites] == ["skipped"] * 3
    assert all(record.reason for record in report.sites)


@pytest.mark.parametrize(
    "option", [{"op_types": ["Conv"]}, {"norm": "operator"}, {"convention": "keras"}, {"plan": "p.json"}]
)
def test_what_only_a_graph_can_tell_is_a_usage_error(tmp_path: Path, option: Any) -> None:
    save_file(llama(), tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="says nothing of a checkpoint"):
        sn.inspect(tmp_path / "a.safetensors", **option)


PEAK = """
import sys, threading, time
import sn_graph as sn
def anonymous():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("RssAnon"))
peak, done = [0], threading.Event()
def watch():
    while not done.wait(0.002):
        peak[0] = max(peak[0], anonymous())
thread = threading.Thread(target=watch)
thread.start()
report = sn.inspect(sys.argv[1])
done.set(); thread.join()
print(peak[0] // 1024, len(report.sites), report.sites[0].sigma)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(("kind", "size"), [("F32", 4), ("F16", 2)])
def test_memory_does_not_grow_with_the_weight(tmp_path: Path, kind: str, size: int) -> None:
    """A sparse weight of 164 MB, which takes 655 as float32 where it is float16; a value in every 1,000 rows is 2."""
    rows, columns = 40_000, 4096 // size
    path = raw(tmp_path / "a.safetensors", {"w": entry(kind, [rows, columns], 0, rows * columns * size)})
    begin = path.stat().st_size
    with open(path, "r+b") as file:
        file.truncate(begin + rows * columns * size)
        for row in range(0, rows, 1000):  # each in a column of its own, so that σ = 2
            file.seek(begin + (row * columns + row % columns) * size)
            file.write(np.array(2.0, f"f{size}").tobytes())
    done = subprocess.run([sys.executable, "-c", PEAK, path], cwd=ROOT, capture_output=True, text=True, check=True)
    megabytes, sites, norm = done.stdout.split()
    assert sites == "1"
    assert float(norm) == pytest.approx(2.0, rel=1e-6)
    assert int(megabytes) < 150
