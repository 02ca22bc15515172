"""One session under threads, and forks of it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from sn_graph.runtime.session import StatefulSession
from tests.support.builders import Array
from tests.support.networks import x_of
from tests.support.runs import assert_same_state, inserted, one_thread, stateful

# Threads


def in_threads(work: list[Callable[[], None]]) -> None:
    failures: list[BaseException] = []

    def guarded(task: Callable[[], None]) -> None:
        try:
            task()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(task,)) for task in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures


def test_forks_run_side_by_side_as_if_alone() -> None:
    base = stateful()
    base.run(None, {"x": x_of()})
    inputs = [[x_of(1, 1000 * stream + turn) for turn in range(200)] for stream in range(8)]

    def stream(running: StatefulSession, xs: list[Array], into: list[Array]) -> None:
        for turn, x in enumerate(xs):
            into.append(running.run(["y"], {"x": x})[0])
            if turn % 50 == 0:
                running.normalize_weights()

    alone: list[list[Array]] = [[] for _ in inputs]
    serial = [base.fork() for _ in inputs]
    for running, xs, into in zip(serial, inputs, alone, strict=True):
        stream(running, xs, into)
    together: list[list[Array]] = [[] for _ in inputs]
    parallel = [base.fork() for _ in inputs]
    in_threads(
        [
            lambda running=running, xs=xs, into=into: stream(running, xs, into)  # type: ignore[misc]
            for running, xs, into in zip(parallel, inputs, together, strict=True)
        ]
    )
    for ours, theirs in zip(together, alone, strict=True):
        np.testing.assert_array_equal(np.concatenate(ours), np.concatenate(theirs))
    for running, reference in zip(parallel, serial, strict=True):
        assert running.step == 205
        assert_same_state(running, reference)
    assert base.step == 1


def test_a_shared_state_makes_one_step_a_run() -> None:
    """A lost update would leave u behind the serial one: σ₁/σ₂ is near 1, so it moves through all 1,600 steps."""
    generator = np.random.default_rng(0)
    left, right = (np.linalg.qr(generator.standard_normal((32, 32)))[0] for _ in range(2))
    weight = (left @ np.diag(1.0 - 2e-4 * np.arange(32)) @ right).astype(np.float32)
    proto = helper.make_model(
        helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 32])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 32])],
            [numpy_helper.from_array(weight, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    x = {"x": np.ones((1, 32), np.float32)}
    shared = StatefulSession(inserted(proto), session_options=one_thread())
    serial = shared.fork()
    behind = serial.state()["w"]

    def run_200_times() -> None:
        for _ in range(200):
            shared.run(None, x)

    in_threads([run_200_times] * 8)
    for _ in range(1600):
        behind = serial.state()["w"]
        serial.run(None, x)
    assert shared.step == serial.step == 1600
    assert_same_state(shared, serial)
    assert not np.array_equal(behind, serial.state()["w"])


def test_a_fork_starts_from_a_copy() -> None:
    base = stateful()
    base.run(None, {"x": x_of()})
    fork = base.fork()
    assert (fork.step, fork.sigma) == (1, base.sigma)
    assert_same_state(fork, base)
    before = base.state()
    fork.run(None, {"x": x_of()})
    fork.reset(5)
    assert_same_state(base, before)
    assert (base.step, fork.step) == (1, 0)
