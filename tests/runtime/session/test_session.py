"""StatefulSession's runs, against the iteration in float64 and against plain onnxruntime."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from sn_graph.errors import ModelError, UsageError
from sn_graph.rewrite.insertion import StateLayout, StateMode
from sn_graph.runtime.session import StatefulSession
from tests.support.builders import Array
from tests.support.networks import discriminator, matrices, weights, x_of
from tests.support.oracle import power_iteration, seeded
from tests.support.runs import LAYOUTS, MODES, assert_same_state, inserted, one_thread, stateful

# The iteration


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
def test_steps_follow_the_formula(layout: StateLayout, mode: StateMode, dtype: str) -> None:
    if dtype == "float64":  # onnxruntime's CPU has no Conv of doubles
        values = {"a": weights("float64")["dense/kernel"]}
        proto = helper.make_model(
            helper.make_graph(
                [helper.make_node("MatMul", ["x", "a"], ["y"], name="m")],
                "g",
                [helper.make_tensor_value_info("x", TensorProto.DOUBLE, ["n", 96])],
                [helper.make_tensor_value_info("y", TensorProto.DOUBLE, ["n", 5])],
                [numpy_helper.from_array(values["a"], "a")],
            ),
            opset_imports=[helper.make_opsetid("", 17)],
            ir_version=8,
        )
        starts, x = {"a": values["a"].T}, np.random.default_rng(1).standard_normal((2, 96))
        expected: Callable[[dict[str, float]], Array] = lambda sigma: x @ (values["a"] / sigma["a"])  # noqa: E731
        outputs = 1
    else:
        values = weights(dtype)
        proto, starts, x, outputs = discriminator(values, dtype), matrices(values), x_of(dtype=dtype), 2

        def expected(sigma: dict[str, float]) -> Array:
            scaled = {name: value.astype(np.float64) / sigma[name] for name, value in values.items()}
            y, _ = ReferenceEvaluator(discriminator(scaled, "float64")).run(None, {"x": x.astype(np.float64)})
            return np.asarray(y)

    running = StatefulSession(inserted(proto, layout, mode))
    for step in range(1, 101):
        found = running.run(None, {"x": x})
        if step in (1, 10, 100):
            reference = {name: power_iteration(M, seeded(name, len(M)), step) for name, M in starts.items()}
            assert len(found) == outputs
            assert found[0].dtype == x.dtype
            assert running.step == step
            state, sigma = running.state(), running.sigma
            assert list(state) == list(sigma) == list(starts)
            for name, (norm, u) in reference.items():
                assert state[name].shape == u.shape
                assert state[name].dtype == np.float32
                np.testing.assert_allclose(state[name], u, atol=3e-6)  # 30 roundings of float32, once a step
                assert sigma[name] == pytest.approx(norm, rel=2e-6)
            y = expected({name: norm for name, (norm, _) in reference.items()})
            tolerance = 5e-3 if dtype == "float16" else 1e-5  # float16 computes the network in 11 bits
            assert np.max(np.abs(found[0] - y)) <= tolerance * np.max(np.abs(y))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_one_buffer_equals_threading_the_state_by_hand(layout: StateLayout) -> None:
    model = inserted(discriminator(weights()), layout, power_iterations=2)
    running = StatefulSession(model, session_options=one_thread())
    plain = ort.InferenceSession(model.to_proto().SerializeToString(), one_thread())
    names = [value.name for value in plain.get_outputs()]
    fed = {
        value.name: numpy_helper.to_array(next(t for t in model.proto.graph.initializer if t.name == value.name))
        for value in plain.get_overridable_initializers()
    }
    for seed in range(20):
        x = x_of(1 + seed % 3, seed)
        ours = running.run(names, {"x": x})
        theirs = dict(zip(names, plain.run(None, {"x": x, **fed}), strict=True))
        for name, found in zip(names, ours, strict=True):
            np.testing.assert_array_equal(found, theirs[name])
        fed = {name: theirs[f"{name}.next"] for name in fed}


# onnxruntime's semantics


def test_outputs_by_name_and_by_default() -> None:
    running = stateful()
    assert [value.name for value in running.get_inputs()] == ["x"]
    assert [value.name for value in running.get_outputs()] == ["y", "features"]
    assert running.get_providers() == ["CPUExecutionProvider"]
    assert [value.shape for value in running.run(None, {"x": x_of()})] == [(2, 4), (2, 5)]
    assert [value.shape for value in running.run([], {"x": x_of()})] == [(2, 4), (2, 5)]
    features, sigma, again, following = running.run(["features", "sn_sigma", "features", "sn_u.next"], {"x": x_of()})
    np.testing.assert_array_equal(features, again)
    assert sigma.tolist() == list(running.sigma.values())
    np.testing.assert_array_equal(following[:, 0], np.concatenate(list(running.state().values())))
    assert running.step == 3
    running.run(["features"], {"x": x_of()}, ort.RunOptions())
    assert running.step == 4


@pytest.mark.parametrize("layout", LAYOUTS)
def test_required_state_is_no_input_of_the_session(layout: StateLayout) -> None:
    running = stateful(layout, StateMode.REQUIRED)
    assert [value.name for value in running.get_inputs()] == ["x"]
    assert_same_state(running, stateful(layout))


def test_inputs_in_every_shape_that_numpy_has() -> None:
    expected = stateful().run(None, {"x": x_of()})[0]
    for x in (np.asfortranarray(x_of()), x_of().tolist(), np.repeat(x_of(), 2, axis=0)[::2]):
        np.testing.assert_array_equal(stateful().run(None, {"x": x})[0], expected)
    value = ort.OrtValue.ortvalue_from_numpy(x_of())
    np.testing.assert_array_equal(stateful().run(None, {"x": value})[0], expected)


@pytest.mark.parametrize("dtype", [ml_dtypes.bfloat16, np.float16, np.int8, np.uint64, np.bool_])
def test_inputs_and_outputs_of_every_type(dtype: Any) -> None:
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Cast", ["x"], ["f"], to=TensorProto.FLOAT),
                helper.make_node("MatMul", ["f", "w"], ["h"]),
                helper.make_node("Cast", ["h"], ["y"], to=element),
            ],
            "g",
            [helper.make_tensor_value_info("x", element, [2, 4])],
            [helper.make_tensor_value_info("y", element, [2, 4])],
            [numpy_helper.from_array(np.eye(4, dtype=np.float32), "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    x = np.array([[0, 1, 1, 0], [1, 1, 0, 1]]).astype(dtype)
    (y,) = StatefulSession(inserted(proto)).run(None, {"x": x})
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def test_strings_and_sequences_pass_through(text: Callable[..., onnx.ModelProto]) -> None:
    graph = """g (float[2,3] x, string[2] s) => (float[2,2] y, string[2] t, seq(float[1,3]) parts) {
        y = MatMul(x, w)
        t = Identity(s)
        parts = SplitToSequence <axis: int = 0> (x)
    }"""
    proto = text(graph)
    weight = np.random.default_rng(0).standard_normal((3, 2)).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    running = StatefulSession(inserted(proto))
    feed = {"x": np.ones((2, 3), np.float32), "s": np.array(["a", "ü"], object)}
    for step in (1, 2):
        y, t, parts = running.run(None, feed)
        sigma, u = power_iteration(weight.T.astype(np.float64), seeded("w", 2), step)
        np.testing.assert_allclose(running.state()["w"], u, atol=1e-6)
        np.testing.assert_allclose(y, feed["x"] @ weight / sigma, rtol=1e-5)
        assert t.tolist() == ["a", "ü"]
        assert [part.shape for part in parts] == [(1, 3), (1, 3)]
    following, t = running.run(["sn_u.next", "t"], feed)
    np.testing.assert_array_equal(following[:, 0], running.state()["w"])


@pytest.mark.parametrize(
    ("feed", "told"),
    [
        ({}, "input 'x' is missing"),
        ({"x": x_of().astype(np.float64)}, r"on x \[2, 3, 8, 8\].*tensor\(double\)"),
        ({"x": x_of()[0]}, "Invalid rank"),
        ({"x": x_of(), "z": x_of()}, "z"),
    ],
)
def test_a_refused_feed_is_one_line_and_no_step(
    feed: dict[str, Array], told: str, capfd: pytest.CaptureFixture[str]
) -> None:
    running = stateful()
    with pytest.raises(ModelError, match=told) as caught:
        running.run(None, feed)
    assert "\n" not in str(caught.value)
    assert running.step == 0
    assert_same_state(running, stateful())
    with pytest.raises(ModelError, match="nope"):
        running.run(["nope"], {"x": x_of()})
    assert capfd.readouterr() == ("", "")


def test_the_state_can_not_be_fed() -> None:
    with pytest.raises(UsageError, match="'sn_u' is the state"):
        stateful().run(None, {"x": x_of(), "sn_u": np.ones((16, 1), np.float32)})


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_run_that_fails_in_a_node_is_no_step(layout: StateLayout) -> None:
    """The iterations come first, so u.next stands in the buffer already when the last node fails."""
    proto = discriminator(weights())
    proto.graph.input.append(helper.make_tensor_value_info("i", TensorProto.INT64, [1]))
    proto.graph.node.append(helper.make_node("Gather", ["y", "i"], ["z"], axis=1))
    proto.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, None))
    running = StatefulSession(inserted(proto, layout))
    good, bad = ({"x": x_of(), "i": np.array([index])} for index in (3, 4))
    running.run(None, good)
    before, sigma = running.state(), running.sigma
    with pytest.raises(ModelError, match="Gather"):
        running.run(None, bad)
    assert_same_state(running, before)
    assert (running.step, running.sigma) == (1, sigma)


@pytest.mark.parametrize("capture", [{}, {"enable_cuda_graph": "1"}], ids=["plain", "fixed addresses"])
def test_a_run_reads_no_state_back(capture: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    running = StatefulSession(inserted(discriminator(weights())), [("CPUExecutionProvider", capture)])
    running.run(None, {"x": x_of()})
    reads: list[tuple[int, ...]] = []
    real = ort.OrtValue.numpy

    def noted(self: ort.OrtValue) -> Any:
        reads.append(tuple(self.shape()))
        return real(self)

    monkeypatch.setattr(ort.OrtValue, "numpy", noted)
    found = running.run(None, {"x": x_of(seed=1)})
    assert reads == [array.shape for array in found]  # u and σ stay where they are


def test_nothing_that_the_caller_holds_changes_later() -> None:
    running = stateful()
    x = x_of()
    held = [*running.run(["y", "features", "sn_u.next", "sn_sigma"], {"x": x}), *running.state().values()]
    sigma = running.sigma
    copies, kept = [array.copy() for array in held], dict(sigma)
    for seed in range(5):
        running.run(["y", "features", "sn_u.next", "sn_sigma"], {"x": x_of(seed=seed)})
        running.normalize_weights()
    running.reset(3)
    for array, copy in zip(held, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
    assert sigma == kept
    np.testing.assert_array_equal(x, x_of())
    before = running.state()
    for array in running.state().values():
        array[:] = 7.0
    assert_same_state(running, before)


# CUDA graphs, as far as a CPU can show them: fixed addresses, and a first run that computes more than once


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fixed_addresses(layout: StateLayout, monkeypatch: pytest.MonkeyPatch) -> None:
    model = inserted(discriminator(weights()), layout)
    plain = StatefulSession(model)
    real, seen = ort.InferenceSession.run_with_iobinding, list[tuple[Any, list[int]]]()

    def capturing(self: Any, binding: Any, options: Any = None) -> None:
        addresses = [value.data_ptr() for value in binding.get_outputs() if value.has_value()]
        for _ in range(1 if seen else 3):
            real(self, binding, options)
        seen.append((binding, [value.data_ptr() for value in binding.get_outputs()]))
        assert len(seen) == 1 or addresses == seen[-1][1] == seen[0][1]

    fixed = StatefulSession(model, [("CPUExecutionProvider", {"enable_cuda_graph": "1"})])
    inputs = [x_of(seed=seed) for seed in range(5)]
    for x in inputs:
        expected = plain.run(None, {"x": x})
        with monkeypatch.context() as patched:
            patched.setattr(ort.InferenceSession, "run_with_iobinding", capturing)
            found = fixed.run(None, {"x": x})
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert_same_state(fixed, plain)
        assert fixed.step == plain.step
    assert len({id(binding) for binding, _ in seen}) == 1
    np.testing.assert_array_equal(inputs, [x_of(seed=seed) for seed in range(5)])
    (following,) = fixed.run(["features"], {"x": x_of()})
    np.testing.assert_array_equal(following, plain.run(["features"], {"x": x_of()})[0])
    with pytest.raises(UsageError, match="captured for other inputs"):
        fixed.run(None, {"x": x_of(3)})
    with pytest.raises(UsageError, match="open another StatefulSession"):
        fixed.fork()
    fixed.normalize_weights()
    plain.normalize_weights()
    fixed.reset()
    plain.reset()
    np.testing.assert_array_equal(fixed.run(["y"], {"x": x_of()})[0], plain.run(["y"], {"x": x_of()})[0])
    assert_same_state(fixed, plain)
