"""The networks that the runtime benchmark runs: random weights in the shapes of real discriminators and classifiers."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parents[2]
DCGAN = (3, 64, 128, 256, 512)  # channels
RESNET = ((64, 3), (128, 4), (256, 6), (512, 3))  # width, blocks

Array = NDArray[Any]


@dataclass(frozen=True)
class Network:
    """A model with input `x`, and what to feed it.

    Attributes:
        title: Its name in the record.
        make: Returns the model.
        x: Returns an input for a batch size.
    """

    title: str
    make: Callable[[], onnx.ModelProto]
    x: Callable[[int], Array]


def random(*shape: int, gain: float = 2.0) -> NDArray[np.float32]:
    """Return normal weights, float32; images pass a stack of them without growing or dying."""
    fan = int(np.prod(shape[1:]))
    return np.random.default_rng(shape).standard_normal(shape, np.float32) * np.float32((gain / fan) ** 0.5)


class Builder:
    """A model in the making: nodes, one behind the other, and their weights."""

    def __init__(self) -> None:
        """Begin without nodes."""
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Add a node; return the name of its output."""
        name = f"{op_type.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op_type, inputs, [name], name=name, **attributes))
        return name

    def weight(self, array: Array) -> str:
        """Add an initializer; return its name."""
        self.weights.append(numpy_helper.from_array(array, f"weight_{len(self.weights)}"))
        return self.weights[-1].name

    def conv(self, x: str, outputs: int, inputs: int, size: int, stride: int, gain: float = 2.0) -> str:
        """Add a convolution with bias, [outputs, inputs, size, size], padded to ⌈input / stride⌉ places an axis."""
        pad = size // 2 if size % 2 else (size - stride) // 2
        names = [
            self.weight(random(outputs, inputs, size, size, gain=gain)),
            self.weight(np.zeros(outputs, np.float32)),
        ]
        return self.op("Conv", x, *names, kernel_shape=[size] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def model(self, shape: Sequence[int], output: str, element: int = TensorProto.FLOAT) -> onnx.ModelProto:
        """Return the model with input `x` [n, *shape] of an element type and the output of that name, opset 17."""
        ends = [
            helper.make_tensor_value_info("x", element, ["n", *shape]),
            helper.make_tensor_value_info(output, TensorProto.FLOAT, None),
        ]
        graph = helper.make_graph(self.nodes, "network", ends[:1], ends[1:], self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def dcgan() -> onnx.ModelProto:
    """Return the discriminator of DCGAN for 64×64 images; Radford et al., 2015, https://arxiv.org/abs/1511.06434."""
    build, y = Builder(), "x"
    for inputs, outputs in pairwise(DCGAN):
        y = build.op("LeakyRelu", build.conv(y, outputs, inputs, 4, 2), alpha=0.2)
    return build.model((3, 64, 64), build.conv(y, 1, DCGAN[-1], 4, 4))


def resnet50() -> onnx.ModelProto:
    """Return ResNet-50 with its batch normalizations folded into the convolutions."""
    build = Builder()
    y = build.op("Relu", build.conv("x", 64, 3, 7, 2))
    y = build.op("MaxPool", y, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    channels = 64
    for width, blocks in RESNET:
        for block in range(blocks):
            stride = 2 if block == 0 and width > 64 else 1
            short = build.conv(y, 4 * width, channels, 1, stride, 1.0) if block == 0 else y
            z = build.op("Relu", build.conv(y, width, channels, 1, 1))
            z = build.op("Relu", build.conv(z, width, width, 3, stride))
            y = build.op("Relu", build.op("Add", build.conv(z, 4 * width, width, 1, 1, 0.1), short))
            channels = 4 * width
    y = build.op("Flatten", build.op("GlobalAveragePool", y))
    y = build.op("Gemm", y, build.weight(random(1000, channels)), build.weight(np.zeros(1000, np.float32)), transB=1)
    return build.model((3, 224, 224), y)


def matmul(size: int = 4096) -> onnx.ModelProto:
    """Return one product with a square weight."""
    build = Builder()
    return build.model((size,), build.op("MatMul", "x", build.weight(random(size, size))))


def gather(rows: int = 50_000, columns: int = 256) -> onnx.ModelProto:
    """Return one lookup in a table."""
    build = Builder()
    return build.model((), build.op("Gather", build.weight(random(rows, columns)), "x"), TensorProto.INT64)


def normal(*shape: int) -> Callable[[int], Array]:
    """Return a function from a batch size to standard normal inputs [batch, *shape], float32."""
    return lambda batch: np.random.default_rng(batch).standard_normal((batch, *shape), np.float32)


def keras_dcgan() -> onnx.ModelProto:
    """Return the small DCGAN discriminator of models/."""
    return onnx.load(ROOT / "models" / "keras_dcgan_discriminator.onnx")


NETWORKS = {
    "dcgan": Network("DCGAN-D 64×64", dcgan, normal(3, 64, 64)),
    "keras-dcgan": Network("`models/keras_dcgan_discriminator.onnx`", keras_dcgan, normal(32, 32, 3)),
    "resnet50": Network("ResNet-50", resnet50, normal(3, 224, 224)),
    "matmul": Network("MatMul 4096²", matmul, normal(4096)),
    "gather": Network("Gather 50000×256", gather, lambda batch: np.random.default_rng(0).integers(0, 50_000, batch)),
}
