"""Insert's state: where u starts, plans, names and metadata, and clients that know nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from safetensors.numpy import save_file

import sn_graph as sn
from sn_graph.choices import ScaleChoice, StateLayoutChoice
from tests.support.builders import Array, drawn, initializers, network, node, plan_file
from tests.support.oracle import power_iteration, seeded
from tests.support.places import ONNX_MODELS
from tests.support.runs import STEPS, close, divided, run_by_name, session

NAMES = ("a", "b")
WEIGHTS = {"a": drawn(5, 7), "b": drawn(7, 6, seed=1)}
X = drawn(2, 5, seed=2)


@pytest.fixture
def model() -> onnx.ModelProto:
    nodes = [node("MatMul", ["x", "a"], ["h"], name="first"), node("MatMul", ["h", "b"], ["y"], name="second")]
    return network(nodes, WEIGHTS, {"x": ("n", 5)}, ("y", "h"))


def start_of(model: onnx.ModelProto) -> Array:
    return initializers(model)["sn_u"]


def metadata(model: onnx.ModelProto) -> dict[str, Any]:
    (entry,) = [entry.value for entry in model.metadata_props if entry.key == "sn_graph"]
    content: dict[str, Any] = json.loads(entry)
    return content


# Where u starts


def test_an_exact_start_is_exact_from_the_first_run(model: onnx.ModelProto) -> None:
    result = sn.insert(model, sigma="exact", convention="keras")
    expected = np.array([np.linalg.svd(w.astype(np.float64), compute_uv=False)[0] for w in WEIGHTS.values()])
    close(np.array([site.sigma for site in result.sites]), expected, 1e-6, "the record's σ")
    first = run_by_name(result.to_proto(), {"x": X})
    close(first["sn_sigma"], expected, 1e-6, "σ of the first run")
    close(np.abs(first["sn_u.next"]), np.abs(start_of(result.to_proto())), 1e-6, "u stays")
    assert all(site.sigma is None and site.sigma_used is None for site in sn.insert(model).sites)


@pytest.mark.parametrize("shape", [(-1,), (1, -1), (-1, 1)])
@pytest.mark.parametrize("where", ["argument", "plan"])
def test_a_state_file_gives_the_first_u(
    where: str, shape: tuple[int, ...], model: onnx.ModelProto, tmp_path: Path
) -> None:
    u = {name: drawn(length, seed=length) for name, length in (("a", 7), ("b", 6))}
    save_file({f"{name}.u": array.reshape(shape) for name, array in u.items()}, tmp_path / "u.safetensors")
    if where == "plan":
        inserted = sn.insert(model, plan=plan_file(model, tmp_path / "p.json", state="u.safetensors")).to_proto()
    else:
        inserted = sn.insert(model, state=tmp_path / "u.safetensors", convention="keras").to_proto()
    np.testing.assert_array_equal(start_of(inserted)[:, 0], np.concatenate([u["a"], u["b"]]))
    sigmas = [power_iteration(WEIGHTS[name].T, u[name])[0] for name in NAMES]
    close(run_by_name(inserted, {"x": X})["sn_sigma"], np.array(sigmas), 1e-5, "σ")


def test_a_state_that_does_not_fit_is_refused(model: onnx.ModelProto, tmp_path: Path) -> None:
    save_file({"a.u": drawn(7)}, tmp_path / "u")
    with pytest.raises(sn.ModelError, match=r"holds no 'b\.u'"):
        sn.insert(model, state=tmp_path / "u", convention="keras")
    plan = plan_file(model, tmp_path / "p.json", state="u")
    assert {site.status for site in sn.insert(model, plan=plan, sigma="exact").sites} == {"inserted"}  # reads none
    save_file({"a.u": drawn(5), "b.u": drawn(6)}, tmp_path / "u")
    with pytest.raises(sn.ModelError, match=r"'a\.u' has shape \[5\]"):
        sn.insert(model, state=tmp_path / "u", convention="keras")


@pytest.mark.parametrize("convention", ["keras", "torch", "torch-parametrization"])
@pytest.mark.parametrize(("k", "seed"), [(1, 0), (3, 7)])
@pytest.mark.parametrize("path", ONNX_MODELS, ids=lambda path: path.stem)
def test_the_first_step_is_fold_by_power(path: Path, k: int, seed: int, convention: str) -> None:
    options: dict[str, Any] = {"power_iterations": k, "seed": seed, "convention": convention, "bound": 2.0}
    result = sn.insert(path, force=True, **options)
    if not any(site.status == "inserted" for site in result.sites):
        pytest.skip("its weights are all computed in the graph, which lift is for")
    inserted, folded = result.to_proto(), sn.fold(path, sigma="power", force=True, **options)
    feed = {}
    for entry in inserted.graph.input[:-1]:
        shape = [d.dim_value or 2 for d in entry.type.tensor_type.shape.dim]
        element = helper.tensor_dtype_to_np_dtype(entry.type.tensor_type.elem_type)
        feed[entry.name] = drawn(*shape) if element == np.float32 else np.ones(shape, element)
    given, expected = run_by_name(inserted, feed), run_by_name(folded.to_proto(), feed)
    for name, array in expected.items():
        close(given[name], array, 2e-5, name)  # sums of up to 8,192 float32 terms, in another order
    used = {site.id: site.sigma_used for site in folded.sites if site.status == "folded"}
    assert [site["id"] for site in metadata(inserted)["sites"]] == list(used)
    close(given["sn_sigma"], np.array(list(used.values())), 1e-5, "σ before the bound")
    onnx.checker.check_model(inserted, full_check=True)


def test_seed_and_id_choose_the_first_u(model: onnx.ModelProto) -> None:
    start = start_of(sn.insert(model, seed=3, convention="keras").to_proto())
    np.testing.assert_array_equal(start[:7, 0], seeded("a", 7, 3).astype(np.float32))
    np.testing.assert_array_equal(start[7:, 0], seeded("b", 6, 3).astype(np.float32))


# Plans


def test_a_site_has_iterations_of_its_own(model: onnx.ModelProto, tmp_path: Path) -> None:
    plan = plan_file(model, tmp_path / "p.json", {"b": {"power_iterations": 5}}, power_iterations=2, bound=0.5)
    inserted = sn.insert(model, plan=plan).to_proto()
    sigmas = {
        name: power_iteration(WEIGHTS[name].T, seeded(name, n), k)[0] for name, n, k in (("a", 7, 2), ("b", 6, 5))
    }
    given = run_by_name(inserted, {"x": X})
    close(given["sn_sigma"], np.array(list(sigmas.values())), 1e-5, "σ")
    halved = divided(model, {name: sigma / 0.5 for name, sigma in sigmas.items()})
    close(given["y"], run_by_name(halved, {"x": X})["y"], 1e-5, "y")
    content = metadata(inserted)
    assert (content["power_iterations"], content["bound"]) == (2, 0.5)
    assert [site.get("power_iterations") for site in content["sites"]] == [None, 5]


@pytest.mark.parametrize("scale", ["input", "weight"])
@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_a_layer_called_twice_advances_u_twice(layout: StateLayoutChoice, scale: ScaleChoice, tmp_path: Path) -> None:
    """Keras's u moves at each call of a layer, and each call divides by its own σ; σ out is the last."""
    weight = drawn(5, 5)
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Tanh", ["h"], ["t"]), node("MatMul", ["t", "w"], ["y"])]
    model = network(nodes, {"w": weight}, {"x": (2, 5)}, ("y", "h"))
    plan = plan_file(model, tmp_path / "p.json", {"w": {"per_use": True, "power_iterations": 2}})
    inserted = sn.insert(model, plan=plan, state_layout=layout, scale=scale).to_proto()
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(inserted))
    assert sn.strip(inserted).to_proto() == model
    u: Array = seeded("w", 5)
    name = "sn_u" if layout == "packed" else "w.sn_u"
    state = {name: u.reshape(-1, 1)}
    for step in range(1, max(STEPS) + 1):
        given = run_by_name(inserted, {"x": X, **state})
        first, u = power_iteration(weight.T, u, 2)
        last, u = power_iteration(weight.T, u, 2)
        if step in STEPS:
            h = X @ (weight / first)
            close(given["h"], h, 1e-5, "the first use")
            close(given["y"], np.tanh(h) @ (weight / last), 1e-5, "the second use")
            close(given[f"{name}.next"], u.reshape(-1, 1), 1e-5, "u")
            close(given[name.replace("sn_u", "sn_sigma")], np.array([last]), 1e-5, "σ")
        state = {name: given[f"{name}.next"]}
    assert metadata(inserted)["sites"][0]["per_use"] is True


def test_a_plan_chooses_the_matrix(tmp_path: Path) -> None:
    """The heads of Keras's EinsumDense split out of (8, 10), which only a plan can know."""
    weight = drawn(8, 10)
    model = network([node("MatMul", ["x", "w"], ["y"])], {"w": weight}, {"x": (3, 8)})
    view = {"split": [8, 2, 5], "perm": [1, 0, 2], "rows": 16, "cols": 5, "side": "cols"}
    inserted = sn.insert(model, plan=plan_file(model, tmp_path / "p.json", {"w": view})).to_proto()
    sigma, u = power_iteration(weight.reshape(8, 2, 5).transpose(1, 0, 2).reshape(16, 5).T, seeded("w", 5))
    given = run_by_name(inserted, {"x": drawn(3, 8)})
    close(given["sn_sigma"], np.array([sigma]), 1e-5, "σ")
    close(given["sn_u.next"], u.reshape(-1, 1), 1e-5, "u")


# Clients


@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_a_client_that_knows_nothing_of_the_state_runs_the_default_model(
    layout: StateLayoutChoice, model: onnx.ModelProto
) -> None:
    running = session(sn.insert(model, state_layout=layout, convention="keras").to_proto())
    assert [one.name for one in running.get_inputs()] == ["x"]
    once, again = running.run(None, {"x": X}), running.run(None, {"x": X})
    assert [one.shape for one in once[:2]] == [(2, 6), (2, 7)]
    sigmas = {name: power_iteration(WEIGHTS[name].T, seeded(name, n))[0] for name, n in (("a", 7), ("b", 6))}
    for ours, theirs in zip(once[:2], session(divided(model, sigmas)).run(None, {"x": X}), strict=True):
        close(ours, theirs, 1e-5, "an old output")
    assert all(np.array_equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_a_required_state_must_be_fed(layout: StateLayoutChoice, model: onnx.ModelProto) -> None:
    running = session(sn.insert(model, state_mode="required", state_layout=layout).to_proto())
    expected = ["x", "sn_u"] if layout == "packed" else ["x", "a.sn_u", "b.sn_u"]
    assert [one.name for one in running.get_inputs()] == expected
    with pytest.raises(ValueError, match="sn_u"):
        running.run(None, {"x": X})


# Names and metadata


def test_metadata_of_the_packed_layout(model: onnx.ModelProto) -> None:
    inserted = sn.insert(model, convention="keras", power_iterations=3).to_proto()
    content = metadata(inserted)
    assert {key: content[key] for key in ("version", "kind", "convention", "power_iterations", "bound", "state")} == {
        "version": 1,
        "kind": "inserted",
        "convention": "keras",
        "power_iterations": 3,
        "bound": 1.0,
        "state": {"layout": "packed", "mode": "default", "input": "sn_u", "output": "sn_u.next", "sigma": "sn_sigma"},
    }
    assert "clip" not in content
    assert metadata(sn.insert(model, clip=True).to_proto())["clip"] is True
    sites = [{key: site[key] for key in ("id", "weight", "u", "sigma")} for site in content["sites"]]
    assert sites == [
        {"id": "a", "weight": "a", "u": [0, 7], "sigma": 0},
        {"id": "b", "weight": "b", "u": [7, 6], "sigma": 1},
    ]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inserted.graph.output}
    assert shapes["sn_u.next"] == [13, 1]
    assert shapes["sn_sigma"] == [2]
    assert all(one.name.startswith("sn/") for one in inserted.graph.node if one.name not in ("first", "second"))


def test_metadata_of_the_per_weight_layout(model: onnx.ModelProto) -> None:
    inserted = sn.insert(model, state_layout="per-weight", state_mode="required", convention="keras").to_proto()
    content = metadata(inserted)
    assert content["state"] == {
        "layout": "per-weight",
        "mode": "required",
        "input": None,
        "output": None,
        "sigma": None,
    }
    assert [(site["u"], site["sigma"]) for site in content["sites"]] == [
        ([f"{name}.sn_u", f"{name}.sn_u.next"], f"{name}.sn_sigma") for name in NAMES
    ]
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in inserted.graph.output}
    assert (shapes["a.sn_u.next"], shapes["b.sn_u.next"], shapes["b.sn_sigma"]) == ([7, 1], [6, 1], [1])


@pytest.mark.parametrize("layout", ["packed", "per-weight"])
def test_names_already_taken_get_a_number(layout: StateLayoutChoice) -> None:
    stem = "" if layout == "packed" else "w."
    taken = [f"{stem}sn_u", f"{stem}sn_u.next", f"{stem}sn_sigma", f"{stem}sn_sigma_1", "sn/w/t", "sn/eps"]
    nodes = [node("MatMul", ["x", "w"], [taken[0]], name="sn/w/sigma")]
    for before, after in zip(taken, [*taken[1:], "y"], strict=True):
        nodes.append(node("Neg", [before], [after]))
    weight = drawn(5, 4)
    model = network(nodes, {"w": weight}, {"x": (2, 5)})
    inserted = sn.insert(model, state_layout=layout, convention="keras").to_proto()
    content = metadata(inserted)
    outputs = [output.name for output in inserted.graph.output]
    assert outputs == ["y", f"{stem}sn_u.next_1", f"{stem}sn_sigma_2"]
    assert inserted.graph.input[-1].name == f"{stem}sn_u_1"
    if layout == "packed":
        assert list(content["state"].values())[2:] == ["sn_u_1", "sn_u.next_1", "sn_sigma_2"]
    else:
        assert content["sites"][0]["u"] == ["w.sn_u_1", "w.sn_u.next_1"]
    sigma, _ = power_iteration(weight.T, seeded("w", 4))
    given = run_by_name(inserted, {"x": X})
    close(given["y"], X @ weight / sigma, 1e-5, "y")
    close(given[f"{stem}sn_sigma_2"], np.array([sigma]), 1e-5, "σ")
    assert sn.strip(inserted).to_proto() == model


def test_inserting_twice_is_refused_with_the_way_out(model: onnx.ModelProto) -> None:
    once = sn.insert(model).to_proto()
    with pytest.raises(sn.ModelError, match="inserted iteration already; take it out with strip first"):
        sn.insert(once)


def test_what_others_keep_in_the_metadata_stays(model: onnx.ModelProto) -> None:
    model.metadata_props.add(key="author", value="me")
    model.doc_string = "a model"
    inserted = sn.insert(model).to_proto()
    assert [entry.key for entry in inserted.metadata_props] == ["author", "sn_graph"]
    assert inserted.doc_string == "a model"
    assert sn.strip(inserted).to_proto() == model


@pytest.mark.parametrize(
    "options",
    [{"state_layout": "loose"}, {"state_mode": "optional"}, {"scale": "output"}, {"sigma": "guess"}, {"bound": 0}],
)
def test_words_that_are_not_known(options: dict[str, Any], model: onnx.ModelProto) -> None:
    with pytest.raises(sn.UsageError):
        sn.insert(model, **options)
