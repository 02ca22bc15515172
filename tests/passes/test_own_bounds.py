"""A site's own bound and clip, over the plan's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import sn_graph as sn
from tests.support.builders import drawn, initializers, network, node, plan_file
from tests.support.oracle import sigma_max


def test_fold_to_a_weights_own_bound(tmp_path: Path) -> None:
    weights = {"w": drawn(6, 5), "b": drawn(5, 4, seed=1) * np.float32(0.01)}
    source = network([node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "b"])], weights, {"x": ["n", 6]})
    plan = plan_file(source, tmp_path / "plan.json", {"w": {"bound": 2.5}, "b": {"bound": 3.0, "clip": True}})
    result = sn.fold(source, plan=plan)
    folded = initializers(result.to_proto())
    assert sigma_max(folded["w"]) == pytest.approx(2.5, rel=1e-6)
    np.testing.assert_array_equal(folded["b"], weights["b"])
    assert [site.status for site in result.sites] == ["folded", "unchanged"]
    whole = sn.fold(source, plan=plan, bound=0.5, clip=False)
    assert sigma_max(initializers(whole.to_proto())["w"]) == pytest.approx(0.5, rel=1e-6)
