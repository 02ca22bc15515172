"""Every real model at hand: folded right and nothing else touched, or refused in one line; never a traceback.

The corpus of public models lies beside the checkout where there is one; models/ is always here.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from sn_graph import measure
from sn_graph.cli import app as application
from sn_graph.model import Model
from sn_graph.plan import make_plan

for name in application._COMMANDS:
    importlib.import_module(f"sn_graph.cli.{name}")

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
INDEX = CORPUS / "index.jsonl"
ROWS = [json.loads(line) for line in INDEX.read_text().splitlines()] if INDEX.exists() else []
CASES = [pytest.param(CORPUS / row["path"], row["flags"], id=row["path"]) for row in ROWS]
CASES += [pytest.param(path, [], id=path.name) for path in sorted((ROOT / "models").glob("*.onnx"))]
# σ of what was written: 1e-5 promised, or a few roundings of the type that stores it.
SLACK = {"float16": 2e-3, "bfloat16": 2e-2}
OPTIONS: list[list[str]] = [
    ["--sigma", "exact"],
    ["--sigma", "power", "--convention", "keras", "--no-verify"],
    ["--op-type", "MatMul", "--op-type", "LSTM", "--op-type", "RNN"],
]


def call(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            application.app([str(argument) for argument in arguments], prog_name="sn-graph")
            code: Any = 0
        except SystemExit as end:
            code = end.code or 0
    return code, out.getvalue(), err.getvalue()


def test_the_corpus_is_here() -> None:
    if not ROWS:
        pytest.skip(f"no corpus of real models beside the checkout (looked for shared/corpus/{INDEX.name})")
    assert len(ROWS) == len(CASES) - len(list((ROOT / "models").glob("*.onnx")))


@pytest.mark.parametrize(("path", "flags"), CASES)
def test_inspect(path: Path, flags: list[str]) -> None:
    code, out, err = call("inspect", path, "--json")
    assert code == 0, err
    for site in json.loads(out)["sites"]:
        assert (site["status"] == "eligible") == (site["sigma"] is not None)
        assert (site["status"] == "skipped") == bool(site["reason"])


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options[1])
@pytest.mark.parametrize(("path", "flags"), CASES)
def test_fold(path: Path, flags: list[str], options: list[str], tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    code, out, err = call("fold", path, "-o", target, "--json", *options)
    if code:
        assert code == 3, err
        assert err.startswith("sn-graph: error: ")
        assert err.count("\n") == 1
        assert "nothing to do" in err, err
        assert not list(tmp_path.iterdir())
        return
    report = json.loads(out)
    statuses = {site["status"] for site in report["sites"]}
    assert statuses <= {"folded", "unchanged", "skipped"}
    runs = not {"not-run-on-random-inputs", "not-loaded-by-onnxruntime"} & set(flags)
    if "--no-verify" in options:
        assert report["verified"] == "no"
    else:
        assert report["verified"] in (("run",) if runs else ("run", "structure"))

    if options[1] == "exact":
        assert_unit_norms(target)
    assert_nothing_else_changed(path, target)
    if report["verified"] == "run":
        silent = onnxruntime.SessionOptions()
        silent.log_severity_level = 4
        onnxruntime.InferenceSession(target, silent, providers=["CPUExecutionProvider"])


def assert_unit_norms(target: Path) -> None:
    """The norm of every weight that can be normalized is 1, by LAPACK on what is stored."""
    model = Model.open(target)
    checked = 0
    for planned in make_plan(model).eligible():
        matrix = planned.matrix(model).astype(np.float64)
        scale = model.array(planned.site.quantization.scale).dtype.name if planned.site.quantization else ""
        slack = SLACK.get(scale or str(planned.site.dtype), 1e-5)
        sigma = float(np.linalg.norm(matrix, 2))
        assert sigma == 0 or abs(sigma - 1) <= slack, (planned.id, sigma)
        checked += 1
    assert checked
    assert measure.inspect(model, make_plan(model)).sites


def tensors(model: onnx.ModelProto | onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.TensorProto]:
    """Every tensor, by walking the message's own fields: not the way in which sn_graph finds them."""
    for field, value in model.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        for item in value if not hasattr(value, "ListFields") else [value]:
            if isinstance(item, onnx.TensorProto):
                yield item
            else:
                yield from tensors(item)


def assert_nothing_else_changed(path: Path, target: Path) -> None:
    """The proto is equal but for the data of float tensors; those are multiples of what they were."""
    before, after = onnx.load(path), onnx.load(target)
    ours, theirs = list(tensors(after)), list(tensors(before))
    if len(ours) != len(theirs):  # a weight was split: the proof has looked at it
        assert {tensor.name for tensor in ours} > {tensor.name for tensor in theirs}
        return
    for new, old in zip(ours, theirs, strict=True):
        if new != old:
            assert_multiple(new, old)
            new.CopyFrom(old)
    assert after.SerializeToString(deterministic=True) == before.SerializeToString(deterministic=True)


def assert_multiple(new: onnx.TensorProto, old: onnx.TensorProto) -> None:
    assert (new.name, new.dims, new.data_type) == (old.name, old.dims, old.data_type)
    assert old.data_type in (1, 10, 11, 16), "only floats are scaled"
    a, b = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in (new, old))
    largest = np.unravel_index(np.argmax(np.abs(b)), b.shape)
    factor = a[largest] / b[largest]
    eps = float(ml_dtypes.finfo(numpy_helper.to_array(old).dtype).eps)
    tiny = float(ml_dtypes.finfo(numpy_helper.to_array(old).dtype).smallest_subnormal)
    np.testing.assert_allclose(a, b * factor, rtol=2 * eps, atol=2 * tiny)
