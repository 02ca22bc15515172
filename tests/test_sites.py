"""What is a site: identity, several uses, scopes, functions, and what is skipped with which reason."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sn_graph.model import Model
from sn_graph.model.graph import Graph
from sn_graph.sites import find_sites
from sn_graph.slots import quantized_inputs, weight_inputs
from tests.builders import (
    constant,
    function,
    graph,
    model,
    node,
    only_site,
    random,
    sites,
)

ROOT = Path(__file__).parents[1]
CORPUS = ROOT.parent / "shared" / "corpus"
W = random((4, 6))


def test_one_site() -> None:
    made = model([node("MatMul", ["x", "w"], name="dense")], {"w": W})
    (site,) = find_sites(made)
    assert (site.id, site.weight, site.scope.id, site.dtype, site.shape) == ("w", "w", "", "float32", (4, 6))
    assert (site.consumers, site.op_types, site.via, site.groups) == (("dense",), ("MatMul",), (), 1)
    assert (site.refusal, site.notes, site.other_uses, site.from_node) == (None, (), (), False)
    assert site.tensor is made.proto.graph.initializer[0]
    np.testing.assert_array_equal(site.array(made), W)


def test_constant_node() -> None:
    made = model([constant("c", W, name="Constant_0"), node("Identity", ["c"], ["i"]), node("Gemm", ["x", "i"])])
    site = only_site(made).site
    assert (site.id, site.weight, site.via, site.from_node) == ("c", "c", ("Constant", "Identity"), True)
    np.testing.assert_array_equal(site.array(made), W)


def test_unnamed_nodes_are_called_by_type_and_position() -> None:
    made = model([node("Relu", ["x"], ["h"]), node("MatMul", ["h", "w"])], {"w": W})
    assert only_site(made).site.consumers == ("MatMul#1",)


def test_sites_stand_in_graph_order_of_their_first_use() -> None:
    nodes = [
        node("Transpose", ["b"], ["t"]),
        node("MatMul", ["x", "c"], ["h"]),
        node("MatMul", ["h", "t"], ["g"]),
        node("MatMul", ["g", "a"]),
    ]
    assert list(sites(model(nodes, {"a": W, "b": W, "c": W}))) == ["c", "b", "a"]


def test_inputs_of_one_node_stand_in_their_order() -> None:
    nodes = [node("LSTM", ["x", "w", "r"])]
    assert list(sites(model(nodes, {"r": random((1, 12, 3)), "w": random((1, 12, 5))}))) == ["w", "r"]


# Several uses


def test_tied_embedding_is_one_site_and_the_first_use_gives_the_side() -> None:
    gather, gemm = node("Gather", ["w", "ids"], ["h"], name="embed"), node("Gemm", ["x", "w"], ["y"], name="logits")
    for nodes, side in (([gather, gemm], "cols"), ([gemm, gather], "cols")):
        found = only_site(model(nodes, {"w": W}, inputs=("x", "ids")), convention="keras")
        assert (found.status, found.view and found.view.side) == ("eligible", side)
        assert found.site.consumers == tuple(n.name for n in nodes)
    torch = only_site(model([gather, gemm], {"w": W}, inputs=("x", "ids")), convention="torch")
    assert torch.view is not None
    assert torch.view.side == "rows"
    transposed = node("Gemm", ["x", "w"], ["y"], transB=1)
    tied = only_site(model([transposed, gather], {"w": W}, inputs=("x", "ids")), convention="keras")
    assert tied.view is not None
    assert (tied.status, tied.view.side) == ("eligible", "rows")


def test_first_use_is_told_by_the_consumer_not_by_the_chain() -> None:
    """The Transpose comes first, but what reads it comes last."""
    nodes = [
        node("Transpose", ["w"], ["t"]),
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("MatMul", ["h", "t"], ["y"], name="second"),
    ]
    found = only_site(model(nodes, {"w": W}))
    assert found.site.consumers == ("first", "second")
    assert found.view is not None
    assert (found.status, found.view.perm, found.view.side, found.view.cols) == ("eligible", None, "cols", 6)


def test_matmul_through_identity_and_transpose_share_a_site() -> None:
    nodes = [
        node("Identity", ["w"], ["i"]),
        node("Transpose", ["i"], ["t"], perm=[1, 0]),
        node("MatMul", ["x", "t"], ["h"]),
        node("MatMul", ["h", "i"]),
    ]
    found = only_site(model(nodes, {"w": W}))
    assert (found.status, found.site.via) == ("eligible", ("Identity", "Transpose"))


def test_uses_that_need_different_matrices() -> None:
    nodes = [node("Conv", ["x", "w"], ["h"], name="conv"), node("ConvTranspose", ["h", "w"], name="deconv")]
    made = model(nodes, {"w": random((4, 6, 3, 3))})
    for convention in ("torch", "torch-parametrization"):
        found = only_site(made, convention=convention)
        assert found.status == "skipped"
        assert found.view is not None
        assert "conv, deconv" in (found.reason or "")
        assert "different matrices" in (found.reason or "")
    # Keras flattens both to (first axis, -1)
    assert only_site(made, convention="keras").status == "eligible"


def test_two_groupings_of_one_kernel() -> None:
    nodes = [node("Conv", ["x", "w"], ["h"], group=4), node("Conv", ["h", "w"], group=2)]
    made = model(nodes, {"w": random((4, 1, 3, 3))})
    assert "different matrices" in (only_site(made, convention="keras").reason or "")
    assert only_site(made, convention="torch").status == "eligible"


def test_other_readers_are_noted() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "w"], name="add"), node("Shape", ["w"], ["s"])]
    found = only_site(model(nodes, {"w": W}, outputs=("y", "w", "s")))
    assert (found.status, found.splits, len(found.site.other_uses)) == ("eligible", True, 2)
    (note,) = found.site.notes
    assert "add" in note
    assert "a graph output" in note


def test_reading_the_shape_is_no_use() -> None:
    nodes = [node("MatMul", ["x", "w"]), node("Shape", ["w"], ["s"]), node("Size", ["w"], ["n"])]
    found = only_site(model(nodes, {"w": W}, outputs=("y", "s", "n")))
    assert (found.splits, found.site.notes) == (False, ())


# Scopes


def branches(scope: str, nodes: list[onnx.NodeProto], initializers: dict[str, Any] | None = None) -> onnx.NodeProto:
    """An If named `scope`, whose branches are `nodes`, the else branch without a weight."""
    then = graph(nodes, initializers, (), ("z",))
    other = graph([node("Identity", ["x"], ["z"])], {}, (), ("z",))
    return node("If", ["flag"], ["y"], name=scope, then_branch=then, else_branch=other)


def test_captured_by_a_branch() -> None:
    """The main graph's weight, read inside an If inside an If."""
    inner = branches("inner", [node("MatMul", ["x", "w"], ["z"], name="deep")])
    inner.output[0] = "z"
    made = model([branches("outer", [inner])], {"w": W}, inputs=("x", "flag"))
    found = only_site(made)
    assert (found.id, found.site.scope.id, found.status) == ("w", "", "eligible")
    assert found.site.consumers == ("outer/then_branch/inner/then_branch/deep",)


def test_owned_by_a_branch() -> None:
    held = [node("Identity", ["v"], ["i"]), node("MatMul", ["x", "i"], ["h"]), constant("c", random((6, 6)))]
    made = model(
        [branches("If_3", [*held, node("MatMul", ["h", "c"], ["z"])], {"v": W})], {"w": W}, inputs=("x", "flag")
    )
    found = sites(made)
    assert list(found) == ["If_3/then_branch::v", "If_3/then_branch::c"]
    first = found["If_3/then_branch::v"].site
    assert (first.weight, first.scope.id, first.consumers) == ("v", "If_3/then_branch", ("If_3/then_branch/MatMul#1",))


def test_unnamed_owner_of_a_branch() -> None:
    made = model(
        [node("Relu", ["x"], ["r"]), branches("", [node("MatMul", ["x", "v"], ["z"])], {"v": W})], inputs=("x", "flag")
    )
    assert only_site(made).id == "If#1/then_branch::v"


def test_shadowed_names() -> None:
    """Two weights of one name: the main graph's, and the branch's own, which hides it there."""
    nodes = [node("MatMul", ["x", "w"], ["h"]), branches("If_0", [node("MatMul", ["h", "w"], ["z"])], {"w": -W})]
    made = model(nodes, {"w": W}, inputs=("x", "flag"))
    found = sites(made)
    assert list(found) == ["w", "If_0/then_branch::w"]
    np.testing.assert_array_equal(found["w"].site.array(made), W)
    np.testing.assert_array_equal(found["If_0/then_branch::w"].site.array(made), -W)
    assert [len(site.uses) for site in found.values()] == [1, 1]


@pytest.mark.parametrize("op_type", ["Loop", "Scan"])
def test_loop_and_scan_bodies(op_type: str) -> None:
    """A captured weight, and one of the body's own; a formal input hides what it shadows."""
    body = graph(
        [node("MatMul", ["a", "w"], ["h"]), node("MatMul", ["h", "own"], ["g"]), node("MatMul", ["g", "s"], ["b"])],
        {"own": random((6, 4))},
        ("a", "s"),
        ("b",),
    )
    made = model([node(op_type, ["x", "x"], ["y"], name="rec", body=body)], {"w": W, "s": W})
    assert list(sites(made)) == ["w", "rec/body::own"]


def test_functions_own_weights_and_take_them() -> None:
    inside = function(
        "Dense", ["a", "k"], [node("MatMul", ["a", "k"], ["h"]), constant("c", W), node("Gemm", ["h", "c"])]
    )
    made = model([node("Dense", ["x", "w"], ["y"], domain="local", name="call")], {"w": W}, functions=[inside])
    found = sites(made)
    assert list(found) == ["w", "local::Dense::c"]
    assert found["w"].site.consumers == ("local::Dense/MatMul#0",)
    assert found["w"].uses[0].through_call
    assert (found["local::Dense::c"].site.scope.id, found["local::Dense::c"].uses[0].through_call) == (
        "local::Dense",
        False,
    )
    assert all(site.status == "eligible" for site in found.values())


def test_function_called_twice() -> None:
    inside = function("Dense", ["a", "k"], [node("MatMul", ["a", "k"])])
    calls = [node("Dense", ["x", "w"], ["h"], domain="local"), node("Dense", ["h", "w"], ["y"], domain="local")]
    once = only_site(model(calls, {"w": W}, functions=[inside]))
    assert (once.status, len(once.uses), once.site.consumers) == ("eligible", 2, ("local::Dense/MatMul#0",))
    calls[0].input[1] = "v"
    apart = sites(model(calls, {"w": W, "v": W}, functions=[inside]))
    assert list(apart) == ["v", "w"], "in the order of the calls"
    calls[0].input[1] = "w"
    mixed = only_site(model([*calls, node("Add", ["w", "x"], ["s"])], {"w": W}, functions=[inside]))
    assert (mixed.status, "local function" in (mixed.reason or "")) == ("skipped", True)


def test_overloads_are_functions_of_their_own() -> None:
    bodies = [function("F", ["a"], [constant("c", W), node("MatMul", ["a", "c"])], overload=str(i)) for i in (1, 2)]
    calls = [node("F", ["x"], ["h"], domain="local", overload="1"), node("F", ["h"], domain="local", overload="2")]
    assert list(sites(model(calls, functions=bodies))) == ["local::F:1::c", "local::F:2::c"]


def test_weight_passed_through_two_functions_and_a_chain() -> None:
    inner = function("Inner", ["k", "a"], [node("Gemm", ["a", "k"])])
    outer = function("Outer", ["a", "k"], [node("Transpose", ["k"], ["t"]), node("Inner", ["t", "a"], domain="local")])
    made = model([node("Outer", ["x", "w"], domain="local")], {"w": W}, functions=[inner, outer])
    found = only_site(made)
    assert (found.site.consumers, found.site.via) == (("local::Inner/Gemm#0",), ("Transpose",))
    assert found.view is not None
    np.testing.assert_array_equal(found.view.matrix(W), W.T)


def by_caller(name: str, kind: int = onnx.AttributeProto.INT) -> onnx.AttributeProto:
    """An attribute that takes the caller's value of the same name."""
    return onnx.AttributeProto(name=name, ref_attr_name=name, type=kind)


def dense_function(default: int | None = None) -> onnx.FunctionProto:
    gemm = node("Gemm", ["a", "k"], alpha=1.0)
    gemm.attribute.append(by_caller("transB"))
    defaults = [] if default is None else [helper.make_attribute("transB", default)]
    return function("Dense", ["a", "k"], [gemm], [] if defaults else ["transB"], defaults)


@pytest.mark.parametrize(
    ("default", "given", "side"),
    [(None, 1, "rows"), (None, 0, "cols"), (None, None, "cols"), (1, None, "rows"), (1, 0, "cols")],
)
def test_attributes_that_the_call_gives(default: int | None, given: int | None, side: str) -> None:
    attributes = {} if given is None else {"transB": given}
    made = model(
        [node("Dense", ["x", "w"], domain="local", **attributes)], {"w": W}, functions=[dense_function(default)]
    )
    view = only_site(made).view
    assert view is not None
    assert view.side == side


def test_calls_that_give_different_attributes() -> None:
    conv = node("Conv", ["a", "k"])
    conv.attribute.append(by_caller("group"))
    inside = function("C", ["a", "k"], [conv], ["group"])
    calls = [node("C", ["x", "w"], ["h"], domain="local", group=4), node("C", ["h", "w"], domain="local", group=2)]
    made = model(calls, {"w": random((4, 1, 3, 3))}, functions=[inside])
    assert "different matrices" in (only_site(made, convention="keras").reason or "")
    assert only_site(made, convention="torch").status == "eligible"


def test_attributes_of_a_functions_own_weight() -> None:
    """What no single call decides is not guessed; alpha decides nothing."""
    gemm = node("Gemm", ["a", "c"])
    gemm.attribute.append(by_caller("transB"))
    inside = function("F", ["a"], [constant("c", W), gemm], ["transB"])
    found = only_site(model([node("F", ["x"], domain="local", transB=1)], functions=[inside]))
    assert (found.status, "callers give its attributes" in (found.reason or "")) == ("skipped", True)
    gemm.attribute[0].CopyFrom(by_caller("alpha", onnx.AttributeProto.FLOAT))
    inside = function("F", ["a"], [constant("c", W), gemm], ["alpha"])
    assert only_site(model([node("F", ["x"], domain="local", alpha=2.0)], functions=[inside])).status == "eligible"


# Skipped, with a reason


def test_initializer_that_is_an_input_too() -> None:
    found = only_site(model([node("MatMul", ["x", "w"])], {"w": W}, inputs=("x", "w")))
    assert found.status == "eligible"
    assert "also a graph input" in found.site.notes[0]


def test_no_data_and_empty() -> None:
    bare = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4, 6])
    assert "no data stored" in (only_site(model([node("MatMul", ["x", "w"])], {"w": bare})).reason or "")
    bare.raw_data = b""
    assert "no data stored" in (only_site(model([node("MatMul", ["x", "w"])], {"w": bare})).reason or "")
    empty = only_site(model([node("MatMul", ["x", "w"])], {"w": np.zeros((4, 0), np.float32)}))
    assert (empty.status, "empty" in (empty.reason or "")) == ("skipped", True)
    pieces = [node("Reshape", ["w", "s"], ["r"]), node("Transpose", ["r"], ["t"]), node("MatMul", ["x", "t"])]
    folded = model(pieces, {"w": np.zeros((4, 0), np.float32), "s": np.array([0, -1])})
    assert only_site(folded).status == "skipped"


def test_third_party_consumer() -> None:
    nodes = [node("Fancy", ["x", "w"], domain="com.acme", name="fancy")]
    found = only_site(model(nodes, {"w": W}))
    assert (found.status, found.view, found.site.consumers) == ("skipped", None, ("fancy",))
    assert "com.acme::Fancy" in (found.reason or "")
    # onnxruntime's own blocked layout is not one that the table knows
    blocked = only_site(model([node("Conv", ["x", "w"], domain="com.microsoft.nchwc")], {"w": random((8, 8, 3, 3))}))
    assert "com.microsoft.nchwc::Conv" in (blocked.reason or "")
    assert not sites(model([node("Scaler", ["x", "w"], domain="ai.onnx.ml")], {"w": W}))
    assert not sites(model(nodes, {"w": np.ones((3, 3), np.int64)}))


def test_third_party_beside_a_known_consumer_keeps_the_original() -> None:
    nodes = [node("Fancy", ["x", "w"], ["h"], domain="com.acme", name="fancy"), node("MatMul", ["h", "w"])]
    found = only_site(model(nodes, {"w": W}))
    assert (found.status, found.splits, found.site.consumers) == ("eligible", True, ("MatMul#1",))
    assert "fancy" in found.site.notes[0]


def test_an_unreadable_use_beside_a_readable_one_skips_the_weight() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Reshape", ["w", "shape"], ["r"]),
        node("MatMul", ["h", "r"]),
    ]
    found = only_site(model(nodes, {"w": W}, inputs=("x", "shape")))
    assert (found.status, found.view is None) == ("skipped", False)
    assert "not stored as a constant" in (found.reason or "")


@pytest.mark.parametrize("dtype", [np.complex64, np.bool_, np.int64, np.str_])
def test_constants_that_are_no_weights(dtype: Any) -> None:
    weight = np.full((4, 6), "a", object) if dtype is np.str_ else np.ones((4, 6), dtype)
    assert not sites(model([node("MatMul", ["x", "w"])], {"w": weight}))


def test_conv_of_a_constant_image() -> None:
    """The constant is X, and the kernel comes from elsewhere."""
    assert not sites(model([node("Conv", ["w", "x"])], {"w": random((1, 3, 8, 8))}))


def test_corrupt_graphs_end() -> None:
    """Cycles, which no valid model has, neither hang nor overflow."""
    turning = model(
        [node("Identity", ["w"], ["v"]), node("Cast", ["v"], ["v"], to=1), node("MatMul", ["x", "v"])], {"w": W}
    )
    assert list(sites(turning))
    itself = function("F", ["a", "k"], [node("F", ["a", "k"], ["h"], domain="local"), node("MatMul", ["h", "k"])])
    assert only_site(model([node("F", ["x", "w"], domain="local")], {"w": W}, functions=[itself])).id == "w"
    nodes = [node("Identity", [f"v{i}"], [f"v{i + 1}"]) for i in range(3000)]
    assert only_site(model([*nodes, node("MatMul", ["x", "v3000"])], {"v0": W})).status == "eligible"


def test_consumer_groups() -> None:
    nodes = [node("QLinearConv", [*"abc", "w", *"defg"], group=2)]
    found = only_site(model(nodes, {"w": np.ones((4, 2, 3, 3), np.int8)}, inputs=tuple("abcdefg")))
    assert found.site.groups == 2


# Real models


# What find_sites gives beyond (or short of) the index's `consumers`, and why.
BEYOND = {
    # its only Conv reads nothing but constants
    "NVIDIA+TensorRT/tools/Polygraphy/tests/models/qdq_conv.onnx": {"Conv[1]": -1},
    # W4 meets a MatMul of constants, whose product is the computed weight of the next
    "NeuralNetworkVerification+Marabou/resources/onnx/fc_matMul.onnx": {"MatMul[1]": -1, "MatMul[0]": 1},
    # the index does not look through com.microsoft.DequantizeLinear
    "intel+onnxruntime/onnxruntime/test/testdata/transform/fusion/constant_folding_dequantizelinear.qdq_contrib.onnx": {
        "Conv[1]": 1
    },
    # the gates are brought into order by Slice, Concat and Unsqueeze: computed, and skipped
    "snakers4+silero-vad/src/silero_vad/data/silero_vad_openvino_16k.onnx": {"LSTM[1]": 1, "LSTM[2]": 1},
}
UNREAD_CHAINS = {name: {"DequantizeLinear": 1} for name in BEYOND if name.endswith("qdq_contrib.onnx")}


def corpus() -> list[Any]:
    index = CORPUS / "index.jsonl"
    if not index.exists():
        return [pytest.param({}, id="corpus", marks=pytest.mark.skip(reason="the folder of real models is absent"))]
    lines = map(json.loads, index.read_text(encoding="utf-8").splitlines())
    return [pytest.param(line, id=line["path"]) for line in lines]


def takes_weights(consumer: str) -> bool:
    """Say whether `domain::Op[index]` is a weight input."""
    operator, index = consumer.removesuffix("]").split("[")
    domain, _, op_type = operator.rpartition("::")
    asked = Graph(model([node(op_type, ["x"], domain=domain)]).proto).main.nodes[0]
    return int(index) in weight_inputs(asked) + quantized_inputs(asked)


@pytest.mark.parametrize("row", corpus())
def test_real_models(row: dict[str, Any]) -> None:
    found = sites(Model.open(CORPUS / row["path"]))
    counts: Counter[str] = Counter()
    chains: Counter[str] = Counter()
    for site in found.values():
        assert site.status == "eligible" or site.reason
        for use in site.site.uses:
            domain = f"{use.node.domain}::" if use.node.domain else ""
            counts[f"{domain}{use.node.op_type}[{use.index}]"] += 1
            steps = (["Constant"] if site.site.from_node else []) + [step.node.op_type for step in use.steps]
            chains[">".join(steps)] += 1
    expected = Counter({key: uses for key, uses in row["consumers"].items() if takes_weights(key)})
    expected.update(BEYOND.get(row["path"], {}))
    assert counts == expected
    del chains[""]
    assert chains <= Counter(row["chains"]) + Counter(UNREAD_CHAINS.get(row["path"], {}))


def test_the_deviations_are_of_models_that_are_there() -> None:
    known = {row.values[0].get("path") for row in corpus()}
    assert known == {None} or set(BEYOND) <= known


@pytest.mark.parametrize("path", sorted((ROOT / "models").glob("*.onnx")), ids=lambda path: path.stem)
def test_models_of_this_repository(path: Path) -> None:
    """As the table in models/README.md has it."""
    readme = (ROOT / "models" / "README.md").read_text(encoding="utf-8")
    (row,) = (line.split(" | ") for line in readme.splitlines() if line.startswith(f"| `{path.name}` |"))
    found = Counter(
        f"{site.site.op_types[0]}{'' if site.status == 'eligible' else ' with a computed weight'}"
        for site in sites(Model.open(path)).values()
    )
    assert found == {kind: int(number) for number, kind in (entry.split(" ", 1) for entry in row[4].split(", "))}
