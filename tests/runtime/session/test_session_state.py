"""The state that a session keeps: read, reset, saved, loaded, and advanced by itself."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from sn_graph.errors import ModelError, UsageError
from sn_graph.model import Model
from sn_graph.rewrite.insertion import StateLayout, StateMode
from sn_graph.runtime.session import StatefulSession
from sn_graph.state import skeleton_hash
from tests.support.networks import branched, discriminator, matrices, quantized, weights, x_of
from tests.support.oracle import seeded
from tests.support.runs import LAYOUTS, MODES, assert_same_state, inserted, one_thread, stateful

# The state by itself


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_normalize_weights_is_a_run_without_the_network(layout: StateLayout, mode: StateMode) -> None:
    ran, alone = stateful(layout, mode, power_iterations=3), stateful(layout, mode, power_iterations=3)
    for step in range(1, 6):
        ran.run(None, {"x": x_of()})
        alone.normalize_weights()
        assert alone.step == step
        assert alone.sigma == ran.sigma
        assert_same_state(alone, ran)
    np.testing.assert_array_equal(ran.run(None, {"x": x_of()})[0], alone.run(None, {"x": x_of()})[0])


def test_normalize_weights_of_quantized_and_captured_weights() -> None:
    for proto in (quantized(), branched()):
        ran, alone = (StatefulSession(inserted(proto)) for _ in range(2))
        ran.run(None, {"x": np.ones((1, 6), np.float32)})
        alone.normalize_weights()
        assert_same_state(alone, ran)
        assert alone.sigma == ran.sigma


def test_sigma_before_the_first_run_is_refused() -> None:
    running = stateful()
    for ask in (lambda: running.sigma, lambda: running.bake("never.onnx")):
        with pytest.raises(UsageError, match="run the model or normalize_weights"):
            ask()
    running.normalize_weights()
    assert len(running.sigma) == 3
    running.reset()
    with pytest.raises(UsageError):
        _ = running.sigma


@pytest.mark.parametrize("layout", LAYOUTS)
def test_reset(layout: StateLayout) -> None:
    own = stateful(layout, seed=4)
    running = own.fork()
    running.run(None, {"x": x_of()})
    running.reset()
    assert running.step == 0
    assert_same_state(running, own)
    assert_same_state(own, {name: seeded(name, len(M), 4) for name, M in matrices(weights()).items()})
    running.reset(9)
    assert_same_state(running, {name: seeded(name, len(M), 9) for name, M in matrices(weights()).items()})
    required = stateful(layout, StateMode.REQUIRED, seed=4)  # whose u the file does not hold
    assert_same_state(required, {name: seeded(name, len(M), 0) for name, M in matrices(weights()).items()})


# State files


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_saved_state_goes_on_where_it_was(layout: StateLayout, tmp_path: Path) -> None:
    running, path = stateful(layout), tmp_path / "state.safetensors"
    for _ in range(3):
        running.run(None, {"x": x_of()})
    running.save_state(path)
    stored = load_file(path)
    assert {name: array.shape for name, array in stored.items()} == {
        "conv/kernel.u": (6,),
        "conv/kernel.sigma": (),
        "dense/kernel.u": (5,),
        "dense/kernel.sigma": (),
        "head/kernel.u": (4,),
        "head/kernel.sigma": (),
    }
    with safe_open(path, "numpy") as file:
        header = file.metadata()
    model = skeleton_hash(Model.open(discriminator(weights())))
    assert header == {"sn_graph": "1", "model": model, "convention": "keras", "step": "3"}
    others = [stateful(other, mode) for other in StateLayout for mode in StateMode]
    for other in others:
        other.load_state(path)
    started = StatefulSession(inserted(discriminator(weights()), layout), state=path, session_options=one_thread())
    expected = running.sigma
    running.run(None, {"x": x_of()})
    for other in [*others, started]:
        assert (other.step, other.sigma) == (3, expected)
        other.run(None, {"x": x_of()})
        assert other.step == 4
        assert_same_state(other, running)
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_without_sigma(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    fresh = stateful(seed=2)
    fresh.save_state(path)
    assert {name.rpartition(".")[2] for name in load_file(path)} == {"u"}
    running = stateful()
    running.run(None, {"x": x_of()})
    running.load_state(path)
    assert running.step == 0
    assert_same_state(running, fresh)
    with pytest.raises(UsageError, match="no σ is known"):
        _ = running.sigma


def test_a_state_that_does_not_fit_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    other = discriminator(weights())
    other.graph.node[0].name = "another"
    foreign = StatefulSession(inserted(other))
    running = stateful()
    running.run(None, {"x": x_of()})
    before = running.state()
    foreign.save_state(path)
    for told, tensors in (
        ("another model", None),
        ("holds no 'head/kernel.u'", {name: u for name, u in before.items() if name != "head/kernel"}),
        (r"\[4\] is needed", {**before, "head/kernel": np.ones(5, np.float32)}),
    ):
        if tensors is not None:
            save_file({f"{name}.u": u for name, u in tensors.items()}, path)
        with pytest.raises(ModelError, match=told):
            running.load_state(path)
        with pytest.raises(ModelError, match=told):
            StatefulSession(inserted(discriminator(weights())), state=path)
        assert_same_state(running, before)
        assert running.step == 1
