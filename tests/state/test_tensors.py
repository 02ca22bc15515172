"""State tensors: where each site's u and σ stand, packed or each alone, there and back."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

from sn_graph.model import Model
from sn_graph.rewrite.insertion import StateLayout, StateMode
from sn_graph.state import (
    Inserted,
    StateTensor,
    initial_state,
    read_inserted,
    site_vectors,
    state_names,
    state_tensors,
)
from tests.support.builders import drawn, network, node
from tests.support.oracle import seeded
from tests.support.runs import LAYOUTS, MODES, inserted

LENGTHS = {"a": 64, "b": 6}
PACKED = StateTensor("u", "u.next", "sigma", {"a": (slice(0, 3), 0), "b": (slice(3, 5), 1)})


def normalized(
    layout: StateLayout = StateLayout.PACKED, mode: StateMode = StateMode.DEFAULT, seed: int = 0
) -> tuple[Model, Inserted]:
    nodes = [node("MatMul", ["x", "a"], ["h"]), node("MatMul", ["h", "b"])]
    model = inserted(
        network(nodes, {"a": drawn(5, 64), "b": drawn(64, 6, seed=1)}, {"x": (2, 5)}), layout, mode, seed=seed
    )
    found = read_inserted(model)
    assert found is not None
    return model, found


def test_what_is_packed_is_split_again() -> None:
    u = {"a": np.array([1.0, 2.0, 3.0], np.float32), "b": np.array([4.0, 5.0], np.float32)}
    packed = PACKED.pack(u)
    assert PACKED.shape == packed.shape == (5, 1)
    np.testing.assert_array_equal(packed[:, 0], [1, 2, 3, 4, 5])
    again = PACKED.split(packed)
    assert list(again) == list(u)
    for name in u:
        np.testing.assert_array_equal(again[name], u[name])


@pytest.mark.parametrize("shape", [(3,), (3, 1), (1, 3)])
def test_u_may_be_a_row_or_a_column_and_float64(shape: tuple[int, ...]) -> None:
    packed = PACKED.pack({"a": np.arange(3.0).reshape(shape), "b": np.zeros(2)})
    assert packed.dtype == np.float32
    np.testing.assert_array_equal(packed[:, 0], [0, 1, 2, 0, 0])


def test_the_sites_of_one_tensor_may_stand_in_any_order() -> None:
    swapped = StateTensor("u", "u.next", "sigma", {"b": (slice(3, 5), 1), "a": (slice(0, 3), 0)})
    u = {"a": np.ones(3), "b": np.full(2, 2.0)}
    np.testing.assert_array_equal(swapped.pack(u), PACKED.pack(u))


def test_a_part_is_a_view() -> None:
    packed = PACKED.seeded(0)
    PACKED.split(packed)["b"][:] = 7
    np.testing.assert_array_equal(packed[3:, 0], [7, 7])


@pytest.mark.parametrize("seed", [0, 5])
def test_the_seed_of_each_site(seed: int) -> None:
    expected = np.concatenate([seeded("a", 3, seed), seeded("b", 2, seed)])
    np.testing.assert_array_equal(PACKED.seeded(seed)[:, 0], expected)


def test_one_tensor_for_all_sites_or_one_for_each() -> None:
    _, found = normalized()
    assert state_tensors(found) == (
        StateTensor("sn_u", "sn_u.next", "sn_sigma", {"a": (slice(0, 64), 0), "b": (slice(64, 70), 1)}),
    )
    assert state_names(found) == ({"sn_u": "sn_u.next"}, {"sn_sigma"})
    _, found = normalized(StateLayout.PER_WEIGHT, StateMode.REQUIRED)
    assert state_tensors(found) == tuple(
        StateTensor(f"{name}.sn_u", f"{name}.sn_u.next", f"{name}.sn_sigma", {name: (slice(0, length), 0)})
        for name, length in LENGTHS.items()
    )
    pairs = {f"{name}.sn_u": f"{name}.sn_u.next" for name in LENGTHS}
    assert state_names(found) == (pairs, {"a.sn_sigma", "b.sn_sigma"})


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
def test_the_first_values_of_the_state(layout: StateLayout, mode: StateMode) -> None:
    model, found = normalized(layout, mode, seed=3)
    seed = 3 if mode is StateMode.DEFAULT else 4  # a default holds the seed of the insertion
    vectors = site_vectors(model, found, seed=4)
    assert {name: u.shape for name, u in vectors.items()} == {name: (length,) for name, length in LENGTHS.items()}
    for name, u in vectors.items():
        np.testing.assert_array_equal(u, seeded(name, LENGTHS[name], seed))
    start = initial_state(model, found, seed=4)
    names, _ = state_names(found)
    assert list(start) == list(names)
    np.testing.assert_array_equal(np.concatenate(list(start.values()))[:, 0], np.concatenate(list(vectors.values())))


def test_a_default_that_was_changed_counts() -> None:
    model, found = normalized()
    (tensor,) = (one for one in model.proto.graph.initializer if one.name == "sn_u")
    changed = np.arange(70, dtype=np.float32).reshape(70, 1)
    tensor.CopyFrom(numpy_helper.from_array(changed, "sn_u"))
    opened = Model.open(model.to_proto())
    np.testing.assert_array_equal(initial_state(opened, found)["sn_u"], changed)
    np.testing.assert_array_equal(site_vectors(opened, found)["b"], np.arange(64, 70))
