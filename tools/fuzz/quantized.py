"""Quantized weights among the seeds, in the forms that quantizers leave them."""

from collections.abc import Iterator

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tools.fuzz.making import MICROSOFT, drawn, model

node = helper.make_node
_SCALE, _ZERO = np.array(0.1, np.float32), np.array(3, np.uint8)


def quantized() -> Iterator[onnx.ModelProto]:
    """Yield models of weights behind DequantizeLinear, and of operators that take weights as integers."""
    yield _dequantized()
    yield _linear()
    yield _dynamic()
    yield _blocked()
    yield _fused()


def _octets(*shape: int) -> NDArray[np.uint8]:
    return (np.arange(np.prod(shape)) % 251).astype(np.uint8).reshape(shape)


def _dequantized() -> onnx.ModelProto:
    """Return a model with QuantizeLinear and DequantizeLinear around everything, its scales per channel."""
    return model(
        [
            node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
            node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
            node("DequantizeLinear", ["k", "sk", "zk"], ["kd"], axis=0),
            node("DequantizeLinear", ["b", "sb"], ["bd"], axis=0),
            node("Conv", ["xd", "kd", "bd"], ["c"], pads=[1, 1, 1, 1]),
            node("Flatten", ["c"], ["f"]),
            node("DequantizeLinear", ["w", "sw"], ["wd"], axis=-1),
            node("Transpose", ["wd"], ["wt"], perm=[1, 0]),
            node("Gemm", ["f", "wt"], ["y"]),
        ],
        {
            "sx": _SCALE,
            "zx": _ZERO,
            "k": _octets(4, 2, 3, 3).astype(np.int8),
            "sk": np.linspace(0.1, 0.4, 4, dtype=np.float32),
            "zk": np.zeros(4, np.int8),
            "b": np.arange(4, dtype=np.int32),
            "sb": np.full(4, 0.01, np.float32),
            "w": _octets(3, 64).astype(np.int8),
            "sw": np.linspace(0.1, 0.2, 64, dtype=np.float32),
        },
        [1, 2, 4, 4],
    )


def _linear() -> onnx.ModelProto:
    """Return products and convolutions between integers, with the scales as inputs of their nodes."""
    return model(
        [
            node("QuantizeLinear", ["x", "scale", "zero"], ["xq"]),
            node("QLinearConv", ["xq", "scale", "zero", "k", "sk", "zk", "scale", "zero", "b"], ["c"]),
            node("Reshape", ["c", "flat"], ["f"]),
            node("QLinearMatMul", ["f", "scale", "zero", "w", "sw", "zw", "scale", "zero"], ["m"]),
            node("QGemm", ["m", "scale", "zero", "g", "scale", "zero", "", "", ""], ["y"], domain=MICROSOFT, transB=1),
        ],
        {
            "scale": _SCALE,
            "zero": _ZERO,
            "k": _octets(3, 2, 2, 2),
            "sk": np.array([0.1, 0.2, 0.3], np.float32),
            "zk": np.full(3, 3, np.uint8),
            "b": np.arange(3, dtype=np.int32),
            "flat": np.array([1, 12]),
            "w": _octets(12, 5),
            "sw": np.array([0.2], np.float32),
            "zw": np.array([7], np.uint8),
            "g": _octets(4, 5),
        },
        [1, 2, 3, 3],
    )


def _dynamic() -> onnx.ModelProto:
    """Return what quantize_dynamic makes of a convolution and of a product."""
    return model(
        [
            node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
            node("ConvInteger", ["xq", "k", "xz", "zero"], ["c"]),
            node("Cast", ["c"], ["cf"], to=TensorProto.FLOAT),
            node("Mul", ["xs", "scale"], ["cs"]),
            node("Mul", ["cf", "cs"], ["cd"]),
            node("Flatten", ["cd"], ["f"]),
            node("DynamicQuantizeLinear", ["f"], ["fq", "fs", "fz"]),
            node("MatMulIntegerToFloat", ["fq", "w", "fs", "scale", "fz", "zero"], ["m"], domain=MICROSOFT),
            node("MatMulInteger", ["fq", "w2", "fz"], ["n"]),
            node("Cast", ["n"], ["nf"], to=TensorProto.FLOAT),
            node("Mul", ["nf", "s2"], ["nd"]),
            node("Add", ["m", "nd"], ["y"]),
        ],
        {
            "k": _octets(3, 2, 2, 2),
            "zero": _ZERO,
            "scale": _SCALE,
            "w": _octets(12, 5),
            "w2": _octets(12, 5).astype(np.int8),
            "s2": drawn(5),
        },
        [1, 2, 3, 3],
    )


def _blocked() -> onnx.ModelProto:
    """Return weights of 4 and 8 bits with a scale for each block, of which ONNX and onnxruntime have a form each."""
    made = model(
        [
            node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0, block_size=2),
            node("MatMul", ["x", "wd"], ["h"]),
            node("DequantizeLinear", ["v", "sv"], ["vd"], axis=1),
            node("Reshape", ["vd", "sizes"], ["vr"]),
            node("MatMul", ["h", "vr"], ["i"]),
            node("MatMulNBits", ["i", "n", "sn", "zn"], ["m"], domain=MICROSOFT, N=4, K=6, bits=4, block_size=16),
            node("Relu", ["m"], ["y"]),
        ],
        {
            "sw": drawn(2, 6),
            "v": _octets(3, 12).astype(np.int8),
            "sv": np.linspace(0.1, 0.4, 12, dtype=np.float32),
            "sizes": np.array([6, -1]),
            "n": _octets(4, 1, 8),
            "sn": drawn(4),
            "zn": np.full(4, 8, np.uint8),
        },
        [1, 4],
        opset=21,
    )
    numbers = [(place * 7) % 16 for place in range(24)]
    made.graph.initializer.append(helper.make_tensor("w", TensorProto.UINT4, [4, 6], numbers))
    made.graph.initializer.append(helper.make_tensor("zw", TensorProto.UINT4, [2, 6], [8] * 12))
    return made


def _fused() -> onnx.ModelProto:
    """Return the operators that onnxruntime's optimizer fuses others to."""
    return model(
        [
            node("FusedConv", ["x", "k", "b"], ["c"], domain=MICROSOFT, activation="Relu"),
            node("Flatten", ["c"], ["f"]),
            node("FusedGemm", ["f", "g", "gb"], ["d"], domain=MICROSOFT, activation="LeakyRelu",
                 activation_alpha=0.1, transB=1, alpha=2.0, beta=1.0),
            node("FusedMatMul", ["d", "w"], ["m"], domain=MICROSOFT, transA=0, transB=1, alpha=0.5),
            node("Unsqueeze", ["m", "axes"], ["u"]),
            node("Attention", ["u", "qkv", "qb"], ["a"], domain=MICROSOFT, num_heads=2),
            node("Cast", ["a"], ["ids"], to=TensorProto.INT32),
            node("ReduceMax", ["ids"], ["id"], axes=[2], keepdims=0),
            node("Mul", ["id", "none"], ["first"]),
            node("EmbedLayerNormalization", ["first", "", "words", "places", "", "gain", "gb4"], ["e", "mask"],
                 domain=MICROSOFT),
            node("QuickGelu", ["e"], ["y"], domain=MICROSOFT),
        ],
        {
            "k": drawn(3, 2, 2, 2),
            "b": drawn(3),
            "g": drawn(5, 12),
            "gb": drawn(5),
            "w": drawn(4, 5),
            "axes": np.array([1]),
            "qkv": drawn(4, 12),
            "qb": drawn(12),
            "none": np.array(0, np.int32),
            "words": drawn(6, 4),
            "places": drawn(3, 4),
            "gain": drawn(4),
            "gb4": drawn(4) * 2,
        },
        [1, 2, 3, 3],
    )  # fmt: skip
