"""Two generations of Keras, as recorded: insert, fold and bake give their outputs, kernels, u. No tensorflow here."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from sn_graph.model import Model
from sn_graph.norms import SigmaMethod
from sn_graph.passes import Fold, FoldOptions
from sn_graph.state import State
from tools.golden_keras.cases import CASES, GENERATIONS, POWER_ITERATIONS, STEPS, Case, cases_of
from tools.golden_keras.replay import TOLERANCES, Golden, file_of, load, open_case, plain_model, plan_of, replay

RECORDED = [
    pytest.param(generation, case, iterations, id=f"{generation}-{case.name}-k{iterations}")
    for generation in GENERATIONS
    for case in cases_of(generation)
    for iterations in POWER_ITERATIONS
]
CALLS = (1, 10, 100)


@pytest.mark.parametrize(("generation", "case", "iterations"), RECORDED)
def test_inserted_beside_keras(generation: str, case: Case, iterations: int) -> None:
    """The issue's figures (TOLERANCES) after 1, 10 and 100 calls with training=True."""
    steps = list(replay(load(generation), case, iterations, last=max(CALLS)))
    assert [step.step for step in steps] == list(CALLS)
    assert not [step for step in steps if not step.ok]


@pytest.mark.parametrize(("generation", "case", "iterations"), RECORDED)
def test_folded_beside_one_normalizing_call(generation: str, case: Case, iterations: int) -> None:
    golden = load(generation)
    model = plain_model(golden, case)
    plan = replace(plan_of(model, case, golden.of(case, "kernel").shape), power_iterations=iterations)
    (site,) = plan.eligible()
    options = FoldOptions(SigmaMethod.POWER, state=State({site.id: golden.of(case, "u").reshape(-1)}, {}))
    folded = Fold(options).apply(model, plan).model
    expected = golden.of(case, f"k{iterations}/step1/output")
    assert_outputs(run(folded, golden, case), expected)


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("case", cases_of(GENERATIONS[0]), ids=lambda case: case.name)
def test_baked_beside_the_kernel_that_keras_stored(generation: str, case: Case, tmp_path: Path) -> None:
    """Recorded outputs are those of training=False after the call too, which record.py asserts bit for bit."""
    golden = load(generation)
    session, _ = open_case(golden, case, 1)
    for _ in range(10):
        session.normalize_weights()
    session.bake(tmp_path / "baked.onnx")
    assert_outputs(run(Model.open(tmp_path / "baked.onnx"), golden, case), golden.of(case, "k1/step10/output"))


@pytest.mark.parametrize(("generation", "case", "iterations"), RECORDED)
def test_the_recorded_first_call_is_the_formula(generation: str, case: Case, iterations: int) -> None:
    """What the arrays are compared with must itself be right: Keras's formula in float64, M = kernel.reshape(-1, n)."""
    golden = load(generation)
    kernel, u = golden.of(case, "kernel").astype(np.float64), golden.of(case, "u").astype(np.float64)
    M = kernel.reshape(-1, kernel.shape[-1])
    for _ in range(iterations):
        v = u @ M.T / np.linalg.norm(u @ M.T)
        u = v @ M / np.linalg.norm(v @ M)
    sigma = float((v @ M @ u.T).item())
    assert sigma <= np.linalg.norm(M, 2) * (1 + 1e-12)
    prefix = f"k{iterations}/step1"
    # float32 sums of up to 32 terms: a few units in the last place
    np.testing.assert_allclose(golden.of(case, f"{prefix}/u"), u, rtol=0, atol=2e-6)
    scaled = kernel / sigma
    np.testing.assert_allclose(golden.of(case, f"{prefix}/kernel"), scaled, rtol=0, atol=2e-6 * np.abs(scaled).max())


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_case_is_recorded(generation: str) -> None:
    golden = load(generation)
    keys = {"versions"}
    for case in cases_of(generation):
        keys |= {f"{case.name}/{key}" for key in ("input", "kernel", "u", "onnx")}
        keys |= {
            f"{case.name}/k{iterations}/step{step}/{key}"
            for iterations in POWER_ITERATIONS
            for step in STEPS
            for key in TOLERANCES
        }
    assert golden.arrays.keys() == keys
    for case in cases_of(generation):
        np.testing.assert_array_equal(golden.of(case, "input"), case.input())
    assert any(version.replace("_", "-").startswith(("keras 2.15", "tf-keras 2.21")) for version in golden.versions)


def test_the_files_stay_small() -> None:
    assert sum(file_of(generation).stat().st_size for generation in GENERATIONS) < 3_000_000


def test_what_keras_2_refuses_is_recorded_nowhere() -> None:
    refused = [case.name for case in CASES if case.live_only]
    assert refused == ["depthwise_conv2d", "depthwise_conv2d_one"]
    for generation in GENERATIONS:
        assert not [key for key in load(generation).arrays if key.split("/")[0] in refused]


@pytest.mark.parametrize("wrong", ["u", "kernel", "input", "k2/step10/output", "k2/step10/kernel", "k2/step10/u"])
def test_a_wrong_array_is_seen(wrong: str) -> None:
    """The comparison can fail: one array off by 1e-3 in one element."""
    golden, case = load("2.15"), next(case for case in CASES if case.name == "conv2d_same_strides")
    arrays = dict(golden.arrays)
    name = f"{case.name}/{wrong}"
    moved = arrays[name].copy()
    moved.flat[np.abs(moved).argmax()] *= 1.001
    arrays[name] = moved
    assert not all(step.ok for step in replay(Golden("2.15", arrays), case, 2, last=10))


def run(model: Model, golden: Golden, case: Case) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.to_proto().SerializeToString(), providers=["CPUExecutionProvider"])
    (output,) = session.run(None, {"x": golden.of(case, "input")})
    return np.asarray(output)


def assert_outputs(actual: np.ndarray, expected: np.ndarray) -> None:
    rtol, atol = TOLERANCES["output"]
    assert np.abs(actual - expected).max() <= atol + rtol * np.abs(expected).max()
