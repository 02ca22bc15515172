"""compare and verify: what agrees, what does not, and what can't be compared."""

import json
import math
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import sn_graph as sn
from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError, VerificationFailed
from sn_graph.model import Model
from sn_graph.rewrite.insertion import StateMode
from sn_graph.runtime import Side, compare, compare_sides, make_feeds, make_inputs, verify
from sn_graph.runtime.engine import available_providers, open_session
from sn_graph.runtime.parity import Comparison, ParityResult
from sn_graph.runtime.session import StatefulSession
from sn_graph.state import Inserted, read_inserted
from tests.support.builders import drawn, network, node
from tests.support.networks import discriminator, weights, x_of
from tests.support.onnx_text import Build
from tests.support.runs import MODES, inserted

RNG = np.random.default_rng(7)
W = RNG.standard_normal((4, 3)).astype(np.float32)


def same_but(model: onnx.ModelProto, weight: NDArray[Any]) -> onnx.ModelProto:
    other = onnx.ModelProto.FromString(model.SerializeToString())
    other.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w0"))
    return other


@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_a_lost_state_ends_before_the_second_step(layout: Literal["packed", "per-weight"]) -> None:
    """As fuzzing found it: metadata name an output that the model does not give."""
    model = network([node("MatMul", ["x", "w"])], {"w": drawn(6, 5)}, {"x": (2, 6)})
    proto = sn.insert(model, state_layout=layout).to_proto()
    for value in proto.graph.output:
        value.name = {"sn_u.next": "other", "w.sn_u.next": "other"}.get(value.name, value.name)
    for one in proto.graph.node:
        one.output[:] = ["other" if name in ("sn_u.next", "w.sn_u.next") else name for name in one.output]
    assert verify(proto, steps=1).comparisons
    with pytest.raises(ModelError, match=r"lost its state '(w\.)?sn_u\.next'"):
        verify(proto, steps=2)


def test_equal_models_from_every_kind_of_source(op: Build, tmp_path: Path) -> None:
    model = op("MatMul", ["N", 4], W)
    onnx.save(model, tmp_path / "m.onnx")
    for source in (model, Model.open(model), tmp_path / "m.onnx", str(tmp_path / "m.onnx")):
        result = compare(source, model)
        assert result.ok
        result.raise_if_different()
        (row,) = result.comparisons
        assert (row.provider, row.step, row.output, row.max_abs, row.ok) == ("cpu", 0, "y", 0.0, True)
        assert (row.rtol, row.atol) == (1e-4, 1e-6)


def test_the_figures_are_those_of_numpy(op: Build) -> None:
    left = op("MatMul", ["N", 4], W)
    moved = W.copy()
    moved[1, 2] += 0.01
    result = compare(left, same_but(left, moved), dims={"N": 5})
    x = make_inputs(Model.open(left), dims={"N": 5})["x"].astype(np.float64)
    gap = np.abs(x @ W - x @ moved).max()
    (row,) = result.comparisons
    assert row.max_abs == pytest.approx(gap, rel=1e-4)  # float32 products of size 1, gap of size 1e-2
    assert row.max_rel_norm == pytest.approx(gap / np.abs(x @ moved).max(), rel=1e-4)
    assert not result.ok
    with pytest.raises(VerificationFailed, match=r"1 of 1 outputs differ.*'y' \(cpu, step 0\)"):
        result.raise_if_different()
    assert compare(left, same_but(left, moved), rtol=1.0).ok
    assert compare(left, same_but(left, moved), atol=1.0).ok


def test_onnxruntime_agrees_with_onnx_reference(op: Build) -> None:
    """Independent of onnxruntime: the feeds and outputs of a Side are those that ReferenceEvaluator computes with."""
    model = op("Conv", ["N", 4, 6, 6], RNG.standard_normal((8, 2, 3, 3)).astype(np.float32), group=2, strides=[2, 2])
    (feeds,) = make_feeds(Model.open(model), seed=3)
    (outputs,) = Side(Model.open(model), "m").run([feeds])
    (expected,) = ReferenceEvaluator(model).run(None, feeds)
    np.testing.assert_allclose(outputs["y"], np.asarray(expected), atol=1e-5)  # 18 products of size 1 in float32


def test_one_model_on_one_provider_compares_optimizations(op: Build) -> None:
    result = verify(op("MatMul", ["N", 4], W), steps=3)
    assert result.ok
    assert [row.step for row in result.comparisons] == [0, 1, 2]
    assert "(optimizations off)" in result.comparisons[0].left
    assert "(optimizations on)" in result.comparisons[0].right


def test_steps_draw_fresh_inputs_unless_they_are_given(op: Build, tmp_path: Path) -> None:
    model = Model.open(op("MatMul", ["N", 4], W))
    first, second = make_feeds(model, steps=2)
    assert not np.array_equal(first["x"], second["x"])
    np.testing.assert_array_equal(make_feeds(model)[0]["x"], first["x"])
    np.savez(tmp_path / "in.npz", x=np.ones((3, 4), np.float32))
    for inputs in (tmp_path / "in.npz", {"x": np.ones((3, 4), np.float32)}):
        assert [feed["x"].shape for feed in make_feeds(model, inputs=inputs, steps=2)] == [(3, 4)] * 2
        assert compare(model, model, inputs=inputs, steps=2).ok


def test_nan_and_infinity_agree_with_themselves_only(text: Build) -> None:
    """x/0 is NaN or infinite by the sign of x: the same in both, and unlike 0·x."""
    left = text("g (float[64] x) => (float[64] y, float[64] z) {z = Sub(x, x) y = Div(x, z)}")
    assert compare(left, left).ok
    nan = text("g (float[64] x) => (float[64] y, float[64] z) {z = Sub(x, x) y = Div(z, z)}")
    result = compare(left, nan)
    assert [row.ok for row in result.comparisons] == [False, True]
    assert math.isnan(result.comparisons[0].max_abs)
    assert compare(nan, nan).ok
    rows = json.loads(json.dumps(result.to_json(), allow_nan=False))["comparisons"]
    assert rows[0]["max_abs"] is None
    with pytest.raises(VerificationFailed):
        result.raise_if_different()


def test_zero_and_empty_outputs(text: Build) -> None:
    for shape in ("3", "0,3"):
        model = text(f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Sub(x, x) }}")
        (row,) = verify(model).comparisons
        assert (row.max_abs, row.max_rel_norm, row.ok) == (0.0, 0.0, True)


def test_integers_and_booleans_must_be_equal(text: Build) -> None:
    casts = "i = Cast <to: int = 6> (s) b = Cast <to: int = 9> (i)"
    graph = f"g (float[50] x) => (int32[50] i, bool[50] b) {{{{ s = {{0}}(x) {casts} }}}}"
    floor, ceil = text(graph.format("Floor")), text(graph.format("Ceil"))
    assert compare(floor, floor).ok
    result = compare(floor, ceil, rtol=10.0, atol=10.0)
    assert [(row.max_abs, row.rtol, row.ok) for row in result.comparisons] == [(1.0, 0.0, False)] * 2


def test_float16_has_its_own_tolerance(op: Build) -> None:
    half = op("MatMul", [1, 4], W.astype(np.float16), element=TensorProto.FLOAT16)
    (row,) = verify(half).comparisons
    assert (row.rtol, row.atol, row.ok) == (1e-2, 1e-3, True)
    assert compare(half, same_but(half, W.astype(np.float16) * np.float16(1.001))).ok
    assert not compare(half, same_but(half, W.astype(np.float16) * np.float16(1.1))).ok


def test_shapes_must_agree(text: Build) -> None:
    left = text("g (float[N,3] x) => (float[A,B] y) { y = Identity(x) }")
    right = text("g (float[N,3] x) => (float[A,B] y) { y = Transpose(x) }")
    result = compare(left, right)
    assert not result.ok
    assert any("[2, 3] on the left, [3, 2] on the right" in note for note in result.notes)


def test_sequences_of_different_length(text: Build) -> None:
    graph = "g (float[4] x) => (seq(float[N]) y) <int64 n = {{{0}}}> {{ y = SplitToSequence <axis: int = 0> (x, n) }}"
    result = compare(text(graph.format(2)), text(graph.format(1)))
    assert [row.ok for row in result.comparisons] == [False] * 4
    assert any("'y[3]' came from the second model only" in note for note in result.notes)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ("g (float[N,3] z) => (float[N,3] y) { y = Identity(z) }", "input 'x' is only in the first"),
        ("g (float[N,3] x, float[1] z) => (float[N,3] y) { y = Add(x, z) }", "input 'z' is only in the second"),
        ("g (double[N,3] x) => (float[N,3] y) { y = Cast <to: int = 1> (x) }", r"tensor\(float\) in the first"),
        ("g (float[N,4] x) => (float[N,3] y) { y = Identity(x) }", r"\[N, 3\] in the first, \[N, 4\] in the second"),
        ("g (float[N] x) => (float[N,3] y) { y = Identity(x) }", r"\[N, 3\] in the first, \[N\] in the second"),
        ("g (float[N,3] x) => (float[N,3] z) { z = Identity(x) }", "output 'y' is only in the first"),
        ("g (float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Identity(x) z = Abs(x) }", "output 'z' is only in"),
        ("g (float[N,3] x) => (float16[N,3] y) { y = Cast <to: int = 10> (x) }", "output 'y' is"),
    ],
)
def test_other_signatures_are_refused(text: Build, other: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        compare(text("g (float[N,3] x) => (float[N,3] y) { y = Identity(x) }"), text(other))


def test_defaults_and_order_are_no_difference(op: Build) -> None:
    left = op("MatMul", [1, 4], W)
    right = same_but(left, W)
    right.graph.input.insert(0, helper.make_tensor_value_info("w0", TensorProto.FLOAT, [4, 3]))
    assert compare(left, right).ok


def test_overrides_are_an_independent_path(op: Build) -> None:
    """What `fold` checks its output by: the original with its weight replaced in memory."""
    model = Model.open(op("MatMul", ["N", 4], W))
    folded = Model.open(same_but(model.to_proto(), W / 3))
    feeds = make_feeds(model)
    assert compare_sides(Side(model, "overridden", overrides={"w0": W / 3}), Side(folded, "folded"), feeds).ok
    assert not compare_sides(Side(model, "plain"), Side(folded, "folded"), feeds).ok
    with pytest.raises(ValueError, match="nope"):
        Side(model, "m", overrides={"nope": W}).open()


def test_a_modified_model_runs_as_modified(op: Build, tmp_path: Path) -> None:
    onnx.save(op("MatMul", ["N", 4], W), tmp_path / "m.onnx")
    model = Model.open(tmp_path / "m.onnx")
    model.replace(model.proto.graph.initializer[0], W * 2)
    assert not compare(model, tmp_path / "m.onnx").ok
    assert compare(model, op("MatMul", ["N", 4], W * 2)).ok


def test_external_data(op: Build, tmp_path: Path) -> None:
    big = RNG.standard_normal((64, 64)).astype(np.float32)
    model = op("MatMul", ["N", 64], big)
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, size_threshold=0, location="m.data")
    assert compare(tmp_path / "m.onnx", op("MatMul", ["N", 64], big)).ok


@pytest.mark.parametrize("mode", MODES)
def test_an_inserted_model_keeps_its_state_from_step_to_step(mode: StateMode, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a StatefulSession; its metadata are decoded once a side, however often they are asked for."""
    model = inserted(discriminator(weights()), mode=mode)
    feeds = [{"x": x_of(seed=seed)} for seed in range(3)]
    running = StatefulSession(model)
    expected = [running.run(None, feed) for feed in feeds]
    decoded = list[Model]()

    def counted(model: Model) -> Inserted | None:
        decoded.append(model)
        return read_inserted(model)

    monkeypatch.setattr("sn_graph.runtime.parity.side.read_inserted", counted)
    left, right = (Side(model, label) for label in ("left", "right"))
    result = compare_sides(left, right, feeds)
    assert result.ok
    assert [(row.step, row.output) for row in result.comparisons if row.step == 2] == [
        (2, name) for name in ("y", "features", "sn_u.next", "sn_sigma")
    ]
    assert len(decoded) == 2
    for outputs, (y, features) in zip(left.run(feeds), expected, strict=True):
        np.testing.assert_allclose(outputs["y"], y, rtol=1e-5, atol=1e-5)  # threads may sum in another order
        np.testing.assert_allclose(outputs["features"], features, rtol=1e-5, atol=1e-5)


def test_random_operators_are_noted(text: Build) -> None:
    model = text("g (float[3] x) => (float[3] y) { r = RandomNormalLike(x) y = Add(x, r) }")
    assert any("RandomNormalLike" in note for note in verify(model).notes)


def test_what_can_not_be_run_is_a_model_error(op: Build, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing"):
        verify(tmp_path / "missing.onnx")
    with pytest.raises(ModelError, match="can't load"):
        verify(op("NoSuchOp", [1, 4]))
    with pytest.raises(ModelError, match=r"can't run .* --dim"):
        verify(op("MatMul", ["N", "M"], W), dims={"M": 3})
    assert verify(op("MatMul", ["N", "M"], W)).ok
    assert verify(op("MatMul", ["N", "M"], W), dims={"M": 4}).ok


def test_usage(op: Build) -> None:
    model = op("MatMul", [1, 4], W)
    for options, error in (
        ({"steps": 0}, UsageError),
        ({"providers": ()}, UsageError),
        ({"providers": ("tpu",)}, UsageError),
        ({"dims": {"N": 2}}, UsageError),
    ):
        with pytest.raises(error):
            verify(model, **options)


def test_several_providers(op: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic of cpu,cuda, with the CPU under both names."""
    model = op("MatMul", [1, 4], W)
    if "cuda" not in available_providers():
        with pytest.raises(EnvironmentUnavailable):
            verify(model, providers=("cpu", "cuda"))
    parity = import_module("sn_graph.runtime.parity.compare")  # its name in the package is the function's
    monkeypatch.setattr(parity, "require_provider", lambda _: None)
    monkeypatch.setattr("sn_graph.runtime.parity.side.open_session", lambda source, *_, **__: open_session(source))
    alone = verify(model, providers=("cpu", "cuda"))
    assert [(row.left, row.right, row.provider) for row in alone.comparisons] == [
        ("the first model (cpu)", "the first model (cuda)", "cuda")
    ]
    assert any("TF32 is off" in note for note in alone.notes)
    both = verify(model, model, providers=("cpu", "cuda"))
    assert [row.provider for row in both.comparisons] == ["cpu", "cuda"]


def test_json_is_the_contract() -> None:
    row = Comparison("a", "b", "cpu", 0, "y", math.inf, math.nan, 1e-4, 1e-6, False)
    fields = ["left", "right", "provider", "step", "output", "max_abs", "max_rel_norm", "rtol", "atol", "ok"]
    data = ParityResult((row,), ("note",)).to_json()
    assert list(data) == ["ok", "comparisons", "notes"]
    assert list(data["comparisons"][0]) == fields
    assert (data["comparisons"][0]["max_abs"], data["comparisons"][0]["max_rel_norm"]) == (None, None)
