"""The follower, against what the text of small models says, and a closure over random graphs."""

from itertools import product

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx.parser import parse_model

from sn_graph.model import Graph, Node, Reached, Reading, Scope, follow, origin

HANDS_ON = frozenset({"Identity", "Concat", "Split"})
HEAD = '<ir_version: 10, opset_import: ["": 18, "local": 1]>'


def graph_of(text: str) -> Graph:
    return Graph(parse_model(f"{HEAD} {text}"))


def scope(graph: Graph, identity: str) -> Scope:
    (found,) = [scope for scope in graph.scopes if scope.id == identity]
    return found


def passed(at: Reached[tuple[str, ...]], node: Node, _: int) -> tuple[str, ...] | None:
    """The labels of the nodes on the way, which hand on what enters at any input."""
    return (*at.state, node.label) if node.op_type in HANDS_ON else None


def told(reading: Reading[tuple[str, ...]]) -> str:
    """`path[input]`, or `scope:output` for an output; behind the calls that lead there."""
    use = reading.use
    where = f"{reading.use.scope.id or 'main'}:{use.index}" if use.node is None else f"{use.node.path}[{use.index}]"
    return " > ".join((*(call.path for call in reading.value.calls), where))


def met(graph: Graph, name: str, through: bool = False, at: Scope | None = None) -> list[str]:
    start = Reached[tuple[str, ...]](at or graph.main, name, ())
    onward = (lambda reading: reading.value.state) if through else None
    return [told(reading) for reading in follow(graph, start, passed, onward)]


def test_uses_come_depth_first_in_graph_order() -> None:
    graph = graph_of(
        """g (float[2] x) => (float[2] a, float[2] y) {
            a = Identity(x)
            b = Add(a, x)
            c = Identity(a)
            d = Mul(b, c)
            y = Sub(d, x)
        }"""
    )
    found = list(follow(graph, Reached[tuple[str, ...]](graph.main, "x", ()), passed))
    assert [told(reading) for reading in found] == ["Add#1[0]", "Mul#3[1]", "main:0", "Add#1[1]", "Sub#4[1]"]
    assert [reading.value.name for reading in found] == ["a", "c", "a", "x", "x"]
    assert [reading.value.state for reading in found] == [
        ("Identity#0",),
        ("Identity#0", "Identity#2"),
        ("Identity#0",),
        (),
        (),
    ]


def test_dead_ends_yield_nothing() -> None:
    graph = graph_of("g (float[2] x, float[2] unread) => (float[2] y) { lost = Identity(x)  y = Abs(x) }")
    assert met(graph, "x") == ["Abs#1[0]"]
    assert met(graph, "unread") == met(graph, "nowhere") == []


def test_every_named_output_of_a_node_is_followed() -> None:
    graph = graph_of("g (float[3] x) => (float[1] y) { a, , b = Split <num_outputs = 3> (x)  y = Add(b, a) }")
    assert met(graph, "x") == ["Add#1[1]", "Add#1[0]"]


def test_two_ways_to_a_value_are_followed_once() -> None:
    """A ladder of 40 rungs, which has 2^40 ways."""
    rungs = "".join(f"v{i + 1} = Concat <axis = 0> (v{i}, v{i}) " for i in range(40))
    graph = graph_of(f"g (float[1] v0) => (float[n] y) {{ {rungs} y = Abs(v40) }}")
    assert met(graph, "v0") == ["Abs#40[0]"]


def test_cycles_end() -> None:
    model = onnx.ModelProto()
    for name, output in (("b", "a"), ("a", "b")):
        model.graph.node.add(op_type="Identity", input=[name], output=[output])
    model.graph.node.add(op_type="Abs", input=["b"], output=["y"])
    assert met(Graph(model), "b") == ["Abs#2[0]"]
    assert origin(Graph(model), Reached(Graph(model).main, "a", None)) is None


def test_a_long_chain_needs_no_deep_stack() -> None:
    links = "".join(f"v{i + 1} = Identity(v{i}) " for i in range(3000))
    graph = graph_of(f"g (float[1] v0) => (float[1] y) {{ {links} y = Abs(v3000) }}")
    assert met(graph, "v0") == ["Abs#3000[0]"]


# Bodies

# `x` is captured twice over, is an output of a branch as it is, and enters the inner branch's chain.
BRANCHES = """g (float[2] x, bool c) => (float[2] y, float[2] z) {
    [outer] p, q = If (c) <
        then_branch = one () => (float[2] a, float[2] x) {
            [inner] a = If (c) <
                then_branch = two () => (float[2] b) { b = Identity(x) },
                else_branch = three () => (float[2] e) { e = Abs(x) }
            >
        },
        else_branch = four () => (float[2] x, float[2] f) { f = Neg(x) }
    >
    y = Exp(p)
    z = Log(q)
}"""
ONE = "outer/then_branch"


def test_a_captured_value_is_read_where_the_subgraph_stands() -> None:
    graph = graph_of(BRANCHES)
    found = list(follow(graph, Reached[tuple[str, ...]](graph.main, "x", ()), passed))
    assert [told(reading) for reading in found] == [
        f"{ONE}/inner/then_branch:0",
        f"{ONE}/inner/else_branch/Abs#0[0]",
        f"{ONE}:1",
        "outer/else_branch/Neg#0[0]",
        "outer/else_branch:0",
    ]
    assert [reading.value.scope.id for reading in found] == [f"{ONE}/inner/then_branch", "", "", "", ""]
    assert [reading.use.scope.id for reading in found[1:]] == [
        f"{ONE}/inner/else_branch",
        ONE,
        "outer/else_branch",
        "outer/else_branch",
    ]


def test_what_a_branch_returns_is_followed_behind_its_node() -> None:
    graph = graph_of(BRANCHES)
    assert met(graph, "x", through=True) == [
        "Exp#1[0]",
        f"{ONE}/inner/else_branch/Abs#0[0]",
        "Log#2[0]",
        "outer/else_branch/Neg#0[0]",
    ]
    assert met(graph, "c", through=True) == ["outer[0]", f"{ONE}/inner[0]"]


LOOP = """g (int64 trips, bool go, float[2] x, float[2] u) => (float[2] y, float[n, 2] z) {
    [turn] last, other, all = Loop (trips, go, x, u) <
        body = b (int64 i, bool on, float[2] v, float[2] w) => (bool stay, float[2] v2, float[2] w2, float[2] kept) {
            stay = Identity(on)
            n = Cast <to = 1> (i)
            v2 = Identity(v)
            w2 = Add(w, n)
            kept = Identity(v)
        }
    >
    y = Exp(last)
    z = Log(all)
    r = Neg(other)
}"""


def test_a_loop_hands_its_inputs_to_its_body_and_its_outputs_on() -> None:
    graph = graph_of(LOOP)
    assert met(graph, "x") == ["turn[2]"]
    assert met(graph, "x", through=True) == ["Exp#1[0]", "Log#2[0]"]
    assert met(graph, "u", through=True) == ["turn/body/Add#3[0]"]
    assert met(graph, "trips", through=True) == ["turn/body/Cast#1[0]"]
    # The condition that a turn leaves is an output of the body alone.
    assert met(graph, "go", through=True) == ["turn/body:0"]


def test_the_next_turn_of_a_loop_is_not_followed() -> None:
    graph = graph_of(LOOP.replace("w2 = Add(w, n)", "w2 = Identity(v)  s = Abs(w)"))
    assert met(graph, "x", through=True) == ["Exp#1[0]", "Neg#3[0]", "Log#2[0]"]


def test_a_scan_has_states_before_slices() -> None:
    graph = graph_of(
        """g (float[2] state, float[5, 2] rows) => (float[2] y, float[5, 2] z) {
            [run] end, seen = Scan <num_scan_inputs = 1, body =
                b (float[2] s, float[2] row) => (float[2] s2, float[2] out) { s2 = Identity(s)  out = Identity(row) }
            > (state, rows)
            y = Exp(end)
            z = Log(seen)
        }"""
    )
    assert met(graph, "state", through=True) == ["Exp#1[0]"]
    assert met(graph, "rows", through=True) == ["Log#2[0]"]


def test_an_input_of_the_same_name_is_the_same_value() -> None:
    """onnxruntime's BeamSearch has six inputs or more, and an encoder that takes the first by its name."""
    model = onnx.ModelProto()
    model.graph.input.add(name="ids")
    node = model.graph.node.add(op_type="Search", name="search", input=["ids", "a", "b"], output=["y"])
    body = node.attribute.add(name="encoder", type=onnx.AttributeProto.GRAPH).g
    body.input.add(name="ids")
    body.node.add(op_type="Abs", input=["ids"], output=["z"])
    graph = Graph(model)
    assert met(graph, "ids", through=True) == ["search/encoder/Abs#0[0]"]
    back = origin(graph, Reached(scope(graph, "search/encoder"), "ids", None))
    assert back is not None
    assert back.place == (graph.main, "ids", ())


# Functions

CALLS = """g (float[2] x, float[2] k) => (float[2] y, float[2] z) {
    [first] a, s = local.outer(x, k)
    [second] b, t = local.outer(k, x)
    y = Exp(a)
    z = Log(t)
    r = Neg(b)
}
<domain: "local", opset_import: ["": 18, "local": 1]>
outer (p, q) => (m, q) {
    [nested] m = local.inner(p)
    n = Abs(q)
}
<domain: "local", opset_import: ["": 18]>
inner (f) => (h) {
    h = Identity(f)
    o = Sqrt(f)
}
"""


def test_functions_are_entered_at_each_call() -> None:
    assert met(graph_of(CALLS), "x") == [
        "first > local::outer/nested > local::inner:0",
        "first > local::outer/nested > local::inner/Sqrt#1[0]",
        "second > local::outer/Abs#1[0]",
        "second > local::outer:1",
    ]


def test_functions_return_to_the_call_that_led_in() -> None:
    assert met(graph_of(CALLS), "x", through=True) == [
        "Exp#2[0]",
        "first > local::outer/nested > local::inner/Sqrt#1[0]",
        "second > local::outer/Abs#1[0]",
        "Log#3[0]",
    ]


def test_a_value_of_a_function_leaves_it_by_no_call() -> None:
    graph = graph_of(CALLS)
    outer = scope(graph, "local::outer")
    assert met(graph, "q", through=True, at=outer) == ["local::outer/Abs#1[0]", "local::outer:1"]
    assert origin(graph, Reached(outer, "q", None)) is None


def test_arguments_beyond_those_of_the_function_are_plain_uses() -> None:
    model = parse_model(f"{HEAD} {CALLS}")
    model.graph.node[0].input.append("x")
    model.graph.node[1].input.append("")
    found = met(Graph(model), "x")
    assert "first[2]" in found
    assert len(found) == 5


def test_the_caller_is_not_asked_about_functions() -> None:
    graph = graph_of(CALLS)
    asked: list[str] = []

    def onward(_: Reached[bool], node: Node, __: int) -> None:
        asked.append(node.op_type)

    list(follow(graph, Reached(graph.main, "x", True), onward, lambda _: True))
    assert asked == ["Identity", "Sqrt", "Abs", "Log"]


# Back

THROUGH = """g (float[2] x, float[2] k, bool c, int64 n) => (float[2] y) {
    [call] y = local.outer(x, k, c, n)
}
<domain: "local", opset_import: ["": 18, "local": 1]>
outer (p, q, c, n) => (m) {
    [branch] m = If (c) <
        then_branch = one () => (float[2] l) {
            [loop] l = Loop (n, c, p) <
                body = b (int64 i, bool on, float[2] v) => (bool on, float[2] w) { w = Add(v, q) }
            >
        },
        else_branch = two () => (float[2] e) { e = Identity(q) }
    >
}"""


@pytest.mark.parametrize(("name", "source"), [("v", "x"), ("q", "k"), ("on", "c"), ("i", "n")])
def test_origin_leads_out_of_bodies_and_functions(name: str, source: str) -> None:
    graph = graph_of(THROUGH)
    body = scope(graph, "local::outer/branch/then_branch/loop/body")
    at: Reached[None] | None = Reached(body, name, None, (graph.main.nodes[0],))
    way = []
    while at is not None:
        way.append(at)
        at = origin(graph, at)
    assert way[-1].place == (graph.main, source, ())


def test_origin_leads_into_what_a_call_returns() -> None:
    graph = graph_of(CALLS)
    first = graph.main.nodes[0]
    outer, inner = scope(graph, "local::outer"), scope(graph, "local::inner")
    inside = origin(graph, Reached(graph.main, "a", 7))
    assert inside is not None
    assert (inside.place, inside.state) == ((outer, "m", (first,)), 7)
    deeper = origin(graph, inside)
    assert deeper is not None
    assert deeper.place == (inner, "h", (first, outer.nodes[0]))
    assert origin(graph, deeper) is None


def test_origin_of_what_a_scope_makes_is_unknown() -> None:
    graph = graph_of(LOOP)
    assert origin(graph, Reached(graph.main, "x", None)) is None
    assert origin(graph, Reached(graph.main, "last", None)) is None
    assert origin(graph, Reached(graph.main, "nowhere", None)) is None
    assert origin(graph, Reached(scope(graph, "turn/body"), "v2", None)) is None


# Any graph

NODES = st.lists(st.tuples(st.sampled_from(["Concat", "Add"]), st.integers(0, 99), st.integers(0, 99)), max_size=12)


@given(NODES)
def test_readings_are_those_of_the_closure(nodes: list[tuple[str, int, int]]) -> None:
    """Of a graph in which each node reads two values before it: `Concat` hands both on, `Add` none."""
    names = [f"v{place}" for place in range(len(nodes) + 2)]
    model = onnx.ModelProto()
    for name in names[:2]:
        model.graph.input.add(name=name)
    reached = {"v0"}
    for place, (op_type, left, right) in enumerate(nodes):
        inputs = [names[left % (place + 2)], names[right % (place + 2)]]
        model.graph.node.add(op_type=op_type, input=inputs, output=[names[place + 2]])
        if op_type == "Concat" and reached & set(inputs):
            reached.add(names[place + 2])
    expected = {
        f"Add#{place}[{index}]"
        for (place, node), index in product(enumerate(model.graph.node), (0, 1))
        if node.op_type == "Add" and node.input[index] in reached
    }
    found = met(Graph(model), "v0")
    assert len(found) == len(set(found))
    assert set(found) == expected
