"""May two runs differ: every place where a drawing operator can stand, and every way to tell Dropout what to do."""

import numpy as np
import onnx
import pytest
from onnx.parser import parse_model

from sn_graph.model import Model, random_ops

HEAD = '<ir_version: 8, opset_import: ["": 17, "local": 1]> '


def found(text: str) -> list[str]:
    return random_ops(Model.open(parse_model(HEAD + text)))


def dropout(mode: str, more: str = "", functions: str = "") -> list[str]:
    """What a model with `y = Dropout(x, half, MODE)` draws with."""
    body = f"half = Constant<value = float {{0.5}}>() {more} y = Dropout(x, half, {mode})"
    return found(
        f"g (float[4] x, bool fed) => (float[4] y) <bool no = {{0}}, bool yes = {{1}}> {{ {body} }} {functions}"
    )


def test_dropout_draws_unless_its_training_mode_is_a_constant_no() -> None:
    assert dropout("yes") == ["Dropout"]
    assert dropout("fed") == ["Dropout"]
    assert dropout("not_yet", "not_yet = Not(no)") == ["Dropout"]
    assert dropout("no") == []
    assert dropout("same", "same = Identity(no)") == []
    assert dropout("") == []
    assert found("g (float[4] x) => (float[4] y) { y = Dropout(x) }") == []


FUNCTION = """
<domain: "local", opset_import: ["": 17]> f (a, mode) => (b) {
    half = Constant<value = float {0.5}>()
    b = Dropout(a, half, mode)
}
<domain: "local", opset_import: ["": 17, "local": 1]> outer (a, mode) => (b) { b = local.f(a, mode) }
"""


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        ("y = local.f(x, no)", []),
        ("y = local.outer(x, no)", []),
        ("y = local.outer(x, yes)", ["Dropout"]),
        ("z = local.f(x, no) y = local.f(z, fed)", ["Dropout"]),
        ("y = local.f(x)", []),
    ],
)
def test_a_function_draws_where_a_caller_says_so(calls: str, expected: list[str]) -> None:
    graph = f"g (float[4] x, bool fed) => (float[4] y) <bool no = {{0}}, bool yes = {{1}}> {{ {calls} }}"
    assert found(graph + FUNCTION) == expected


def test_random_operators_in_bodies_and_functions() -> None:
    body = "y = If(fed) <then_branch = t () => (float[4] a) { a = RandomNormalLike(x) },"
    body += " else_branch = e () => (float[4] b) { b = Bernoulli(x) }>"
    assert found(f"g (float[4] x, bool fed) => (float[4] y) {{ {body} }}") == ["Bernoulli", "RandomNormalLike"]
    function = '<domain: "local", opset_import: ["": 17]> f (a) => (b) { b = RandomUniformLike<seed = 1.0>(a) }'
    assert found("g (float[4] x) => (float[4] y) { y = local.f(x) }" + function) == ["RandomUniformLike"]


def test_a_function_of_the_name_of_a_random_operator_is_what_its_body_says() -> None:
    function = '<domain: "local", opset_import: ["": 17]> Bernoulli (a) => (b) { b = Abs(a) }'
    assert found("g (float[4] x) => (float[4] y) { y = local.Bernoulli(x) }" + function) == []


def test_a_default_that_can_be_fed_over_is_read_as_it_stands() -> None:
    proto = parse_model(HEAD + "g (float[4] x, bool m) => (float[4] y) <bool m = {0}> { y = Dropout(x, , m) }")
    assert random_ops(Model.open(proto)) == []
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.array(True), "m"))
    assert random_ops(Model.open(proto)) == ["Dropout"]
