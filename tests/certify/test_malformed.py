"""Nodes that are not of the form that their operators have end in one sentence."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from sn_graph.certify import Network, network_of
from sn_graph.certify.product import product_bounds
from sn_graph.certify.steps import Unbounded
from sn_graph.errors import ModelError, SnGraphError
from sn_graph.model import Model
from tests.support.builders import drawn, network, node
from tests.support.certified import nodes, one_node
from tools.certify_trials import graphs

OPERATORS = (
    *("Conv", "MatMul", "Softmax", "Reshape", "Resize", "TopK", "Pad", "Concat", "Where", "Gather", "Einsum", "Split"),
    *(
        "LayerNormalization",
        "Max",
        "GatherND",
        "CumSum",
        "LRN",
        "Tile",
        "Expand",
        "Slice",
        "Transpose",
        "PRelu",
        "Gemm",
    ),
    *("ConvTranspose", "DepthToSpace", "Cast", "CastLike", "Trilu", "LpPool", "Div", "Pow", "BatchNormalization"),
)


def mutated(model: onnx.ModelProto, rng: random.Random) -> onnx.ModelProto:
    """Change one or two nodes: their attributes, inputs or operator; or the length of a constant; or the opset."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for _ in range(rng.randint(1, 2)):
        node = rng.choice(changed.graph.node)
        kind = rng.randrange(6)
        if kind == 0 and node.attribute:
            attribute = rng.choice(node.attribute)
            if attribute.ints:
                attribute.ints[rng.randrange(len(attribute.ints))] = rng.choice([-5, -1, 0, 1, 7, 100])
            elif attribute.type == onnx.AttributeProto.INT:
                attribute.i = rng.choice([-9, -1, 0, 1, 50])
        elif kind == 1 and node.attribute:
            del node.attribute[rng.randrange(len(node.attribute))]
        elif kind == 2 and node.input:
            del node.input[rng.randrange(len(node.input))]
        elif kind == 3 and node.input:
            names = ["", "x", "missing", *(tensor.name for tensor in changed.graph.initializer)]
            node.input[rng.randrange(len(node.input))] = rng.choice(names)
        elif kind == 4:
            node.op_type = rng.choice(OPERATORS)
        else:
            changed.opset_import[0].version = rng.choice([1, 6, 9, 11, 13, 18, 21])
    return changed


@pytest.mark.parametrize("seed", range(6))
def test_mutated_graphs_have_a_bound_or_a_sentence(seed: int) -> None:
    rng, model = random.Random(seed), graphs.make(seed)[0]
    sentences = []
    for _ in range(60):
        try:
            made = network_of(Model.open(mutated(model, rng)))
            if isinstance(made, Network):
                product_bounds(made)
                made.forward(*(np.zeros(source.shape) for source in made.sources))
        except SnGraphError as error:
            sentences.append(str(error))
    assert sentences
    assert not any("\n" in sentence for sentence in sentences)


MALFORMED = {
    "a product of shapes that do not fit": one_node("MatMul", (1, 3), drawn(4, 2)),
    "an order of axes that is none": one_node("Transpose", (1, 3), perm=[0, 0]),
    "a stride of 0": one_node("Conv", (1, 1, 5), drawn(1, 1, 3), strides=[0]),
    "channels that do not fit": one_node("Conv", (1, 2, 5), drawn(1, 3, 3)),
    "a sum of one": nodes(("Add", ["x"], "y")),
    "parts that do not fit": one_node("Concat", (1, 3), drawn(2, 3), axis=1),
    "more of the largest than there are": one_node("TopK", (1, 3), np.array([4]), outputs=2),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_the_sentence_names_the_node(name: str) -> None:
    with pytest.raises(SnGraphError, match=r"node '\w+#0'"):
        network_of(Model.open(MALFORMED[name]))


IMAGE, KERNEL, WINDOW = (1, 3, 8, 8), drawn(3, 3, 2, 2), (2, 2)


def _sizes(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def _added(op_type: str, *constants: object, **attributes: object) -> onnx.ModelProto:
    """A model that adds what a node makes of constants."""
    held = {f"c{place}": np.asarray(array) for place, array in enumerate(constants)}
    return nodes((op_type, list(held), "e", attributes), ("Add", ["x", "e"], "y"), x=(1, 8), held=held)


BEYOND = 10**9
TOO_LARGE = {
    "output_padding": one_node("ConvTranspose", IMAGE, KERNEL, output_padding=[BEYOND] * 2),
    "output_shape": one_node("ConvTranspose", IMAGE, KERNEL, output_shape=[BEYOND] * 2),
    "strides of ConvTranspose": one_node("ConvTranspose", IMAGE, KERNEL, strides=[BEYOND] * 2),
    "pads of Conv": one_node("Conv", IMAGE, KERNEL, pads=[BEYOND, 0, 0, 0]),
    "a window": one_node("AveragePool", IMAGE, kernel_shape=[BEYOND, 1]),
    "the largest of a window": one_node("MaxPool", IMAGE, kernel_shape=[BEYOND, 1]),
    "many windows": one_node("LpPool", IMAGE, kernel_shape=WINDOW, pads=[BEYOND, 0, 0, 0]),
    "Pad": one_node("Pad", IMAGE, _sizes(0, 0, BEYOND, 0, 0, 0, 0, 0)),
    "Pad that crops again": one_node("Pad", IMAGE, _sizes(0, 0, BEYOND, 0, 0, 0, -BEYOND, 0), mode="edge"),
    "Expand": one_node("Expand", (1, 1), _sizes(BEYOND, 1)),
    "Tile": one_node("Tile", (1, 8), _sizes(BEYOND, 1)),
    "Gather": one_node("Gather", (2, 100_000), np.zeros(5_000, np.int64), axis=0),
    "Resize": one_node("Resize", IMAGE, None, None, _sizes(1, 3, BEYOND, 8)),
    "Upsample": one_node("Upsample", IMAGE, np.array([1, 1, BEYOND, 1], np.float32), opset=9),
    "a sum of a column and a row": one_node("Add", (100_000, 1), drawn(1, 5_000)),
    "a product of a column and a row": one_node("MatMul", (100_000, 1), drawn(1, 5_000)),
    "parts, doubled": nodes(*(("Concat", [f"x{i}" if i else "x"] * 2, f"x{i + 1}", {"axis": 0}) for i in range(30)),
                            ("Relu", ["x30"], "y")),
    "a constant of one number": _added("ConstantOfShape", _sizes(BEYOND, 8)),
    "a constant that counts": _added("Range", np.float32(0), np.float32(BEYOND), np.float32(1)),
    "a constant that counts in small steps": _added("Range", np.float32(0), np.float32(1), np.float32(1 / BEYOND)),
    "a constant, expanded": _added("Expand", drawn(1, 8), _sizes(BEYOND, 8)),
    "a constant, tiled": _added("Tile", drawn(1, 8), _sizes(BEYOND, 1)),
    "a constant, padded": _added("Pad", drawn(1, 8), _sizes(0, BEYOND, 0, 0)),
    "a constant, one hot": _added("OneHot", _sizes(1), _sizes(BEYOND), np.array([0, 1], np.float32)),
    "a constant, one hot, of a depth in floats": _added(
        "OneHot", _sizes(1), np.array([BEYOND], np.float32), np.array([0, 1], np.float32)
    ),
    "a constant, upsampled": nodes(
        ("Upsample", ["w", "s"], "e"),
        ("Add", ["x", "e"], "y"),
        x=(1, 8),
        held={"w": drawn(1, 8), "s": np.array([1, BEYOND], np.float32)},
        opset=9,
    ),
    "a window of numbers": _added("HannWindow", _sizes(BEYOND)),
    "a constant, convolved": _added("Conv", drawn(1, 1, 8, 8), drawn(1, 1, 2, 2), pads=[BEYOND, 0, 0, 0]),
}  # fmt: skip


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_value_beyond_memory_is_refused_before_it_is_made(name: str) -> None:
    with pytest.raises(ModelError, match=r"node '\w+#\d+' \(\w+\).*(asks for|elements)") as caught:
        network_of(Model.open(TOO_LARGE[name]))
    assert "\n" not in str(caught.value)


HARMLESS = {
    "strides beyond the input": (one_node("Conv", IMAGE, KERNEL, strides=[BEYOND] * 2), KERNEL.reshape(3, -1)),
    "the same, padded": (
        one_node("Conv", IMAGE, KERNEL, strides=[BEYOND] * 2, pads=[0, 0, 1, 1]),
        KERNEL.reshape(3, -1),
    ),
    "what crops all": (one_node("Pad", IMAGE, _sizes(0, 0, -BEYOND, 0, 0, 0, 0, 0)), np.zeros((1, 1))),
}


@pytest.mark.parametrize("name", HARMLESS)
def test_large_numbers_that_make_little_have_their_constant(name: str) -> None:
    model, matrix = HARMLESS[name]
    made = network_of(Model.open(model))
    assert isinstance(made, Network)
    bounds = product_bounds(made)
    assert not isinstance(bounds, Unbounded)
    made.forward(*(np.ones(source.shape) for source in made.sources))
    # The norm's upper end is at most a few per cent above.
    assert bounds[-1].bound == pytest.approx(np.linalg.norm(matrix.astype(np.float64), 2), rel=0.05)


@pytest.mark.parametrize(
    "model",
    [
        one_node("Split", (1, 8), opset=18, axis=1, num_outputs=BEYOND),
        one_node("GroupNormalization", IMAGE, drawn(3), drawn(3), opset=21, num_groups=BEYOND),
        one_node("GroupNormalization", IMAGE, drawn(3), drawn(3), opset=21, num_groups=0),
    ],
)
def test_counts_that_do_not_fit_are_refused(model: onnx.ModelProto) -> None:
    with pytest.raises(ModelError, match="can't read what it is given"):
        network_of(Model.open(model))


def test_a_window_of_more_channels_than_there_are_sums_all() -> None:
    """LRN's window, 10⁹ long, reads no more than the channels that there are."""
    made = network_of(Model.open(one_node("LRN", IMAGE, size=BEYOND, alpha=float(BEYOND))))
    assert isinstance(made, Network)
    x = drawn(*IMAGE).astype(np.float64)
    expected = x / (1.0 + np.square(x).sum(axis=1, keepdims=True)) ** 0.75
    np.testing.assert_allclose(made.forward(x), expected, rtol=1e-6)  # attributes are float32


@pytest.mark.parametrize("how", ["rank", "flat", "far", "many", "negative", "texts", "absent", "wide"])
@pytest.mark.parametrize("held", ["initializer", "Constant"])
def test_sparse_tensors_whose_places_do_not_fit(held: str, how: str) -> None:
    """As fuzzing found them; the last sizes would fill memory."""
    values = onnx.numpy_helper.from_array(drawn(4) if how != "wide" else drawn(4, 1, 1), "w")
    places: dict[str, NDArray[np.int64]] = {
        "rank": np.zeros((4, 16), np.int64),
        "flat": np.arange(8),
        "far": np.arange(4) + 10**6,
        "negative": np.arange(4) - 4,
    }
    sizes = {"many": [2**40, 2**40], "absent": [-1, 3]}.get(how, [6, 5])
    indices = onnx.numpy_helper.from_array(places.get(how, np.arange(4)), "places")
    if how == "texts":
        indices = onnx.helper.make_tensor("places", onnx.TensorProto.FLOAT, [4], [0.5] * 4)
    sparse = onnx.SparseTensorProto(values=values, indices=indices, dims=sizes)
    model = network([node("MatMul", ["x", "w"])], {}, {"x": (2, 6)})
    if held == "Constant":
        made = onnx.helper.make_node("Constant", [], ["w"], sparse_value=sparse)
        model.graph.node.insert(0, made)
    else:
        model.graph.sparse_initializer.append(sparse)
    with pytest.raises(ModelError, match=r"tensor 'w' can't be read|no data stored"):
        network_of(Model.open(model))
