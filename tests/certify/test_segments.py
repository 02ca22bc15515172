"""Cuts against the paths of the graph, and the least product against all ways."""

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sn_graph.certify import Network
from sn_graph.certify.segments import Cuts, least_product, stretches
from tests.support.certified import network, nodes


def drawn(seed: int) -> Network:
    """A random graph of activations and sums."""
    rng = np.random.default_rng(seed)
    values, parts = ["x"], []
    for place in range(int(rng.integers(2, 9))):
        reach = values[-int(rng.integers(1, 4)) :]
        first, second = rng.choice(reach, 2)
        kind = ("Relu", [str(values[-1])]) if rng.random() < 0.4 else ("Add", [str(first), str(second)])
        values.append(f"v{place}")
        parts.append((*kind, values[-1]))
    parts.append(("Neg", [values[-1]], "y"))
    return network(nodes(*parts, x=(1, 3)))


def reaches(made: Network, without: str) -> bool:
    """Whether a path leads from x to the output that misses a value."""
    reached = {"x"} - {without}
    for step in made.steps:
        if step.result != without and any(name in reached for name in step.operands):
            reached.add(step.result)
    return made.output in reached


@pytest.mark.parametrize("seed", range(40))
def test_cuts_are_what_every_path_passes(seed: int) -> None:
    made = drawn(seed)
    cuts = Cuts.of(made)
    expected = [step.result for step in made.steps if not reaches(made, step.result)]
    assert [segment.end for segment in cuts.segments] == expected
    assert tuple(step for segment in cuts.segments for step in segment.steps) == made.steps
    for before, after in pairwise(cuts.segments):
        assert set(after.starts) == {before.end}


def test_sources_jointly_are_no_cut() -> None:
    made = network(nodes(("Relu", ["x"], "a"), ("Add", ["a", "x"], "b"), ("Relu", ["b"], "y"), x=(1, 3)))
    assert [segment.end for segment in Cuts.of(made).segments] == ["b", "y"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 5))
def test_least_product_of_all_ways(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    constants = {(i, i + 1): float(rng.uniform(0.1, 3.0)) for i in range(count)}
    for first, last in combinations(range(count + 1), 2):
        if rng.random() < 0.5:
            constants[first, last] = float(rng.uniform(0.1, 6.0))
    ways = [(0, *inner, count) for size in range(count) for inner in combinations(range(1, count), size)]
    products = [np.prod([constants.get(run, np.inf) for run in pairwise(way)]) for way in ways]
    found = least_product(constants, count)
    assert min(products) <= found.bound <= min(products) * (1.0 + 1e-14)
    assert np.prod([constants[run] for run in found.runs]) == pytest.approx(found.bound, rel=1e-14)


def test_stretches() -> None:
    assert stretches([True, True, False, True]) == [(0, 2), (3, 4)]
    assert stretches([False]) == []
