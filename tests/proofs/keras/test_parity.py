"""Keras 3, live: every layer beside the inserted model, call by call, and models built to trap."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.errors import ModelError, UsageError, VerificationFailed
from sn_graph.frontends.keras import assert_parity, parity
from sn_graph.proofs.keras.reference import KerasReference, unchanged
from sn_graph.runtime import ParityResult
from tools.golden_keras.cases import CASES, POWER_ITERATIONS, Case

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # tensorflow's own imports warn of each other
    pytest.importorskip("tf2onnx", reason="needs the extra keras")
    keras = pytest.importorskip("keras", minversion="3", reason="needs Keras 3, of the extra keras")
    pytest.importorskip("tensorflow", reason="needs the extra keras")
    from tools.golden_keras.live import case_of, joint_inputs, joint_model

layers = keras.layers
SN = layers.SpectralNormalization
CALLS = (1, 10, 100)
RTOL, ATOL, U_WITHIN = 1e-5, 5e-6, 1e-5  # the issue's, for outputs and for u


@pytest.fixture(scope="session")
def joint() -> Callable[[int], ParityResult]:
    """The parity of all cases, by power iterations: one model, for an export takes seconds."""
    known: dict[int, ParityResult] = {}

    def result(iterations: int) -> ParityResult:
        if iterations not in known:
            known[iterations] = parity(joint_model(iterations), CALLS, joint_inputs(), rtol=RTOL, atol=ATOL)
        return known[iterations]

    return result


@pytest.mark.parametrize("iterations", POWER_ITERATIONS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_layer(case: Case, iterations: int, joint: Callable[[int], ParityResult]) -> None:
    rows = [
        (case_of(one.output)[1], one) for one in joint(iterations).comparisons if case_of(one.output)[0] == case.name
    ]
    compared = [(what, one.step + 1) for what, one in rows]
    assert sorted(compared) == sorted((what, call) for call in CALLS for what in ("kernel", "output", "output", "u"))
    assert not [one for _, one in rows if not one.ok]
    assert all(one.max_abs <= U_WITHIN for what, one in rows if what == "u")


def conv_net(**between: Any) -> Any:
    """Two normalized layers; `between` is put behind the first."""
    image = x = keras.Input((6, 6, 3), name="image")
    x = SN(layers.Conv2D(4, 3, 2, "same"), name="conv")(x)
    for layer in between.values():
        x = layer(x)
    return keras.Model(image, SN(layers.Dense(3), power_iterations=2, name="dense")(layers.Flatten()(x)))


def twice() -> Any:
    """A layer that is called twice, so that a call of the model iterates twice, and another one between."""
    x = keras.Input((5,), name="x")
    shared = SN(layers.Dense(5), name="shared")
    return keras.Model(x, shared(SN(layers.Dense(5, activation="tanh"), name="between")(shared(x))))


def nested() -> Any:
    inner = keras.Sequential([keras.Input((6,)), SN(layers.Dense(4), name="same")], name="inner")
    x = keras.Input((6,), name="x")
    return keras.Model(x, SN(layers.Dense(3), name="same")(inner(x)))


def several() -> Any:
    """Inputs and outputs by name, not in alphabetical order."""
    left, right = keras.Input((4,), name="z"), keras.Input((5,), name="a")
    first, second = SN(layers.Dense(3), name="first")(left), SN(layers.Dense(3), name="second")(right)
    return keras.Model({"z": left, "a": right}, {"sum": first + second, "first": first})


def twins() -> Any:
    """Two layers of one kernel, of which one is wrapped."""
    x = keras.Input((6,), name="x")
    wrapped, bare = SN(layers.Dense(4), name="wrapped"), layers.Dense(4, name="bare")
    model = keras.Model(x, [wrapped(x), bare(x)])
    bare.set_weights(wrapped.layer.get_weights())
    return model


def with_zeros() -> Any:
    """A kernel of zeros, which Keras leaves alone, beside one that is not."""
    x = keras.Input((6,), name="x")
    zero = SN(layers.Dense(4, kernel_initializer="zeros", bias_initializer="ones"), name="zero")
    return keras.Model(x, SN(layers.Dense(3), name="other")(x) + zero(x)[:, :3])


def frozen() -> Any:
    """Statistics far from those of a batch, and masks: what training=True would move or draw."""
    norm = layers.BatchNormalization()
    model = conv_net(norm=norm, drop=layers.Dropout(0.5))
    norm.moving_mean.assign(np.linspace(-1, 1, 4))
    norm.moving_variance.assign(np.linspace(0.5, 3, 4))
    return model


@pytest.mark.parametrize("build", [conv_net, twice, nested, several, twins, with_zeros, frozen])
def test_model(build: Callable[[], Any]) -> None:
    keras.utils.set_random_seed(11)
    result = parity(build(), CALLS, rtol=RTOL, atol=ATOL)
    assert not [one for one in result.comparisons if not one.ok]
    assert result.notes == ()
    rows = [one for one in result.comparisons if one.output.endswith(".u")]
    assert {one.step for one in rows} == {0, 9, 99}
    assert all(one.max_abs <= U_WITHIN for one in rows)


def test_a_zero_kernel_stays_and_is_compared() -> None:
    result = parity(with_zeros(), 3)
    rows = [one for one in result.comparisons if one.output.startswith("zero/kernel")]
    assert len(rows) == 6
    assert all(one.max_abs == 0.0 for one in rows)


@settings(max_examples=4, deadline=None)
@given(
    data=st.data(),
    seed=st.integers(0, 2**31 - 1),
    iterations=st.sampled_from(POWER_ITERATIONS),
    scale=st.floats(0.02, 50.0),
)
def test_any_dense_and_convolution(data: st.DataObject, seed: int, iterations: int, scale: float) -> None:
    """Random kernels and sizes. The scale reaches the output, whose tolerance is relative to it."""
    keras.utils.set_random_seed(seed)
    generator = np.random.default_rng(seed)
    groups, channels, filters = (data.draw(st.integers(1, 3)) for _ in range(3))
    image = keras.Input((7, 6, groups * channels), name="image")
    convolution = SN(
        layers.Conv2D(
            groups * filters,
            data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
            strides=data.draw(st.integers(1, 2)),
            padding=data.draw(st.sampled_from(["same", "valid"])),
            groups=groups,
        ),
        power_iterations=iterations,
        name="convolution",
    )
    dense = SN(layers.Dense(data.draw(st.integers(1, 9))), power_iterations=iterations, name="dense")
    model = keras.Model(image, dense(convolution(image)))
    for wrapper in (convolution, dense):
        wrapper.kernel.assign(generator.standard_normal(wrapper.kernel.shape) * scale)
    result = parity(model, (1, 10, 100), seed=seed, rtol=RTOL, atol=ATOL)
    assert not [one for one in result.comparisons if not one.ok]
    assert all(one.max_abs <= U_WITHIN for one in result.comparisons if one.output.endswith(".u"))


@pytest.mark.parametrize("build", [conv_net, twice, nested])
def test_the_reference_is_keras_itself_with_training_true(build: Callable[[], Any]) -> None:
    """Where nothing but the normalization trains, the reference's calls are Keras's own, bit for bit."""
    keras.utils.set_random_seed(5)
    model = build()
    x = np.random.default_rng(0).standard_normal((2, *model.inputs[0].shape[1:])).astype(np.float32)
    with unchanged(model):
        reference = KerasReference(model, ["x"], ["y"])
        ours = [reference.train({"x": x})["y"] for _ in range(3)]
        left_behind = [variable.numpy() for variable in model.variables]
    theirs = [model(x, training=True).numpy() for _ in range(3)]
    np.testing.assert_array_equal(ours, theirs)
    for ours_after, variable in zip(left_behind, model.variables, strict=True):
        np.testing.assert_array_equal(ours_after, variable.numpy())


def test_the_reference_is_normalized_weights_and_inference() -> None:
    """Keras's own method, by hand, is a normalizing call wherever each layer is called once; with BatchNorm too."""
    keras.utils.set_random_seed(6)
    model = frozen()
    x = np.random.default_rng(0).standard_normal((2, 6, 6, 3)).astype(np.float32)
    with unchanged(model):
        reference = KerasReference(model, ["x"], ["y"])
        ours = [reference.train({"x": x})["y"] for _ in range(3)]
    for expected in ours:
        for name in ("conv", "dense"):
            layer = model.get_layer(name)
            u, kernel = layer.normalized_weights()
            layer.vector_u.assign(u)
            layer.kernel.assign(kernel)
        np.testing.assert_array_equal(expected, model(x, training=False).numpy())
    # and it is not training=True there: BatchNorm takes the batch's statistics, Dropout draws
    with unchanged(model):
        assert np.abs(model(x, training=True).numpy() - ours[-1]).max() > 0.1


def test_a_layer_that_is_called_twice_is_normalized_once_by_normalize() -> None:
    keras.utils.set_random_seed(7)
    model = twice()
    shared, x = model.get_layer("shared"), {"x": np.ones((1, 5), np.float32)}
    expected, _ = shared.normalized_weights()
    with unchanged(model):
        KerasReference(model, ["x"], ["y"]).normalize(x)
        np.testing.assert_array_equal(shared.vector_u.numpy(), expected.numpy())
    with unchanged(model):
        KerasReference(model, ["x"], ["y"]).train(x)
        assert not np.array_equal(shared.vector_u.numpy(), expected.numpy())


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_it_was(fails: bool) -> None:
    """Weights, u, BatchNorm, seeds and the optimizer, bit for bit, after a failure too; and it still trains."""
    keras.utils.set_random_seed(8)
    model = frozen()
    model.compile("adam", "mse")
    x, y = np.ones((4, 6, 6, 3), np.float32), np.ones((4, 3), np.float32)
    model.train_on_batch(x, y)
    held = [*model.variables, *model.optimizer.variables]
    before = [variable.numpy().tobytes() for variable in held]
    if fails:
        with pytest.raises(ModelError, match=r"can't run .* on other \[4, 6, 6, 3\]"):
            parity(model, 2, {"other": x})
    else:
        parity(model, 2).raise_if_different()
    assert [variable.numpy().tobytes() for variable in held] == before
    assert not any("call" in vars(layer) for layer in model.layers)
    model.train_on_batch(x, y)
    assert [variable.numpy().tobytes() for variable in held] != before


def test_an_error_in_a_call_leaves_the_model_as_it_was() -> None:
    model = conv_net()
    reference = KerasReference(model, ["x"], ["y"])
    before = [variable.numpy().tobytes() for variable in model.variables]
    with unchanged(model):
        reference.train({"x": np.ones((2, 6, 6, 3), np.float32)})
        with pytest.raises(ModelError, match=r"can't be called on x \[2, 5\]"):
            reference.train({"x": np.ones((2, 5), np.float32)})
    assert [variable.numpy().tobytes() for variable in model.variables] == before
    assert not any("call" in vars(layer) for layer in model.layers)


def test_which_calls_are_compared() -> None:
    model = nested()
    assert {one.step for one in parity(model, 3).comparisons} == {0, 1, 2}
    assert {one.step for one in parity(model, (2, 4)).comparisons} == {1, 3}
    for nothing in (0, (), (0, 1)):
        with pytest.raises(UsageError, match="compare nothing"):
            parity(model, nothing)


def test_a_result_that_differs_is_told() -> None:
    """No two float32 sums agree to the last bit: a tolerance of nothing must fail, in every form."""
    model = conv_net()
    result = parity(model, 2, rtol=0, atol=0)
    assert not result.ok
    with pytest.raises(VerificationFailed, match="outputs differ between the ONNX model"):
        result.raise_if_different()
    with pytest.raises(AssertionError, match=r"comparisons differ\n.* apart, 0 \+ 0 of the largest value allowed"):
        assert_parity(model, 2, rtol=0, atol=0)
    assert_parity(model, 2)


def test_a_model_without_the_layer_is_refused() -> None:
    x = keras.Input((3,), name="x")
    with pytest.raises(ModelError, match="no SpectralNormalization layer"):
        parity(keras.Model(x, layers.Dense(2)(x)))


@pytest.mark.parametrize(("policy", "rtol"), [("mixed_float16", 1e-2), ("float16", 1e-2)])
def test_half_precision_has_its_own_tolerance(policy: str, rtol: float) -> None:
    """Keras rounds the kernel to float16 at every call; that is documented, not imitated."""
    keras.utils.set_random_seed(9)
    x = keras.Input((6, 6, 3), name="image", dtype="float16")
    convolution = SN(layers.Conv2D(4, 3, dtype=policy), name="conv", dtype=policy)
    result = parity(keras.Model(x, convolution(x)), CALLS)
    assert {one.rtol for one in result.comparisons} == {rtol}
    assert not [one for one in result.comparisons if not one.ok]
