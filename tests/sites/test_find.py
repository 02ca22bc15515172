"""What is a site: identity, several uses, and what is skipped with which reason; and every real model at hand."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from sn_graph.model import Model
from sn_graph.sites import find_sites
from sn_graph.sites.operators import operator_of
from tests.support.builders import constant, drawn, model, node, only_site, only_target, sites
from tests.support.places import CORPUS, MODELS, ONNX_MODELS, corpus, require_corpus

W = drawn(4, 6)


def test_one_site() -> None:
    made = model([node("MatMul", ["x", "w"], name="dense")], {"w": W})
    (site,) = find_sites(made)
    assert (site.id, site.weight, site.scope.id, site.dtype, site.shape) == ("w", "w", "", "float32", (4, 6))
    assert (site.consumers, site.op_types, site.via, site.groups) == (("dense",), ("MatMul",), (), 1)
    assert (site.refusal, site.notes, site.other_uses, site.from_node) == (None, (), (), False)
    assert site.tensor is made.proto.graph.initializer[0]
    np.testing.assert_array_equal(only_target(made).array(made), W)


def test_constant_node() -> None:
    made = model([constant("c", W, name="Constant_0"), node("Identity", ["c"], ["i"]), node("Gemm", ["x", "i"])])
    site = only_site(made).site
    assert (site.id, site.weight, site.via, site.from_node) == ("c", "c", ("Constant", "Identity"), True)
    np.testing.assert_array_equal(only_target(made).array(made), W)


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
    assert list(sites(model(nodes, {"r": drawn(1, 12, 3), "w": drawn(1, 12, 5)}))) == ["w", "r"]


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
    made = model(nodes, {"w": drawn(4, 6, 3, 3)})
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
    made = model(nodes, {"w": drawn(4, 1, 3, 3)})
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


@pytest.mark.parametrize("dtype", [np.complex64, np.bool_, np.int64, np.str_])
def test_constants_that_are_no_weights(dtype: Any) -> None:
    weight = np.full((4, 6), "a", object) if dtype is np.str_ else np.ones((4, 6), dtype)
    assert not sites(model([node("MatMul", ["x", "w"])], {"w": weight}))


def test_conv_of_a_constant_image() -> None:
    """The constant is X, and the kernel comes from elsewhere."""
    assert not sites(model([node("Conv", ["w", "x"])], {"w": drawn(1, 3, 8, 8)}))


def test_consumer_groups() -> None:
    nodes = [node("QLinearConv", [*"abc", "w", *"defg"], group=2)]
    found = only_site(model(nodes, {"w": np.ones((4, 2, 3, 3), np.int8)}, inputs=tuple("abcdefg")))
    assert found.site.groups == 2


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
    # the index does not look through Slice, Concat and Unsqueeze, which bring the gates into order
    "snakers4+silero-vad/src/silero_vad/data/silero_vad_openvino_16k.onnx": {"LSTM[1]": 1, "LSTM[2]": 1},
    # the index does not look through Slice and Flatten
    "vespa-engine+vespa/model-integration/src/test/models/onnx/llm/random_decoder.onnx": {"MatMul[1]": 2},
}

UNREAD_CHAINS = {name: {"DequantizeLinear": 1} for name in BEYOND if name.endswith("qdq_contrib.onnx")} | {
    "NeuralNetworkVerification+Marabou/resources/onnx/oneInput_twoBranches.onnx": {"Flatten>Cast": 1},
    next(name for name in BEYOND if name.endswith("random_decoder.onnx")): {"Slice>Transpose": 2},
    next(name for name in BEYOND if "silero" in name): {"Constant>Slice>Concat>Unsqueeze": 2},
}


def rows() -> list[Any]:
    skipped = pytest.mark.skip(reason="the folder of real models is absent")
    found = [pytest.param(row, id=row["path"]) for row in corpus()]
    return found or [pytest.param({}, id="corpus", marks=skipped)]


def takes_weights(consumer: str) -> bool:
    """Say whether `domain::Op[index]` is a weight input."""
    name, index = consumer.removesuffix("]").split("[")
    domain, _, op_type = name.rpartition("::")
    (asked,) = model([node(op_type, ["x"], domain=domain)]).graph.main.nodes
    operator = operator_of(asked)
    return int(index) in operator.weights + operator.integers


@pytest.mark.parametrize("row", rows())
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
    require_corpus()
    assert set(BEYOND) <= {row["path"] for row in corpus()}


@pytest.mark.parametrize("path", ONNX_MODELS, ids=lambda path: path.stem)
def test_models_of_this_repository(path: Path) -> None:
    """As the table in models/README.md has it."""
    readme = (MODELS / "README.md").read_text(encoding="utf-8")
    (row,) = (line.split(" | ") for line in readme.splitlines() if line.startswith(f"| `{path.name}` |"))
    found = Counter(
        f"{site.site.op_types[0]}{'' if site.status == 'eligible' else ' with a computed weight'}"
        for site in sites(Model.open(path)).values()
    )
    assert found == {kind: int(number) for number, kind in (entry.split(" ", 1) for entry in row[4].split(", "))}


@pytest.mark.parametrize("where", ["stored", "reshaped"])
def test_more_axes_than_arrays_have_refuse_the_site_and_not_the_model(where: str) -> None:
    if where == "stored":
        tensor = onnx.helper.make_tensor("deep", TensorProto.FLOAT, [1] * 70 + [4, 6], W.reshape(-1))
        nodes = [node("MatMul", ["x", "deep"], ["d"])]
        held: dict[str, Any] = {"w": W}
    else:
        tensor = None
        nodes = [node("Reshape", ["v", "sizes"], ["deep"]), node("MatMul", ["x", "deep"], ["d"])]
        held = {"w": W, "v": W, "sizes": np.array([1] * 70 + [4, 6])}
    proto = model([*nodes, node("MatMul", ["x", "w"], ["y"])], held).to_proto()
    proto.graph.initializer.extend([tensor] if tensor is not None else [])
    found = {site.site.id: (site.status, site.reason) for site in sites(Model.open(proto)).values()}
    assert found.pop("w") == ("eligible", None)
    assert found == {
        "deep" if where == "stored" else "v": (
            "skipped",
            "of rank 72, where sn-graph reads 64 at most; reshape it first",
        )
    }


def test_a_scale_of_more_axes_than_arrays_have() -> None:
    scale = onnx.helper.make_tensor("s", TensorProto.FLOAT, [1] * 70, [0.5])
    nodes = [node("DequantizeLinear", ["q", "s"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    proto = model(nodes, {"q": np.ones((4, 6), np.int8)}).to_proto()
    proto.graph.initializer.append(scale)
    assert only_site(Model.open(proto)).reason == "the scale of its DequantizeLinear is not a constant"


@pytest.mark.parametrize("group", [0, -3])
def test_groups_that_no_convolution_has(group: int) -> None:
    found = only_site(model([node("Conv", ["x", "w"], group=group)], {"w": drawn(3, 3, 2, 2)}))
    assert found.reason == f"its convolution has {group} groups, which none has; export the model again"
