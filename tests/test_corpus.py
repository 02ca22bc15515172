"""Every real model at hand: folded right and nothing else touched, or refused in one line; never a traceback.

The corpus of public models lies beside the checkout where there is one; models/ is always here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from sn_graph.model import Model
from sn_graph.norms import inspect
from sn_graph.plan import make_plan
from tests.support.command_line import invoke, one_line
from tests.support.oracle import sigma_max
from tests.support.places import CORPUS, ONNX_MODELS, corpus, require_corpus

CASES = [pytest.param(CORPUS / row["path"], row["flags"], id=row["path"]) for row in corpus()]
CASES += [pytest.param(path, [], id=path.name) for path in ONNX_MODELS]
# σ of what was written: 1e-5 promised, or a few roundings of the type that stores it.
SLACK = {"float16": 2e-3, "bfloat16": 2e-2}
OPTIONS: list[list[str]] = [
    ["--sigma", "exact"],
    ["--sigma", "power", "--convention", "keras", "--no-verify"],
    ["--op-type", "MatMul", "--op-type", "LSTM", "--op-type", "RNN"],
]


def test_the_corpus_is_here() -> None:
    require_corpus()
    assert all((CORPUS / row["path"]).exists() for row in corpus())


@pytest.mark.parametrize("path", [pytest.param(one.values[0], id=one.id) for one in CASES])
def test_inspect(path: Path) -> None:
    ended = invoke("inspect", path, "--json")
    assert ended.code == 0, ended.err
    for site in ended.json["sites"]:
        recognised = site["form"] not in (None, "computed", "weight-norm", "normalized-otherwise")
        assert (site["status"] == "eligible" or recognised) == (site["sigma"] is not None)
        assert (site["status"] == "skipped") == bool(site["reason"])


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: options[1])
@pytest.mark.parametrize(("path", "flags"), CASES)
def test_fold(path: Path, flags: list[str], options: list[str], tmp_path: Path) -> None:
    target = tmp_path / "out.onnx"
    ended = invoke("fold", path, "-o", target, "--json", *options)
    if ended.code:
        said = one_line(ended, 3)
        assert "nothing to do" in said or "run sn-graph lift first" in said
        assert not list(tmp_path.iterdir())
        return
    report = ended.json
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
    for one in make_plan(model).targets():
        scale = model.array(one.site.quantization.scale).dtype.name if one.site.quantization else ""
        slack = SLACK.get(scale or str(one.site.dtype), 1e-5)
        sigma = sigma_max(one.matrix(model))
        assert sigma == 0 or abs(sigma - 1) <= slack, (one.id, sigma)
        checked += 1
    assert checked
    assert inspect(model, make_plan(model)).sites


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
    limits = ml_dtypes.finfo(numpy_helper.to_array(old).dtype)  # type: ignore[no-untyped-call]
    eps, tiny = float(limits.eps), float(limits.smallest_subnormal)
    np.testing.assert_allclose(a, b * factor, rtol=2 * eps, atol=2 * tiny)
