"""Plans and targets: what passes and norms take, with nothing left open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sn_graph.model import Model
from sn_graph.plan import make_plan, one_at_a_time
from tests.support.builders import drawn, model, node, only_site, only_target
from tests.support.networks import every_kind, quantized


def test_targets_are_the_eligible_sites() -> None:
    plan = make_plan(every_kind())
    assert [target.id for target in plan.targets()] == [site.id for site in plan.eligible()]
    for target, site in zip(plan.targets(), plan.eligible(), strict=True):
        assert (target.site, target.tensor, target.uses) == (site.site, site.site.tensor, site.uses)
        assert (target.shape, target.view) == (site.site.shape, site.view)
        assert (target.splits, target.power_iterations, target.per_use) == (site.splits, None, False)
    assert [site.target for site in plan.sites if site.status == "skipped"] == [None] * 3


def test_an_eligible_site_without_a_matrix_is_no_target() -> None:
    computed = make_plan(every_kind()).sites[-1]
    assert replace(computed, status="eligible").target is None


@pytest.mark.parametrize("per_use", [False, True])
def test_turns_are_the_uses_that_have_an_iteration_each(per_use: bool) -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Gemm", ["h", "w"])]
    site = replace(only_site(model(nodes, {"w": drawn(4, 4)})), per_use=per_use)
    assert site.target is not None
    assert [use.node.op_type for use in site.target.turns] == ["MatMul", "Gemm"][: 2 if per_use else 1]


def test_a_target_reads_its_weight() -> None:
    weight = drawn(6, 4, 3, 3)
    made = model([node("ConvTranspose", ["x", "w"])], {"w": weight})
    target = only_target(made, convention="torch")
    np.testing.assert_array_equal(target.array(made), weight)
    np.testing.assert_array_equal(target.matrix(made), np.moveaxis(weight, 1, 0).reshape(4, -1))
    with pytest.raises(ValueError, match="read-only"):
        target.array(made)[0] = 0


def test_a_target_dequantizes_its_weight() -> None:
    made = Model.open(quantized())
    target = only_target(made)
    stored = made.array(target.tensor).astype(np.float32)
    np.testing.assert_array_equal(target.matrix(made), stored * np.float32(0.1))
    assert not target.matrix(made).flags.writeable


def test_progress_counts_the_elements_of_eligible_weights() -> None:
    told: list[tuple[str, int, int]] = []
    model = Model.open(every_kind())
    plan = make_plan(model)
    sites = one_at_a_time(model, plan, lambda *step: told.append(step))
    assert [site.id for site in sites] == [site.id for site in plan.sites]
    sizes = np.cumsum([4 * 27, 8 * 9, 5 * 6, 0, 0, 0]).tolist()
    assert told == [("measuring", done, sizes[-1]) for done in sizes]
