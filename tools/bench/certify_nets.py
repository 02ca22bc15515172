"""The networks that the certify benchmark asks: published ones, ECLipsE's by their rule, and 1-Lipschitz layers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sn_graph.spectral.convolution import Convolution, operator_norm

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT.parent / "shared" / "certify"
DEPTHS, WIDTHS = (2, 5, 10, 20, 30, 50, 75, 100), (20, 40, 60, 80, 100)
LAYERS = 4

Real = NDArray[np.float64]


@dataclass(frozen=True)
class Net:
    """A network, as a model and, where it is a chain of layers with ReLU between, as their weights.

    Attributes:
        title: Its name in the record.
        weights: W_1, …, W_l; None for anything but a chain.
        make: Returns the model.
        claimed: What its makers claim of its constant; None for nothing.
    """

    title: str
    weights: list[Real] | None
    make: Callable[[], onnx.ModelProto]
    claimed: float | None = None


def published(name: str, claimed: float) -> Net | None:
    """Return one of LipSDP's example networks (Fazlyab et al., 2019), or None where its weights are not here."""
    path = PUBLISHED / f"{name}_weights.npz"
    if not path.exists():
        return None
    with np.load(path) as file:
        weights = [file[key].astype(np.float64) for key in sorted(file.files)]
    return Net(f"LipSDP {name}", weights, lambda: chain(weights), claimed)


def eclipse(depth: int, width: int) -> Net:
    """Return one of ECLipsE's networks, made by YuezhuXu/ECLipsE, ECLipsE_paper/generate_random_weights.py."""
    random = np.random.RandomState(width * 7 + depth * 13)
    weights = []
    for columns, rows in pairwise([4, *[width] * (depth - 1), 1]):
        norm = random.uniform(0.4, 1.8)
        weight = random.randn(rows, columns)
        weights.append(norm * weight / np.linalg.norm(weight, 2))
    return Net(f"ECLipsE L{depth} w{width}", weights, lambda: chain(weights))


def bottlenecks(seed: int) -> Net:
    """Return 2-22-2-200-200-3, on which solvers stall: its layers' scales differ, and two neurons carry everything."""
    generator = np.random.default_rng(seed)
    weights = [generator.standard_normal((rows, columns)) for columns, rows in pairwise((2, 22, 2, 200, 200, 3))]
    return Net(f"2-22-2-200-200-3, seed {seed}", weights, lambda: chain(weights))


def chain(weights: Sequence[Real]) -> onnx.ModelProto:
    """Return Gemm, Relu, …, Gemm; float64, so that the weights are those of the peers."""
    nodes, value = [], "x"
    for index in range(len(weights)):
        nodes.append(helper.make_node("Gemm", [value, f"w{index}"], [f"s{index}"], transB=1, name=f"gemm{index}"))
        value = f"s{index}"
        if index + 1 < len(weights):
            nodes.append(helper.make_node("Relu", [value], [f"z{index}"], name=f"relu{index}"))
            value = f"z{index}"
    tensors = {f"w{index}": weight for index, weight in enumerate(weights)}
    return _model(nodes, tensors, (1, weights[0].shape[1]), value, (1, len(weights[-1])))


def dense_layers(family: str, size: int = 32) -> Net:
    """Return four SLL, CPL or AOL layers of a size, with drawn weights."""
    generator = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, Real] = {}
    value = "x"
    for index in range(LAYERS):
        matrix = generator.standard_normal((size, size))
        scale = np.abs(matrix @ matrix.T).sum(axis=1)
        if family == "AOL":  # Prach & Lampert, 2022, 2208.03160
            scale = np.abs(matrix.T @ matrix).sum(axis=1)
            value = _add(nodes, tensors, "Gemm", value, {"": matrix / np.sqrt(scale)}, index, transB=1)
            value = _add(nodes, tensors, "Relu", value, {}, index)
            continue
        # SLL, Araujo et al., 2023, 2303.03169, with q = 1; CPL, Meunier et al., 2022, 2110.12690.
        factor = 2.0 / scale if family == "SLL" else np.full(size, 2.0 / np.linalg.norm(matrix, 2) ** 2)
        inner = _add(nodes, tensors, "Gemm", value, {"": matrix}, index, transB=1)
        inner = _add(nodes, tensors, "Relu", inner, {}, index)
        inner = _add(nodes, tensors, "Gemm", inner, {"back": -factor[:, None] * matrix}, index)
        nodes.append(helper.make_node("Add", [value, inner], [f"v{index}"], name=f"add{index}"))
        value = f"v{index}"
    return Net(f"{family}, dense", None, lambda: _model(nodes, tensors, (1, size), value, (1, size)), 1.0)


def convolutional_layers(family: str, channels: int = 8, size: int = 16) -> Net:
    """Return four SLL, CPL or AOL layers of 3×3 convolutions with zero padding, with drawn weights."""
    generator = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    tensors: dict[str, Real] = {}
    value, shape = "x", (1, channels, size, size)
    options: dict[str, Any] = {"pads": [1, 1, 1, 1]}
    for index in range(LAYERS):
        kernel = generator.standard_normal((channels, channels, 3, 3))
        if family == "AOL":
            scale = _correlation(kernel.transpose(1, 0, 2, 3)).sum(axis=1)
            scaled = kernel / np.sqrt(scale)[:, None, None]
            value = _add(nodes, tensors, "Conv", value, {"": scaled}, index, **options)
            value = _add(nodes, tensors, "Relu", value, {}, index)
            continue
        factor = 2.0 / _correlation(kernel).sum(axis=1)
        if family == "CPL":
            single = Convolution(kernel.astype(np.float32), (1, 1), (1, 1), (1, 1, 1, 1), 1, (size, size))
            factor = np.full(channels, 2.0 / (operator_norm(single).upper * (1.0 + 1e-6)) ** 2)
        inner = _add(nodes, tensors, "Conv", value, {"": kernel}, index, **options)
        inner = _add(nodes, tensors, "Relu", inner, {}, index)
        back = -factor[:, None, None, None] * kernel
        inner = _add(nodes, tensors, "ConvTranspose", inner, {"back": back}, index, **options)
        nodes.append(helper.make_node("Add", [value, inner], [f"v{index}"], name=f"add{index}"))
        value = f"v{index}"
    return Net(f"{family}, convolutional", None, lambda: _model(nodes, tensors, shape, value, shape), 1.0)


def _correlation(kernel: Real) -> Real:
    """Σ_s |(k_o ⋆ k_p)(s)| over all shifts s [O, O]."""
    taps = kernel.shape[2]
    total = np.zeros((len(kernel), len(kernel)))
    for down, right in product(range(1 - taps, taps), repeat=2):
        here = kernel[:, :, max(0, down) : taps + min(0, down), max(0, right) : taps + min(0, right)]
        there = kernel[:, :, max(0, -down) : taps + min(0, -down), max(0, -right) : taps + min(0, -right)]
        total += np.abs(np.einsum("oihw,pihw->op", here, there))
    return total


def _add(
    nodes: list[onnx.NodeProto],
    tensors: dict[str, Real],
    op_type: str,
    value: str,
    weights: dict[str, Real],
    index: int,
    **attributes: Any,
) -> str:
    """Append a node; return its value. A weight's key tells it from others of the same layer."""
    names = []
    for key, weight in weights.items():
        names.append(f"w{key}{index}")
        tensors[names[-1]] = weight
    name = f"{op_type.lower()}{''.join(weights)}{index}"
    nodes.append(helper.make_node(op_type, [value, *names], [f"{name}_y"], name=name, **attributes))
    return f"{name}_y"


def _model(
    nodes: list[onnx.NodeProto], tensors: dict[str, Real], shape: Sequence[int], output: str, out_shape: Sequence[int]
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "certify",
        [helper.make_tensor_value_info("x", TensorProto.DOUBLE, shape)],
        [helper.make_tensor_value_info(output, TensorProto.DOUBLE, out_shape)],
        [numpy_helper.from_array(tensor, name) for name, tensor in tensors.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
