"""Networks among the seeds: activations, residuals, normalizations and pools, which certify reads."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper

from tools.fuzz.making import drawn, model

node = helper.make_node


def networks() -> Iterator[onnx.ModelProto]:
    """Yield networks whose Lipschitz constants certify bounds, or says why it can't."""
    yield _residual()
    yield _attention()
    yield _pooling()
    yield _arithmetic()
    yield model(
        [
            node("Gemm", ["x", "w0", "b0"], ["h0"], transB=1),
            node("Relu", ["h0"], ["r0"]),
            node("Gemm", ["r0", "w1", "b1"], ["h1"], transB=1),
            node("LeakyRelu", ["h1"], ["r1"], alpha=0.2),
            node("Gemm", ["r1", "w2"], ["y"]),
        ],
        {"w0": drawn(4, 3), "b0": drawn(4), "w1": drawn(4, 4), "b1": drawn(4), "w2": drawn(4, 2)},
        ["N", 3],
    )


def _residual() -> onnx.ModelProto:
    """Return a block of a residual network, from an image of any number of samples to probabilities."""
    return model(
        [
            node("Conv", ["x", "k"], ["c"], kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
            node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"], epsilon=1e-3),
            node("PRelu", ["n", "slope"], ["a"]),
            node("Conv", ["a", "depthwise"], ["d"], group=4, dilations=[2, 2], pads=[2, 2, 2, 2]),
            node("Add", ["d", "c"], ["sum"]),
            node("Clip", ["sum", "low", "high"], ["clipped"]),
            node("GlobalAveragePool", ["clipped"], ["pooled"]),
            node("Flatten", ["pooled"], ["flat"]),
            node("Gemm", ["flat", "head", "bias"], ["logits"], transB=1),
            node("Softmax", ["logits"], ["y"], axis=-1),
        ],
        {
            "k": drawn(4, 2, 3, 3),
            "scale": drawn(4),
            "shift": drawn(4),
            "mean": drawn(4),
            "var": np.full(4, 0.5, np.float32),
            "slope": drawn(4, 1, 1),
            "depthwise": drawn(4, 1, 3, 3),
            "low": np.array(-1, np.float32),
            "high": np.array(6, np.float32),
            "head": drawn(3, 4),
            "bias": drawn(3),
        },
        ["N", 2, 5, 5],
    )


def _attention() -> onnx.ModelProto:
    """Return a block of a transformer: a product of two activations, which leaves it without a constant."""
    return model(
        [
            node("LayerNormalization", ["x", "gain", "shift"], ["n"], axis=-1),
            node("MatMul", ["n", "q"], ["queries"]),
            node("MatMul", ["n", "k"], ["keys"]),
            node("Transpose", ["keys"], ["turned"], perm=[0, 2, 1]),
            node("MatMul", ["queries", "turned"], ["scores"]),
            node("Mul", ["scores", "scale"], ["scaled"]),
            node("Softmax", ["scaled"], ["weights"], axis=-1),
            node("MatMul", ["n", "v"], ["values"]),
            node("MatMul", ["weights", "values"], ["mixed"]),
            node("Add", ["mixed", "x"], ["residual"]),
            node("Div", ["residual", "root"], ["halved"]),
            node("Erf", ["halved"], ["erf"]),
            node("Add", ["erf", "one"], ["raised"]),
            node("Mul", ["residual", "raised"], ["gated"]),
            node("ReduceMean", ["gated"], ["y"], axes=[1], keepdims=0),
        ],
        {
            "gain": drawn(4),
            "shift": drawn(4),
            "q": drawn(4, 4),
            "k": drawn(4, 4),
            "v": drawn(4, 4),
            "scale": np.array(0.5, np.float32),
            "root": np.array(1.4142135, np.float32),
            "one": np.array(1, np.float32),
        },
        [1, 3, 4],
    )


def _pooling() -> onnx.ModelProto:
    """Return what moves, pools and joins elements of an image."""
    return model(
        [
            node("Pad", ["x", "pads"], ["p"], mode="reflect"),
            node("Split", ["p", "sizes"], ["left", "right"], axis=1),
            node("MaxPool", ["left"], ["m"], kernel_shape=[2, 2], strides=[2, 2]),
            node("AveragePool", ["right"], ["a"], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]),
            node("Concat", ["m", "a"], ["joint"], axis=1),
            node("ConvTranspose", ["joint", "k"], ["up"], strides=[2, 2], group=2),
            node("DepthToSpace", ["up"], ["deep"], blocksize=2),
            node("Resize", ["deep", "", "factors"], ["resized"], mode="linear"),
            node("Slice", ["resized", "starts", "ends", "axes", "steps"], ["cut"]),
            node("InstanceNormalization", ["cut", "gain", "shift"], ["n"], epsilon=1e-2),
            node("Reshape", ["n", "flat"], ["f"]),
            node("MatMul", ["f", "w"], ["product"]),
            node("Sigmoid", ["product"], ["s"]),
            node("Tanh", ["product"], ["t"]),
            node("Sub", ["s", "t"], ["y"]),
        ],
        {
            "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
            "sizes": np.array([2, 2]),
            "k": drawn(4, 2, 2, 2),
            "factors": np.array([1, 1, 0.5, 0.5], np.float32),
            "starts": np.array([-1]),
            "ends": np.array([-(2**63)]),
            "axes": np.array([3]),
            "steps": np.array([-1]),
            "gain": drawn(1),
            "shift": drawn(1),
            "flat": np.array([0, -1]),
            "w": drawn(36, 3),
        },
        [1, 4, 4, 4],
    )


def _arithmetic() -> onnx.ModelProto:
    """Return layers that exporters write as loose arithmetic: a norm of roots of squares, a swish, a gate."""
    return model(
        [
            node("Pow", ["x", "two"], ["square"]),
            node("ReduceMean", ["square"], ["mean"], axes=[-1], keepdims=1),
            node("Add", ["mean", "epsilon"], ["raised"]),
            node("Sqrt", ["raised"], ["root"]),
            node("Div", ["x", "root"], ["normal"]),
            node("Mul", ["normal", "gain"], ["n"]),
            node("Gemm", ["n", "w"], ["h"], alpha=2.0, beta=0.5, transA=0),
            node("HardSigmoid", ["h"], ["hard"]),
            node("Mul", ["h", "hard"], ["swish"]),
            node("Abs", ["swish"], ["size"]),
            node("Max", ["size", "epsilon"], ["largest"]),
            node("Einsum", ["largest", "v"], ["e"], equation="bi,ij->bj"),
            node("Where", ["mask", "e", "epsilon"], ["y"]),
        ],
        {
            "two": np.array(2, np.float32),
            "epsilon": np.array(1e-2, np.float32),
            "gain": drawn(4),
            "w": drawn(4, 6),
            "v": drawn(6, 2),
            "mask": np.array([True, False]),
        },
        [2, 4],
    )
