"""Fold by estimate: the textbook iteration from the seeded or stored u; bound, clip, plans, per-use iterations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

import sn_graph as sn
from sn_graph.choices import ConventionChoice, SigmaChoice
from tests.support.builders import DTYPES, Array, drawn, initializers, network, node, plan_file, saved, value
from tests.support.networks import CASES, CONVENTIONS, Case
from tests.support.oracle import power_iteration, seeded, sigma_max
from tests.support.runs import run

CONV, MATMUL = CASES[1], CASES[8]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize(("seed", "steps"), [(0, 1), (7, 3), (2**40, 12)])
def test_power_is_the_textbook_iteration_from_the_seeded_u(
    case: Case, convention: ConventionChoice, seed: int, steps: int
) -> None:
    weight = case.weight()
    result = sn.fold(case.model(weight), sigma="power", power_iterations=steps, seed=seed, convention=convention)
    m = case.matrix(weight, convention)
    sigma, _ = power_iteration(m, seeded("w", len(m), seed), steps)
    (site,) = result.sites
    assert site.sigma_used == pytest.approx(sigma, rel=1e-6)
    assert site.sigma is None
    np.testing.assert_allclose(initializers(result.to_proto())["w"], weight / sigma, rtol=1.2e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_power_in_every_type(dtype: str) -> None:
    weight = CONV.weight(dtype)
    (site,) = sn.fold(CONV.model(weight, dtype), sigma="power", power_iterations=2, seed=5).sites
    sigma, _ = power_iteration(CONV.matrix(weight, "keras"), seeded("w", 8, 5), 2)
    assert site.sigma_used == pytest.approx(sigma, rel=1e-6)


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("shape", [(-1,), (1, -1), (-1, 1)])
def test_state_file_gives_u(convention: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    weight = MATMUL.weight()
    m = MATMUL.matrix(weight, convention)
    u = drawn(len(m), seed=3)
    save_file({"w.u": u.reshape(shape), "other.u": u}, tmp_path / "state.safetensors")
    options = {"sigma": "power", "state": tmp_path / "state.safetensors", "power_iterations": 2}
    (site,) = sn.fold(MATMUL.model(weight), convention=convention, **options).sites  # type: ignore[arg-type]
    assert site.sigma_used == pytest.approx(power_iteration(m, u, 2)[0], rel=1e-6)


def test_state_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    model = MATMUL.model(MATMUL.weight())
    for name, length, message in (("w.u", 6, r"has shape \[6\], where \[5\]"), ("v.u", 5, "holds no 'w.u'")):
        save_file({name: np.ones(length, np.float32)}, path)
        with pytest.raises(sn.ModelError, match=message):
            sn.fold(model, sigma="power", state=path)


def test_u_orthogonal_to_the_weight_is_refused(tmp_path: Path) -> None:
    weight = np.zeros((3, 2), np.float32)
    weight[:, 0] = 1.0
    graph = MATMUL.model(weight)
    graph.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 3
    save_file({"w.u": np.array([0, 1], np.float32)}, tmp_path / "u")
    with pytest.raises(sn.ModelError, match=r"orthogonal to it.*another --seed or --state, or use --sigma exact"):
        sn.fold(graph, sigma="power", state=tmp_path / "u")


def test_bound_and_clip() -> None:
    weight = MATMUL.weight()
    sigma = sigma_max(weight)
    model = MATMUL.model(weight)
    to_three = initializers(sn.fold(model, bound=3.0).to_proto())["w"]
    np.testing.assert_allclose(to_three, weight * 3.0 / sigma, rtol=1.2e-6)

    clipped = sn.fold(model, bound=sigma * 1.01, clip=True)
    (site,) = clipped.sites
    assert (site.status, site.sigma_used) == ("unchanged", None)
    assert site.sigma == pytest.approx(sigma, rel=1e-6)
    assert initializers(clipped.to_proto())["w"].tobytes() == weight.tobytes()
    assert sn.fold(model, bound=sigma * 0.99, clip=True).sites[0].status == "folded"


@pytest.mark.parametrize(
    "options",
    [
        {"bound": 0.0},
        {"bound": -1.0},
        {"bound": float("nan")},
        {"bound": float("inf")},
        {"sigma": "guess"},
        {"power_iterations": 0},
        {"convention": "jax"},
        {"include": ["("]},
        {"op_types": ["Relu"]},
    ],
)
def test_arguments_that_are_not_valid(options: dict[str, object]) -> None:
    with pytest.raises(sn.UsageError):
        sn.fold(MATMUL.model(MATMUL.weight()), **options)  # type: ignore[arg-type]


def test_plan_parameters_hold_until_an_argument_overrides_them(tmp_path: Path) -> None:
    weight = MATMUL.weight()
    model = MATMUL.model(weight)
    changes: dict[str, Any] = {"bound": 2.5, "power_iterations": 9, "state": "u.safetensors"}
    plan = plan_file(model, tmp_path / "plan.json", {"w": {"power_iterations": 4}}, **changes)
    u = drawn(5, seed=1)
    save_file({"w.u": u}, tmp_path / "u.safetensors")

    sigma = power_iteration(weight.T.astype(np.float64), u, 4)[0]  # the site's own number of iterations
    by_plan = sn.fold(model, plan=plan, sigma="power")
    assert by_plan.sites[0].sigma_used == pytest.approx(sigma, rel=1e-6)
    np.testing.assert_allclose(initializers(by_plan.to_proto())["w"], weight * 2.5 / sigma, rtol=1.2e-6)
    overridden = initializers(sn.fold(model, plan=plan, sigma="power", bound=1.0).to_proto())["w"]
    np.testing.assert_allclose(overridden, weight / sigma, rtol=1.2e-6)


def test_a_plan_chooses_the_matrix(tmp_path: Path) -> None:
    """EinsumDense (8, 10) with the heads split out: rows 8·2, columns 5, as only the plan can know."""
    weight = drawn(8, 10, seed=1)
    model = network([node("MatMul", ["x", "w"])], {"w": weight}, {"x": (3, 8)})
    changes = {"split": [8, 2, 5], "perm": [1, 0, 2], "rows": 16, "cols": 5, "side": "cols"}
    plan = plan_file(model, tmp_path / "plan.json", {"w": changes})
    m = weight.reshape(8, 2, 5).transpose(1, 0, 2).reshape(16, 5)
    (site,) = sn.fold(model, plan=plan).sites
    assert site.sigma == pytest.approx(sigma_max(m), rel=1e-6)
    (site,) = sn.fold(model, plan=plan, sigma="power").sites
    assert site.sigma_used == pytest.approx(power_iteration(m.T.astype(np.float64), seeded("w", 5), 1)[0], rel=1e-6)


@pytest.mark.parametrize("sigma", ["power", "exact"])
@pytest.mark.parametrize("chain", [False, True])
def test_per_use_divides_each_use_by_its_own_norm(sigma: SigmaChoice, chain: bool, tmp_path: Path) -> None:
    """A layer called three times in a run: iterations 2, 4 and 6, as Keras advances u at each call."""
    weight = drawn(5, 5, seed=1)
    nodes = [node("MatMul", [source, "wt"], [to]) for source, to in (("x", "a"), ("a", "b"), ("b", "y"))]
    start = node("Transpose" if chain else "Identity", ["w"], ["wt"])
    model = network([start, *nodes], {"w": weight}, {"x": (2, 5)})
    model.graph.output[0].CopyFrom(value("y", (2, 5)))
    plan = plan_file(model, tmp_path / "plan.json", {"w": {"per_use": True, "power_iterations": 2}})
    result = sn.fold(model, plan=plan, sigma=sigma)
    onnx.checker.check_model(result.to_proto(), full_check=True)

    m = weight.astype(np.float64)  # read as stored or transposed, u stays on the axis of the outputs
    m = m if chain else m.T
    u: Array = seeded("w", 5)
    sigmas = []
    for _ in range(3):
        estimate, u = power_iteration(m, u, 2)
        sigmas.append(estimate if sigma == "power" else sigma_max(m))
    assert result.sites[0].sigma_used == pytest.approx(sigmas[-1], rel=1e-6)
    x = drawn(2, 5, seed=1)
    read = (weight.T if chain else weight).astype(np.float64)
    expected = x @ (read / sigmas[0]) @ (read / sigmas[1]) @ (read / sigmas[2])
    np.testing.assert_allclose(run(result.to_proto(), {"x": x})[0], expected, rtol=0, atol=3e-6)
    copies = len(result.to_proto().graph.initializer)
    assert copies == (3 if sigma == "power" else 1)  # one norm for all needs no copies
    assert run(model, {"x": x})[0].shape == (2, 5)
    assert saved(result.to_proto(), tmp_path / "out.onnx").exists()


def test_a_small_norm_is_noted() -> None:
    weight = (MATMUL.weight() * 1e-9).astype(np.float32)
    (site,) = sn.fold(MATMUL.model(weight)).sites
    assert any("Keras's own epsilon" in note for note in site.notes)


@pytest.mark.parametrize("shape", [(5, 50), (50, 5), (1, 7), (7, 1), (3, 2000)])
@pytest.mark.parametrize("offset", range(1, 5))
def test_exact_from_unaligned_memory_maps(shape: tuple[int, int], offset: int, tmp_path: Path) -> None:
    """A raw payload starts at any byte of an inline file."""
    weight = drawn(*shape, seed=1)
    case = Case("m", "MatMul", shape, MATMUL.keras, MATMUL.torch, (2, shape[0]))
    model = case.model(weight)
    model.doc_string = "." * offset
    (site,) = sn.fold(saved(model, tmp_path / "in.onnx")).sites
    assert site.sigma == pytest.approx(sigma_max(weight), rel=1e-6)
