"""Pictures of the graph around a weight."""

from __future__ import annotations

import pytest

import sn_graph as sn
from sn_graph.model import Model
from sn_graph.norms import inspect
from sn_graph.plan import build_plan
from sn_graph.report import Picture, SiteRecord
from sn_graph.sites import Surroundings
from tests.support.builders import drawn, network, node

NODES = [
    node("Relu", ["x"], ["r"], name="/relu"),
    node("Transpose", ["w"], ["wt"], name="/transpose", perm=[1, 0]),
    node("MatMul", ["r", "wt"], ["h"], name="/first"),
    node("MatMul", ["h", "v"], ["y"], name="/second"),
]
PROTO = network(NODES, {"w": drawn(5, 4), "v": drawn(5, 3)}, {"x": (1, 4)}, ["y"])


def sites() -> dict[str, SiteRecord]:
    model = Model.open(PROTO)
    return {site.id: site for site in inspect(model, build_plan(model)).sites}


def arrows(picture: Picture) -> set[tuple[str, str]]:
    """The arrows by what they join: a box's name, or its title where it has none."""
    names = [box.name or box.title for box in picture.boxes]
    return {(names[start], names[end]) for start, end in picture.arrows}


def test_what_is_read_beside_it_and_who_reads_on() -> None:
    surroundings = Surroundings(Model.open(PROTO).graph)
    first, second = surroundings.picture(sites()["w"]), surroundings.picture(sites()["v"])
    assert first is not None
    assert second is not None
    assert arrows(first) == {("w", "Transpose"), ("Transpose", "/first"), ("/relu", "/first"), ("/first", "/second")}
    assert arrows(second) == {("v", "/second"), ("/first", "/second"), ("/second", "y")}
    assert {box.kind for box in second.boxes} == {"weight", "node", "output"}


def test_an_insertion_is_drawn_around_the_same_nodes() -> None:
    inserted = sn.insert(PROTO)
    picture = Surroundings(inserted.model.graph).picture(sites()["v"])
    assert picture is not None
    added = [box.title for box in picture.boxes if box.kind == "added"]
    assert added[0] == "power iteration"
    assert len(added) == 2
    scaled = next(box.name for box in picture.boxes if box.kind == "added" and box.name.startswith("sn/"))
    assert {("v", "u, σ"), ("u, σ", scaled), (scaled, "/second"), ("v", "/second")} <= arrows(picture)


def test_many_uses_are_counted() -> None:
    nodes = [node("MatMul", ["x", "w"], [f"y{place}"], name=f"/use{place}") for place in range(7)]
    model = Model.open(network(nodes, {"w": drawn(4, 4)}, {"x": (1, 4)}, [f"y{place}" for place in range(7)]))
    (site,) = inspect(model, build_plan(model)).sites
    picture = Surroundings(model.graph).picture(site)
    assert picture is not None
    assert picture.more == 4
    assert sum(box.title == "MatMul" for box in picture.boxes) == 3


@pytest.mark.parametrize("consumer", ["/gone", "/relu"])
def test_a_weight_whose_reader_is_gone_or_another_has_no_picture(consumer: str) -> None:
    from dataclasses import replace

    site = replace(sites()["v"], consumers=(consumer,))
    assert Surroundings(Model.open(PROTO).graph).picture(site) is None
