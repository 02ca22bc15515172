"""The index of a graph, against what the text of the model says, and onnx's shape inference on real ones."""

from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from sn_graph.errors import ModelError
from sn_graph.model import Graph, Scope, constant_tensor
from sn_graph.runtime.engine import open_session
from tests.support.places import CORPUS

CORPUS_MODELS = sorted(CORPUS.rglob("*.onnx"))

# `w` is captured twice over; `b` is shadowed in the branch of the branch; `h` is made in the graph and read inside.
NESTED = """
<ir_version: 10, opset_import: ["": 18, "local": 1]>
g (float[2] x, bool c, float[2] d) => (float[2] y, float[2] w)
<float[2] w = {1, 2}, float[2] b = {3, 4}, float[2] d = {5, 6}>
{
  h = Add(x, w)
  [choose] z = If (c) <
    then_branch = outer () => (float[2] t)
    <float[2] own = {7, 8}>
    {
      s = If (c) <
        then_branch = inner () => (float[2] u) { b = Mul(w, h)  u = Add(b, own) },
        else_branch = other () => (float[2] v) { v = Identity(b) }
      >
      t = Identity(s)
    },
    else_branch = plain () => (float[2] e) { e = Sub(w, b) }
  >
  y = local.twice(z)
}
<domain: "local", opset_import: ["": 18]>
twice (a) => (r) {
  k = Constant <value = float[1] {2}> ()
  r = Mul(a, k)
}
"""


@pytest.fixture
def graph() -> Graph:
    return Graph(parse_model(NESTED))


def scope(graph: Graph, identity: str) -> Scope:
    (found,) = [scope for scope in graph.scopes if scope.id == identity]
    return found


def uses(graph: Graph, owner: Scope, name: str) -> list[tuple[str, int]]:
    return [(use.node.path if use.node else "output", use.index) for use in graph.uses(owner, name)]


OUTER = "choose/then_branch"
INNER = "choose/then_branch/If#0/then_branch"
OTHER = "choose/then_branch/If#0/else_branch"


def test_scopes_are_named_by_the_way_to_them(graph: Graph) -> None:
    assert [scope.id for scope in graph.scopes] == ["", OUTER, INNER, OTHER, "choose/else_branch", "local::twice"]
    assert scope(graph, INNER).parent is scope(graph, OUTER)
    assert scope(graph, INNER).owner is scope(graph, OUTER).nodes[0]
    assert scope(graph, "local::twice").is_function
    assert scope(graph, "local::twice").parent is None
    assert graph.main.qualified("w") == "w"
    assert scope(graph, OUTER).qualified("own") == f"{OUTER}::own"


def test_nodes_have_labels_and_an_order(graph: Graph) -> None:
    assert [node.label for node in graph.main.nodes] == ["Add#0", "choose", "twice#2"]
    nodes = [node for scope in graph.scopes for node in scope.nodes]
    assert sorted(node.order for node in nodes) == list(range(len(nodes)))
    by_order = [node.path for node in sorted(nodes, key=lambda node: node.order)]
    assert by_order.index("choose") < by_order.index(f"{OUTER}/If#0") < by_order.index(f"{INNER}/Mul#0")
    assert by_order.index(f"{INNER}/Add#1") < by_order.index("choose/else_branch/Sub#0") < by_order.index("twice#2")


def test_uses_reach_across_scopes(graph: Graph) -> None:
    main = graph.main
    assert sorted(uses(graph, main, "w")) == sorted(
        [("Add#0", 1), (f"{INNER}/Mul#0", 0), ("choose/else_branch/Sub#0", 0), ("output", 1)]
    )
    assert uses(graph, main, "h") == [(f"{INNER}/Mul#0", 1)]
    assert sorted(uses(graph, main, "b")) == sorted([(f"{OTHER}/Identity#0", 0), ("choose/else_branch/Sub#0", 1)])
    assert uses(graph, scope(graph, INNER), "b") == [(f"{INNER}/Add#1", 0)]
    assert uses(graph, scope(graph, OUTER), "own") == [(f"{INNER}/Add#1", 1)]
    assert uses(graph, scope(graph, "local::twice"), "a") == [("local::twice/Mul#1", 0)]
    assert uses(graph, main, "d") == []
    assert uses(graph, main, "nothing") == []


def test_owners_and_producers(graph: Graph) -> None:
    inner = scope(graph, INNER)
    assert graph.owner(inner, "w") is graph.main
    assert graph.owner(inner, "b") is inner
    assert graph.owner(scope(graph, OTHER), "b") is graph.main
    assert graph.owner(inner, "nothing") is None
    assert graph.owner(scope(graph, "local::twice"), "w") is None
    made = graph.producer(inner, "h")
    assert made is graph.main.nodes[0]
    assert graph.producer(inner, "w") is None
    assert graph.producer(graph.main, "x") is None


def test_constants_are_looked_through(graph: Graph) -> None:
    for where, name, held in (
        (graph.main, "w", [1, 2]),
        (scope(graph, OTHER), "v", [3, 4]),
        (scope(graph, INNER), "own", [7, 8]),
        (scope(graph, "local::twice"), "k", [2]),
    ):
        tensor = graph.constant(where, name)
        assert tensor is not None
        np.testing.assert_array_equal(numpy_helper.to_array(tensor), np.array(held, np.float32))
    assert graph.holder(scope(graph, OTHER), "v") == (graph.main, "b")
    for name in ("h", "x", "z", "nothing"):
        assert graph.constant(graph.main, name) is None
    assert graph.constant(scope(graph, INNER), "b") is None


def test_a_constant_is_the_proto_itself(graph: Graph) -> None:
    tensor = graph.constant(graph.main, "w")
    assert tensor is not None
    tensor.name = "renamed"
    assert "renamed" in [initializer.name for initializer in graph.model.graph.initializer]


def test_constants_of_other_forms_are_none() -> None:
    model = parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g () => (float[1] y)'
        "{ a = Constant <value_float = 1.0> ()  b = Constant <value_floats = [1.0, 2.0]> ()  y = Add(a, b) }"
    )
    graph = Graph(model)
    assert constant_tensor(graph.main.nodes[0]) is None
    assert graph.constant(graph.main, "b") is None


def test_functions_are_found_by_domain_name_and_overload() -> None:
    model = parse_model(NESTED)
    other = model.functions.add()
    other.CopyFrom(model.functions[0])
    other.overload = "fast"
    model.graph.node[2].overload = "fast"
    graph = Graph(model)
    found = graph.function(graph.main.nodes[2])
    assert found is not None
    assert found.id == "local::twice:fast"
    assert graph.function(graph.main.nodes[0]) is None


def test_the_standard_domain_has_two_names() -> None:
    model = parse_model('<ir_version: 10, opset_import: ["ai.onnx": 18]> g (float[1] x) => (float[1] y) { y = Abs(x) }')
    model.graph.node[0].domain = "ai.onnx"
    graph = Graph(model)
    assert graph.opset() == 18
    assert graph.opset("local") is None
    assert graph.main.nodes[0].is_standard
    assert graph.main.nodes[0].domain == ""


def test_of_several_imports_of_a_domain_the_last_counts() -> None:
    """As in onnxruntime, which takes both names of ONNX's own domain for one: it runs Clip-6 here, not Clip-11."""
    model = parse_model(
        '<ir_version: 8, opset_import: ["": 11, "a": 3, "ai.onnx": 9, "a": 2]> g (float[1] x) => (float[1] y)'
        "{ y = Clip<max = 1.0>(x) }"
    )
    (clipped,) = open_session(model.SerializeToString()).run(None, {"x": np.full(1, 2, np.float32)})
    assert clipped == 1
    assert (Graph(model).opset(), Graph(model).opset("a")) == (9, 2)


def test_attributes_have_defaults() -> None:
    model = parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[2,2] x) => (float[2,2] y)'
        "{ y = Gemm <transB = 1, alpha = 0.5> (x, x) }"
    )
    node = Graph(model).main.nodes[0]
    assert (node.integer("transB", 0), node.number("alpha", 1.0), node.number("beta", 1.0)) == (1, 0.5, 1.0)
    node.proto.attribute[0].ref_attr_name = "from_the_caller"
    assert node.integer("transB", 0) == 0


def test_fresh_names_are_free_and_reserved(graph: Graph) -> None:
    assert graph.fresh_name("new") == "new"
    assert graph.fresh_name("new") == "new_1"
    assert graph.fresh_name("own") == "own_1"
    assert graph.fresh_name("choose") == "choose_1"
    assert graph.fresh_name("k") == "k_1"
    assert graph.fresh_name("w") == "w_1"
    assert graph.fresh_name("w") == "w_2"


def test_nodes_are_inserted_behind_another(graph: Graph) -> None:
    inner = scope(graph, INNER)
    made = graph.insert_after(inner.nodes[0], helper.make_node("Neg", ["b"], ["n"], name="neg"))
    assert [node.op_type for node in inner.proto.node] == ["Mul", "Neg", "Add"]
    made.name = "other"
    assert inner.proto.node[1].name == "other"


def test_sparse_initializers_are_defined() -> None:
    values = helper.make_tensor("s", TensorProto.FLOAT, [1], [1.0])
    indices = helper.make_tensor("i", TensorProto.INT64, [1], [2])
    sparse = helper.make_sparse_tensor(values, indices, [4])
    node = helper.make_node("Abs", ["s"], ["y"])
    made = helper.make_graph([node], "g", [], [], sparse_initializer=[sparse])
    graph = Graph(helper.make_model(made))
    assert graph.owner(graph.main, "s") is graph.main
    assert uses(graph, graph.main, "s") == [("Abs#0", 0)]
    assert graph.constant(graph.main, "s") is None


@pytest.mark.parametrize("place", ["node input", "node output", "node name", "op type", "initializer", "graph input"])
def test_names_that_are_no_text_are_refused(place: str) -> None:
    model = parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[1] gi) => (float[1] y) <float[1] ini = {1}>'
        "{ [nam] out = Add(inp, inp)  y = Optype(out, gi) }"
    )
    name = {"node input": b"inp", "node output": b"out", "node name": b"nam", "op type": b"Optype"} | {
        "initializer": b"ini",
        "graph input": b"gi",
    }
    content = model.SerializeToString().replace(name[place], b"\xff" * len(name[place]))
    with pytest.raises(ModelError, match="a name in it is not text"):
        Graph(onnx.ModelProto.FromString(content))


def _all_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _all_nodes(graph.node)


@pytest.mark.skipif(not CORPUS_MODELS, reason="the folder of real models, ../shared/corpus, is not here")
def test_every_use_in_real_models_is_indexed_once() -> None:
    for path in CORPUS_MODELS:
        model = onnx.load(path, load_external_data=False)
        graph = Graph(model)
        nodes = list(_all_nodes(model.graph.node))
        for function in model.functions:
            nodes += _all_nodes(function.node)
        indexed = [node.proto for scope in graph.scopes for node in scope.nodes]
        assert len(indexed) == len(nodes)
        read = Counter(name for node in nodes for name in node.input if name)
        used: Counter[str] = Counter()
        for owner in graph.scopes:
            for name in {*owner.inputs, *owner.initializers, *owner.sparse_initializers, *owner.producers} - {""}:
                for use in graph.uses(owner, name):
                    if use.node is not None:
                        assert use.node.proto.input[use.index] == name
                        used[name] += 1
        assert used == read, path


def test_a_cycle_of_identities_is_no_constant() -> None:
    model = onnx.ModelProto()
    model.graph.node.add(op_type="Identity", input=["s"], output=["s"])
    graph = Graph(model)
    assert graph.holder(graph.main, "s") is None


def test_bodies_of_two_nodes_with_one_name_have_different_ids() -> None:
    model = onnx.ModelProto()
    for _ in range(2):
        node = model.graph.node.add(op_type="If", name="n", output=[f"y{len(model.graph.node)}"])
        node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g.SetInParent()
    assert [scope.id for scope in Graph(model).scopes] == ["", "n/then_branch", "n#1/then_branch"]
