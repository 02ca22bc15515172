"""`sn-graph certify`: exit codes, output, options, the witness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support.certified import nodes, run
from tests.support.command_line import Cli, one_line

KEYS = (
    "model",
    "input",
    "output",
    "norm",
    "level",
    "attained",
    "proven",
    "unbounded",
    "at_most",
    "ok",
    "nodes",
    "levels",
)
FAST = ("--level", "product", "--budget", 2)


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """3·relu(x), whose constant is 3."""
    path = tmp_path / "net.onnx"
    held = {"f": np.full((1, 4), 3.0, np.float32)}
    onnx.save(nodes(("Relu", ["x"], "h"), ("Mul", ["h", "f"], "y"), x=("N", 4), held=held), path)
    return path


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    path = tmp_path / "squares.onnx"
    onnx.save(nodes(("Relu", ["x"], "h"), ("Mul", ["h", "h"], "y"), x=("N", 4)), path)
    return path


def test_the_answer_as_data(cli: Cli, net: Path) -> None:
    ended = cli("certify", net, "--json", *FAST)
    assert ended.code == 0
    content = ended.json
    assert tuple(content)[: len(KEYS)] == KEYS
    assert content.keys() - set(KEYS) == {"notes"}
    assert (content["input"], content["output"], content["norm"]) == ("x", "y", "l2")
    assert 2.99 <= content["attained"] <= 3.0 <= content["proven"] <= 3.0 * (1 + 1e-12)
    assert content["unbounded"] is content["at_most"] is content["ok"] is None
    assert [(row["node"], row["op_type"], row["note"]) for row in content["nodes"]] == [
        ("Relu#0", "Relu", ""),
        ("Mul#1", "Mul", ""),
    ]
    assert [row.keys() for row in content["nodes"]] == [{"node", "op_type", "rule", "constant", "bound", "note"}] * 2
    assert content["levels"] == {"product": content["proven"]}


def test_the_answer_for_a_person(cli: Cli, net: Path) -> None:
    ended = cli("certify", net, *FAST)
    assert ended.code == 0
    first, levels, heading, *rows = ended.out.splitlines()
    assert first.startswith(("Lipschitz constant (l2) between 2.99", "Lipschitz constant (l2) between 3"))
    assert first.endswith("and 3")
    assert levels == "by level: product 3"
    assert heading.split() == ["node", "op", "rule", "constant", "bound"]
    assert [row.split() for row in rows] == [["Relu#0", "Relu", "Relu", "1", "1"], ["Mul#1", "Mul", "Mul", "3", "3"]]
    assert "exact arithmetic" in ended.err


def test_what_is_unbounded_names_its_node(cli: Cli, squares: Path) -> None:
    ended = cli("certify", squares, *FAST)
    assert ended.code == 0
    assert ended.out.splitlines()[0] == "unbounded at Mul#1: product of two values that depend on the input"
    content = cli("certify", squares, "--json", *FAST).json
    assert content["unbounded"] == {
        "node": "Mul#1",
        "op_type": "Mul",
        "reason": "product of two values that depend on the input",
    }
    assert content["proven"] is content["attained"] is content["level"] is None


@pytest.mark.parametrize(("constant", "code"), [(3.0001, 0), (3.0, 0), (2.9999, 1), (0, 1)])
def test_at_most(constant: float, code: int, cli: Cli, net: Path) -> None:
    ended = cli("certify", net, "--json", "--at-most", constant, *FAST)
    assert ended.code == code
    assert ended.json["ok"] is (code == 0)
    assert ended.json["at_most"] == constant
    assert ended.json["proven"] == pytest.approx(3.0)
    if code:
        assert "at most" in one_line(cli("certify", net, "--at-most", constant, "--quiet", *FAST), 1)


def test_nothing_unbounded_is_at_most_anything(cli: Cli, squares: Path) -> None:
    ended = cli("certify", squares, "--json", "--at-most", 1e9, *FAST)
    assert (ended.code, ended.json["ok"]) == (1, False)


def test_the_witness_attains_the_lower_end(cli: Cli, net: Path, tmp_path: Path) -> None:
    pair = tmp_path / "pair.npz"
    content = cli("certify", net, "--json", "--witness", pair, *FAST).json
    with np.load(pair) as arrays:
        x0, x1 = arrays["x0"], arrays["x1"]
    assert x0.shape == x1.shape == (1, 4)
    assert x0.dtype == np.float32
    model = onnx.load(net)
    moved = np.linalg.norm(run(model, x1.astype(np.float64)) - run(model, x0.astype(np.float64)))
    assert moved / np.linalg.norm(x1.astype(np.float64) - x0) == pytest.approx(content["attained"], rel=1e-4)


def test_the_witness_may_not_be_the_model(cli: Cli, net: Path) -> None:
    assert "overwrite" in cli("certify", net, "--witness", net, *FAST).err
    onnx.load(net)


def test_no_witness_where_there_is_none(cli: Cli, squares: Path, tmp_path: Path) -> None:
    ended = cli("certify", squares, "--witness", tmp_path / "pair.npz", *FAST)
    assert ended.code == 0
    assert "not written" in ended.err
    assert not (tmp_path / "pair.npz").exists()


@pytest.fixture
def two_inputs(tmp_path: Path) -> Path:
    path = tmp_path / "two.onnx"
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["y"]), helper.make_node("Neg", ["a"], ["z"])],
        "g",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "ab"],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 3]) for name in "yz"],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_an_open_question_ends_with_3(cli: Cli, two_inputs: Path) -> None:
    assert "several float inputs: a, b" in one_line(cli("certify", two_inputs, *FAST), 3)
    assert "several outputs: y, z" in one_line(cli("certify", two_inputs, "--input", "a", *FAST), 3)


def test_one_input_or_several(cli: Cli, two_inputs: Path, tmp_path: Path) -> None:
    one = cli("certify", two_inputs, "--input", "b", "--output", "y", "--json", *FAST).json
    assert (one["input"], one["proven"]) == ("b", 1.0)
    pair = tmp_path / "pair.npz"
    options = ("--input", "a", "--input", "b", "--output", "y", "--json", "--witness", pair)
    both = cli("certify", two_inputs, *options, *FAST).json
    assert both["input"] == "a, b"
    assert 1.41 <= both["attained"] <= both["proven"] <= 1.4142136
    with np.load(pair) as arrays:
        assert sorted(arrays) == ["x0.a", "x0.b", "x1.a", "x1.b"]


@pytest.mark.parametrize(
    "options",
    [
        ("--input", "missing"),
        ("--output", "missing"),
        ("--dim", "K=3"),
        ("--dim", "N"),
        ("--level", "best"),
        ("--budget", "0"),
        ("--at-most", "-1"),
    ],
)
def test_usage(options: tuple[str, str], cli: Cli, net: Path) -> None:
    assert cli("certify", net, *options).code == 2


def test_a_model_that_insert_wrote_is_refused(cli: Cli, model: Path, tmp_path: Path) -> None:
    written = tmp_path / "inserted.onnx"
    assert cli("insert", model, "-o", written).code == 0
    assert "strip" in one_line(cli("certify", written, *FAST), 3)


def test_a_page(cli: Cli, net: Path, squares: Path, tmp_path: Path) -> None:
    pytest.importorskip("jinja2")
    page = tmp_path / "page.html"
    assert cli("certify", net, "--html", page, "--at-most", 4, *FAST).code == 0
    text = page.read_text(encoding="utf-8")
    assert "Lipschitz constant (l2) between" in text
    assert "Mul#1" in text
    assert cli("certify", squares, "--html", page, *FAST).code == 0
    assert "unbounded at Mul#1" in page.read_text(encoding="utf-8")
    assert cli("certify", net, "--html", page, "--witness", page, *FAST).code == 2
