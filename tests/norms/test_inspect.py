"""What inspect reports: exact norms, readings by convention, notes, and refusals that name the weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import sn_graph as sn
from sn_graph.report import Report
from tests.support.builders import DTYPES, drawn, model, node
from tests.support.networks import CASE, CASES, Case, second
from tests.support.oracle import sigma_max

DEPTHWISE, UP, SQUARE = (CASE[name] for name in ("depthwise", "transposed", "square_transposed"))


def inspected(case: Case, dtype: str = "float32", **options: Any) -> Report:
    return sn.inspect(case.model(case.weight(dtype), dtype), **options)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_sigma_is_that_of_svd(case: Case, dtype: str) -> None:
    (site,) = inspected(case, dtype, convention="keras").sites
    assert (site.status, site.sigma_used, site.groups) == ("eligible", None, case.attributes.get("group", 1))
    assert site.sigma == pytest.approx(sigma_max(case.matrix(case.weight(dtype), "keras")), rel=1e-6)


@pytest.mark.parametrize("convention", ["keras", "torch", "torch-parametrization"])
@pytest.mark.parametrize("case", [DEPTHWISE, UP, SQUARE], ids=lambda case: case.name)
def test_readings_list_every_convention_with_its_own_norm(case: Case, convention: str) -> None:
    """The square one has matrices of equal shape and other singular values."""
    (site,) = inspected(case, convention=convention).sites
    assert [reading.convention for reading in site.readings] == ["keras", "torch", "torch-parametrization"]
    for reading in site.readings:
        assert reading.sigma == pytest.approx(sigma_max(case.matrix(case.weight(), reading.convention)), rel=1e-6)
    assert site.sigma in [reading.sigma for reading in site.readings if reading.convention == convention]


def test_readings_of_an_estimate_have_no_norms() -> None:
    (site,) = sn.fold(UP.model(UP.weight()), sigma="power").sites
    assert [reading.sigma for reading in site.readings] == [None] * 3
    assert site.readings[1].matrix == second(UP.weight()).shape


def test_a_weight_that_was_left_out_is_not_measured() -> None:
    weight = np.full(UP.shape, np.nan, np.float32)
    (site,) = sn.inspect(UP.model(weight), exclude=["w"]).sites
    assert (site.status, site.sigma, site.readings) == ("skipped", None, ())
    with pytest.raises(sn.ModelError, match=f"holds {4 * 6 * 3 * 3} NaN values"):
        sn.inspect(UP.model(weight))


def test_a_norm_beyond_float64_is_refused() -> None:
    weight = np.full((7, 5), 1.7e308)
    for sigma in ("exact", "power"):
        with pytest.raises(sn.ModelError, match=r"'w' is so large .*--exclude '\^w\$'"):
            sn.fold(CASES[8].model(weight, "float64"), sigma=sigma)


def test_progress_tells_the_elements_measured() -> None:
    told: list[tuple[str, int, int]] = []
    sn.fold(UP.model(UP.weight()), progress=lambda *step: told.append(step))
    assert told == [("measuring", 4 * 6 * 9, 4 * 6 * 9)]


def test_an_initializer_that_is_an_input_is_noted() -> None:
    model = CASES[8].model(CASES[8].weight())
    model.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [7, 5]))
    assert any("graph input" in note for note in sn.inspect(model).sites[0].notes)
    assert numpy_helper.to_array(model.graph.initializer[0]).shape == (7, 5)


def test_weights_that_an_exporter_has_divided_are_told_from_others_by_number() -> None:
    """`div` alone proves nothing: weight norm leaves such names too, and so do plain networks."""
    w, other = drawn(8, 6), drawn(6, 5, seed=1)
    sigma = sigma_max(w)
    orthogonal = np.linalg.qr(drawn(7, 7, seed=2))[0]  # as networks are initialized: its norm is 1 too
    weights = {"div": w / sigma, "div_1": other, "named": w.T / sigma, "val_3": orthogonal}
    nodes = [node("MatMul", ["x", name], [f"y{place}"]) for place, name in enumerate(weights)]
    made = model(nodes, weights, outputs=tuple(f"y{place}" for place in range(4)))
    forms = {site.weight: (site.form, site.status) for site in sn.inspect(made).sites}
    assert forms == {
        "div": ("folded-by-exporter", "eligible"),
        "div_1": (None, "eligible"),
        "named": (None, "eligible"),
        "val_3": (None, "eligible"),
    }
