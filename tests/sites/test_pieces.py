"""Pieces: weights that are cut, joined, or handed on by bodies are measured, folded, and inserted where one σ fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

import sn_graph as sn
from sn_graph import proofs
from tests.support.builders import (
    Array,
    branch,
    constant,
    drawn,
    graph,
    initializers,
    model,
    network,
    node,
    sites,
    value,
)
from tests.support.oracle import power_iteration, seeded, sigma_max
from tests.support.runs import close, run, run_by_name, shaped, strips_to


def projections(sizes: tuple[int, ...], inputs: int, how: str, transposed: bool = False) -> onnx.ModelProto:
    """Several products by parts of one stored tensor, along its second axis, or its first behind a Transpose."""
    total, names = sum(sizes), [f"part{place}" for place in range(len(sizes))]
    nodes: list[onnx.NodeProto] = []
    held: dict[str, Array] = {"w": drawn(total, inputs) if transposed else drawn(inputs, total)}
    axis = 0 if transposed else 1
    cut = [f"{name} cut" for name in names] if transposed else names
    if how == "Split":
        held["sizes"] = np.array(sizes)
        nodes.append(node("Split", ["w", "sizes"], cut, axis=axis))
    else:
        ends = np.cumsum(sizes)
        for place, name in enumerate(cut):
            held |= {f"from{place}": ends[place : place + 1] - sizes[place], f"to{place}": ends[place : place + 1]}
            nodes.append(node("Slice", ["w", f"from{place}", f"to{place}", "axis"], [name]))
        held["axis"] = np.array([axis])
    if transposed:
        nodes += [node("Transpose", [one], [name], perm=[1, 0]) for one, name in zip(cut, names, strict=True)]
    nodes += [node("MatMul", ["x", name], [f"y{place}"]) for place, name in enumerate(names)]
    return network(nodes, held, {"x": (3, inputs)}, [f"y{place}" for place in range(len(sizes))])


def folded(proto: onnx.ModelProto, folder: Path) -> onnx.ModelProto:
    """What fold writes, proved by running it."""
    assert proofs.save(sn.fold(proto), folder / "out.onnx").verified == "run"
    written = onnx.load(folder / "out.onnx")
    onnx.checker.check_model(shaped(written))
    return written


def scaled(proto: onnx.ModelProto, factors: Mapping[str, float]) -> onnx.ModelProto:
    """A copy with some initializers multiplied."""
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    for tensor in copy.graph.initializer:
        if tensor.name in factors:
            array = (onnx.numpy_helper.to_array(tensor).astype(np.float64) * factors[tensor.name]).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return copy


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple),
    inputs=st.integers(2, 6),
    how=st.sampled_from(["Split", "Slice"]),
    transposed=st.booleans(),
)
def test_parts_of_one_tensor_are_its_own_site(
    tmp_path_factory: pytest.TempPathFactory, sizes: tuple[int, ...], inputs: int, how: str, transposed: bool
) -> None:
    proto = projections(sizes, inputs, how, transposed)
    exact = sigma_max(initializers(proto)["w"])
    (found,) = sn.inspect(proto).sites
    assert (found.id, found.status) == ("w", "eligible")
    assert found.sigma == pytest.approx(exact, rel=1e-6)
    written = folded(proto, tmp_path_factory.mktemp("fold"))
    x = {"x": drawn(3, inputs, seed=1)}
    for name, expected in run_by_name(scaled(proto, {"w": 1.0 / exact}), x).items():
        np.testing.assert_allclose(run_by_name(written, x)[name], expected, atol=1e-5)
    inserted = sn.insert(proto, convention="keras").to_proto()
    strips_to(inserted, proto)
    weight = initializers(proto)["w"]
    whole = weight if transposed else weight.T
    sigma, _ = power_iteration(whole, seeded("w", sum(sizes)))
    by_name = run_by_name(inserted, x)
    for name, expected in run_by_name(scaled(proto, {"w": 1.0 / sigma}), x).items():
        close(by_name[name], expected, 1e-4, name)


def test_the_note_tells_that_the_whole_counts() -> None:
    (found,) = sn.inspect(projections((2, 3), 4, "Split")).sites
    assert found.via == ("Split",)
    assert any("cut into parts by" in note and "the whole stored tensor" in note for note in found.notes)


def test_insert_scales_no_weight_that_is_cut() -> None:
    (found,) = sn.insert(projections((2, 3), 4, "Split"), scale="weight", force=True).sites
    assert (found.status, "fold it instead" in (found.reason or "")) == ("skipped", True)


def test_the_operator_norm_is_of_no_part() -> None:
    (found,) = sn.inspect(projections((2, 3), 4, "Split"), norm="operator").sites
    assert (found.status, "use --norm matrix" in (found.reason or "")) == ("skipped", True)


def test_a_part_that_something_else_reads_too() -> None:
    proto = projections((2, 3), 4, "Split")
    proto.graph.node.append(node("Add", ["part0", "part0"], ["twice"]))
    proto.graph.output.append(value("twice"))
    (found,) = sn.inspect(proto).sites
    assert (found.id, found.status) == ("w", "skipped")
    assert "is cut into parts by Split#0, and not all its readers get the same tensor" in (found.reason or "")


def joined(axis: int, layout: bool = False) -> onnx.ModelProto:
    shapes = [(4, 3), (4, 2)] if axis else [(3, 4), (2, 4)]
    held = {f"w{place}": drawn(*shape, seed=place) for place, shape in enumerate(shapes)}
    nodes = [node("Concat", ["w0", "w1"], ["m"], axis=axis)]
    inputs = 4 if axis else 5
    if layout:
        nodes.append(node("Transpose", ["m"], ["t"], perm=[1, 0]))
        inputs = 5 if axis else 4
    nodes.append(node("MatMul", ["x", "t" if layout else "m"]))
    return network(nodes, held, {"x": (3, inputs)})


@pytest.mark.parametrize("layout", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
def test_joined_weights_are_a_site_each(axis: int, layout: bool, tmp_path: Path) -> None:
    proto = joined(axis, layout)
    exact = {name: sigma_max(array) for name, array in initializers(proto).items()}
    assert {site.id: site.sigma for site in sn.inspect(proto).sites} == {
        name: pytest.approx(sigma, rel=1e-6) for name, sigma in exact.items()
    }
    written = folded(proto, tmp_path)
    x = {"x": drawn(*[dim.dim_value for dim in proto.graph.input[0].type.tensor_type.shape.dim], seed=5)}
    wanted = scaled(proto, {name: 1.0 / sigma for name, sigma in exact.items()})
    np.testing.assert_allclose(run(written, x)[0], run(wanted, x)[0], atol=1e-5)
    for site in sn.insert(proto, force=True).sites:
        assert (site.status, "joined with other weights by Concat#0" in (site.reason or "")) == ("skipped", True)


def test_what_is_joined_with_an_activation_is_no_weight() -> None:
    nodes = [node("Concat", ["token", "x"], ["m"], axis=0), node("MatMul", ["m", "w"])]
    assert list(sites(model(nodes, {"token": drawn(1, 4), "w": drawn(4, 6)}))) == ["w"]


def test_a_weight_joined_with_a_computed_one_is_listed_with_that() -> None:
    nodes = [node("Mul", ["v", "v"], ["square"]), node("Concat", ["w", "square"], ["m"], axis=0)]
    (found,) = sites(model([*nodes, node("MatMul", ["x", "m"])], {"w": drawn(2, 6), "v": drawn(2, 6)})).values()
    assert (found.id, found.status) == ("m", "skipped")
    assert "computed in the graph by Concat, Mul" in (found.reason or "")


@pytest.mark.parametrize("layout", [["Flatten"], ["Reshape"]])
def test_what_would_mix_parts_is_listed_as_computed(layout: list[str]) -> None:
    held = {"w": drawn(6, 4), "sizes": np.array([2, 4]), "shape": np.array([4, 2])}
    inputs = ["a", "shape"] if layout == ["Reshape"] else ["a"]
    nodes = [node("Split", ["w", "sizes"], ["a", "b"]), node(layout[0], inputs, ["m"]), node("MatMul", ["x", "m"])]
    (found,) = sites(model(nodes, held)).values()
    assert (found.id, found.status) == ("m", "skipped")


def test_groups_of_a_part() -> None:
    nodes = [node("Split", ["w", "sizes"], ["a", "b"]), node("Conv", ["x", "a"], group=2)]
    (found,) = sites(model(nodes, {"w": drawn(8, 1, 3, 3), "sizes": np.array([4, 4])})).values()
    assert (found.id, found.status) == ("w", "skipped")
    assert "a convolution with groups" in (found.reason or "")


# Bodies


def chosen() -> onnx.ModelProto:
    """A product by one of two weights, one of a branch's own and one captured."""
    own, captured = (
        branch([node("Identity", ["own"], ["p"])], {"own": drawn(4, 6, seed=1)}),
        branch([node("Identity", ["w"], ["q"])]),
    )
    choice = node("If", ["c"], ["n"], name="choice", then_branch=own, else_branch=captured)
    proto = network([choice, node("MatMul", ["x", "n"])], {"w": drawn(4, 6)}, {"x": (3, 4), "c": ()})
    proto.graph.input[1].CopyFrom(value("c", (), TensorProto.BOOL))
    return proto


@pytest.mark.parametrize("taken", [True, False])
def test_weights_that_an_if_chooses(taken: bool, tmp_path: Path) -> None:
    proto = chosen()
    (own,) = (one.g.initializer[0] for one in proto.graph.node[0].attribute if one.name == "then_branch")
    weights = {"choice/then_branch::own": onnx.numpy_helper.to_array(own), "w": initializers(proto)["w"]}
    exact = {name: sigma_max(array) for name, array in weights.items()}
    found = {site.id: site for site in sn.inspect(proto).sites}
    assert {name: site.sigma for name, site in found.items()} == {
        name: pytest.approx(sigma, rel=1e-6) for name, sigma in exact.items()
    }
    assert "handed on by the body of If (node 'choice')" in found["w"].notes[0]
    written = folded(proto, tmp_path)
    feeds = {"x": drawn(3, 4, seed=2), "c": np.array(taken)}
    sigma = exact["choice/then_branch::own" if taken else "w"]
    np.testing.assert_allclose(run(written, feeds)[0], run(proto, feeds)[0] / sigma, atol=1e-5)
    for site in sn.insert(proto, force=True).sites:
        assert (site.status, "fold it instead" in (site.reason or "")) == ("skipped", True)


def looped(after: str) -> onnx.ModelProto:
    """x ← x W three times over, W handed to the loop as a value that it carries."""
    body = graph(
        [node("Identity", ["go"], ["on"]), node("MatMul", ["h", "k"], ["h2"]), node(after, ["k"], ["k2"])],
        {},
        ("turn", "go", "h", "k"),
        ("on", "h2", "k2"),
    )
    for index, code in enumerate((TensorProto.INT64, TensorProto.BOOL)):
        body.input[index].CopyFrom(value(body.input[index].name, (), code))
    body.output[0].CopyFrom(value("on", (), TensorProto.BOOL))
    loop = node("Loop", ["count", "", "x", "w"], ["y", "last"], name="turns", body=body)
    return network(
        [loop, node("MatMul", ["y", "last"], ["z"])], {"w": drawn(4, 4), "count": np.array(3)}, {"x": (3, 4)}, ["z"]
    )


def test_a_carried_weight_that_no_turn_changes(tmp_path: Path) -> None:
    proto = looped("Identity")
    exact = sigma_max(initializers(proto)["w"])
    (found,) = sn.inspect(proto).sites
    assert (found.id, len(found.consumers)) == ("w", 2)
    assert found.sigma == pytest.approx(exact, rel=1e-6)
    written = folded(proto, tmp_path)
    x = {"x": drawn(3, 4, seed=2)}
    close(run(written, x)[0], run(proto, x)[0] / exact**4, 1e-5, "three turns and one behind them")
    (kept,) = sn.insert(proto, force=True).sites
    assert (kept.status, "handed on by Loop (node 'turns')" in (kept.reason or "")) == ("skipped", True)


def test_a_carried_weight_whose_last_value_nobody_reads() -> None:
    proto = looped("Identity")
    proto.graph.node[0].output[1] = ""
    proto.graph.node.pop()
    proto.graph.output[0].CopyFrom(value("y"))
    (record,) = sn.fold(proto).sites
    assert (record.id, record.status) == ("w", "folded")


def test_a_carried_weight_that_turns_change() -> None:
    found = {site.id: site.reason for site in sn.inspect(looped("Neg")).sites}
    assert list(found) == ["turns/body::k"]
    assert "that each turn may replace" in str(found["turns/body::k"])


def test_an_if_between_a_constant_state_and_a_fed_one_is_no_weight() -> None:
    bodies = branch([constant("p", drawn(3, 4))]), branch([node("Identity", ["x"], ["q"])])
    choice = node("If", ["c"], ["n"], then_branch=bodies[0], else_branch=bodies[1])
    found = sites(model([choice, node("MatMul", ["n", "w"])], {"w": drawn(4, 6)}, inputs=("x", "c")))
    assert list(found) == ["w"]


def test_a_state_of_zeros_that_an_if_chooses_is_no_weight() -> None:
    bodies = branch([constant("p", drawn(3, 4))]), branch([constant("q", drawn(3, 4))])
    choice = node("If", ["c"], ["n"], then_branch=bodies[0], else_branch=bodies[1])
    found = sites(model([choice, node("MatMul", ["n", "w"])], {"w": drawn(4, 6)}, inputs=("x", "c")))
    assert list(found) == ["w"]
