"""Nodes that are not of the form that their operators have end in one sentence."""

from __future__ import annotations

import random

import numpy as np
import onnx
import pytest

from sn_graph.certify import Network, network_of
from sn_graph.certify.product import product_bounds
from sn_graph.errors import SnGraphError
from sn_graph.model import Model
from tests.support.builders import drawn
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
