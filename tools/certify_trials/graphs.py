"""Random graphs: nodes of all kinds that certify has rules for, each tried in onnxruntime as it is added.

A graph grows from its input: a proposal makes some nodes of values that are there; where onnxruntime runs them and the
result is small and finite, they stay. So no shape has to be known beforehand, and what comes of one proposal is what
the next ones read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

OPSET = 18
# Elements of a value; of an input, whose Jacobians the attack takes by differences.
LARGEST, LONGEST = 1500, 120


@dataclass
class Graph:
    """A graph that grows.

    Attributes:
        rng: Draws everything.
        shape: That of the input, for a batch of one.
        values: What there is to read, with the shapes of a batch of one.
    """

    rng: np.random.Generator
    shape: tuple[int, ...]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    held: list[onnx.TensorProto] = field(default_factory=list)
    values: list[tuple[str, tuple[int, ...]]] = field(default_factory=list)
    count: int = 0

    def constant(self, array: Any, dtype: Any = np.float32) -> str:
        """Hold a constant and return its name."""
        self.count += 1
        self.held.append(numpy_helper.from_array(np.asarray(array, dtype), f"c{self.count}"))
        return f"c{self.count}"

    def add(self, op_type: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Add a node and return the name of its first output."""
        self.count += 1
        names = [f"v{self.count}_{place}" for place in range(outputs)]
        domain = attributes.pop("domain", "")
        name = f"n{self.count}" if self.rng.random() < 0.5 else ""
        self.nodes.append(helper.make_node(op_type, list(inputs), names, name=name, domain=domain, **attributes))
        return names[0]

    def normal(self, *shape: int, scale: float = 1.0) -> NDArray[np.float64]:
        """Return normal numbers."""
        return scale * self.rng.standard_normal(shape)

    def pick(self, *some: Any) -> Any:
        """Return one of some."""
        return some[int(self.rng.integers(len(some)))]

    def model(self, output: str, batch: int | str) -> onnx.ModelProto:
        """Return the model that ends at a value."""
        shape = [batch, *self.shape[1:]]
        graph = helper.make_graph(
            self.nodes,
            "trial",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)],
            self.held,
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    """Open a model quietly, on one thread."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def make(seed: int) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Return a random model and the shape of its input, for a batch of one."""
    rng = np.random.default_rng([17, seed])
    shape: tuple[int, ...] = (1, int(rng.integers(2, 9)))
    kind = rng.random()
    if kind < 0.5:
        shape = (1, int(rng.integers(1, 5)), int(rng.integers(3, 6)), int(rng.integers(3, 6)))
    elif kind < 0.65:
        shape = (1, int(rng.integers(1, 4)), int(rng.integers(4, 9)))
    graph = Graph(rng, shape, values=[("x", shape)])
    last = "x"
    for _ in range(int(rng.integers(2, 10))):
        last = _grown(graph, last)
    output = graph.add("Identity", last)
    return graph.model(output, "N" if rng.random() < 0.7 else 1), shape


def _grown(graph: Graph, last: str) -> str:
    """Try proposals until one stays."""
    for _ in range(20):
        propose: Proposal = graph.pick(*PROPOSALS)
        before = len(graph.nodes), len(graph.held)
        name, shape = graph.values[-1]
        made = propose(graph, name, shape)
        if made is not None and _runs(graph, made):
            return made
        del graph.nodes[before[0] :], graph.held[before[1] :]
    return last


def _runs(graph: Graph, output: str) -> bool:
    try:
        found = session(graph.model(output, 1)).run(None, {"x": np.ones(graph.shape, np.float32)})[0]
    except Exception:  # whatever onnxruntime says of a node that does not fit
        return False
    fits = found.dtype == np.float32 and 0 < found.size <= LARGEST and found.ndim > 1 and found.shape[0] == 1
    if fits and np.isfinite(found).all():
        graph.values.append((output, found.shape))
        return True
    return False


Proposal = Callable[[Graph, str, tuple[int, ...]], str | None]


def _activation(g: Graph, x: str, _: tuple[int, ...]) -> str:
    plain = ("Relu", "Tanh", "Sigmoid", "Selu", "Softplus", "Softsign", "HardSwish", "Abs", "Neg", "Erf", "Sin", "Cos")
    with_alpha = {"LeakyRelu": (-2.0, 0.2, 1.5), "Elu": (0.5, 5.0), "Celu": (0.5, 3.0), "HardSigmoid": (0.1, 2.0)}
    name: str = g.pick(*plain, "Atan", "Asinh", "Mish", *with_alpha, "Gelu", "QuickGelu")
    if name in with_alpha:
        return g.add(name, x, alpha=g.pick(*with_alpha[name]))
    if name in ("Gelu", "QuickGelu"):
        return g.add(name, x, domain="com.microsoft")
    return g.add(name, x)


def _written(g: Graph, x: str, _: tuple[int, ...]) -> str:
    """An activation as exporters write it."""
    kind = g.pick("swish", "gelu", "gelu first", "tanh", "hard", "mish", "quotient")
    if kind == "swish":
        return g.add("Mul", x, g.add("Sigmoid", g.add("Mul", x, g.constant(g.pick(1.0, 1.702, -0.5)))))
    if kind == "gelu":
        bent = g.add("Erf", g.add("Div", x, g.constant(np.sqrt(2.0))))
        return g.add("Mul", g.add("Mul", x, g.add("Add", bent, g.constant(1.0))), g.constant(0.5))
    if kind == "gelu first":
        bent = g.add("Erf", g.add("Mul", x, g.constant(np.sqrt(0.5))))
        return g.add("Mul", g.add("Mul", g.constant(0.5), x), g.add("Add", g.constant(1.0), bent))
    if kind == "tanh":
        cubic = g.add("Mul", g.add("Pow", x, g.constant(3.0)), g.constant(0.044715))
        bent = g.add("Tanh", g.add("Mul", g.add("Add", x, cubic), g.constant(np.sqrt(2.0 / np.pi))))
        return g.add("Mul", g.add("Mul", x, g.constant(0.5)), g.add("Add", bent, g.constant(1.0)))
    if kind == "hard":
        gate = g.add("Clip", g.add("Add", x, g.constant(g.pick(3.0, 1.0, -1.0))), g.constant(0.0), g.constant(6.0))
        return g.add("Div", g.add("Mul", x, gate), g.constant(6.0))
    if kind == "mish":
        return g.add("Mul", x, g.add("Tanh", g.add("Softplus", x)))
    return g.add("Div", x, g.add("Add", g.add("Exp", g.add("Neg", x)), g.constant(1.0)))


def _channels(g: Graph, shape: Sequence[int], positive: bool = False) -> str:
    size = shape[1] if len(shape) > 1 else 1
    array = g.normal(size, *(1,) * (len(shape) - 2))
    return g.constant(0.2 + np.abs(array) if positive else array)


def _arithmetic(g: Graph, x: str, shape: tuple[int, ...]) -> str:
    kind = g.pick(
        "mul", "channels", "div", "add", "sub", "from", "prelu", "clip", "max", "min", "sum", "mean", "repeat"
    )
    whole = g.constant(g.normal(*shape[1:]))
    if kind == "channels":
        return g.add("Mul", _channels(g, shape), x)
    if kind == "div":
        return g.add("Div", x, g.constant(0.3 + np.abs(g.normal(*shape[1:]))))
    if kind == "from":
        return g.add("Sub", whole, x)
    if kind == "prelu":
        return g.add("PRelu", x, _channels(g, shape))
    if kind == "clip":
        return g.add("Clip", x, g.constant(-0.5), g.constant(0.7))
    if kind == "repeat":
        return g.add("Add", g.add("Unsqueeze", x, g.constant([1], np.int64)), g.constant(g.normal(2, *shape[1:])))
    if kind in ("sum", "mean"):
        return g.add(kind.title(), x, whole, x)
    return g.add({"mul": "Mul", "add": "Add", "sub": "Sub", "max": "Max", "min": "Min"}[kind], x, whole)


def _dense(g: Graph, x: str, shape: tuple[int, ...]) -> str:
    inner, outer = shape[-1], int(g.rng.integers(1, 8))
    weight = g.normal(inner, outer, scale=0.7)
    kind = g.pick("matmul", "gemm", "transposed", "left", "einsum", "fused", "batch")
    if kind == "gemm":
        return g.add("Gemm", x, g.constant(weight), g.constant(g.normal(outer)), alpha=g.pick(1.0, 0.5, -2.0))
    if kind == "transposed":
        return g.add("Gemm", x, g.constant(weight.T), transB=1)
    if kind == "left" and len(shape) > 2:
        return g.add("MatMul", g.constant(g.normal(outer, shape[-2])), x)
    if kind == "einsum":
        return g.add("Einsum", x, g.constant(weight), equation="...i,ij->...j")
    if kind == "fused":
        return g.add("FusedMatMul", x, g.constant(weight.T), transB=1, alpha=g.pick(0.3, 2.0), domain="com.microsoft")
    if kind == "batch" and len(shape) == 3:
        return g.add("MatMul", x, g.constant(g.normal(shape[1], inner, outer)[None].squeeze(0)[:1]))
    return g.add("MatMul", x, g.constant(weight))


def _convolution(g: Graph, x: str, shape: tuple[int, ...]) -> str | None:
    rank, channels = len(shape) - 2, shape[1]
    if rank < 1:
        return None
    taps = [int(g.rng.integers(1, 4)) for _ in range(rank)]
    strides = [int(g.rng.integers(1, 3)) for _ in range(rank)]
    pads = [int(g.rng.integers(0, 2)) for _ in range(2 * rank)]
    outer = int(g.rng.integers(1, 5))
    common: dict[str, Any] = {"strides": strides, "kernel_shape": taps}
    common |= {"auto_pad": g.pick("SAME_UPPER", "SAME_LOWER", "VALID")} if g.rng.random() < 0.3 else {"pads": pads}
    if g.rng.random() < 0.25:
        return g.add("ConvTranspose", x, g.constant(g.normal(channels, outer, *taps, scale=0.5)), **common)
    common["dilations"] = [int(g.rng.integers(1, 3)) for _ in range(rank)] if "pads" in common else [1] * rank
    if g.rng.random() < 0.25:
        weight = g.normal(channels * 2, 1, *taps, scale=0.5)
        return g.add("Conv", x, g.constant(weight), group=channels, **common)
    weight = g.normal(outer, channels, *taps, scale=0.5)
    return g.add("Conv", x, g.constant(weight), g.constant(g.normal(outer)), **common)


def _pool(g: Graph, x: str, shape: tuple[int, ...]) -> str | None:
    rank = len(shape) - 2
    if rank < 1:
        return None
    name = g.pick("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool", "LRN")
    if name == "LRN":
        return g.add(name, x, size=g.pick(1, 3, 5), alpha=2.0, beta=0.75, bias=0.6)
    if name.startswith("Global"):
        return g.add(name, x)
    taps = [int(g.rng.integers(1, 4)) for _ in range(rank)]
    options: dict[str, Any] = {"kernel_shape": taps, "strides": [int(g.rng.integers(1, 4)) for _ in range(rank)]}
    options["pads"] = [int(g.rng.integers(0, max(1, taps[i % rank]))) // 2 for i in range(2 * rank)]
    if name != "LpPool":
        options["ceil_mode"] = int(g.rng.integers(0, 2))
    if name == "AveragePool":
        options["count_include_pad"] = int(g.rng.integers(0, 2))
    return g.add(name, x, **options)


def _moved(g: Graph, x: str, shape: tuple[int, ...]) -> str | None:
    rank = len(shape)
    axis = int(g.rng.integers(1, rank))
    size = shape[axis]
    kind = g.pick(
        "transpose", "flatten", "slice", "gather", "pad", "tile", "split", "resize", "depth", "space", "where"
    )
    if kind == "transpose":
        return g.add("Transpose", x, perm=[0, *(1 + g.rng.permutation(rank - 1))])
    if kind == "flatten":
        return g.add("Reshape", x, g.constant([0, -1], np.int64)) if g.rng.random() < 0.5 else g.add("Flatten", x)
    if kind == "slice":
        start, step = int(g.rng.integers(-1, size)), int(g.pick(1, 2, -1))
        stop = size + 5 if step > 0 else -size - 5
        return g.add("Slice", x, *(g.constant([one], np.int64) for one in (start, stop, axis, step)))
    if kind == "gather":
        chosen = g.rng.integers(-size, size, int(g.rng.integers(1, 2 * size + 1)))
        return g.add("Gather", x, g.constant(chosen, np.int64), axis=axis)
    if kind == "pad":
        pads = np.zeros(2 * rank, np.int64)
        pads[axis], pads[axis + rank] = g.rng.integers(-1, 3, 2)
        return g.add("Pad", x, g.constant(pads, np.int64), mode=g.pick("constant", "edge", "reflect"))
    if kind == "tile":
        repeats = np.ones(rank, np.int64)
        repeats[axis] = 2
        return g.add("Tile", x, g.constant(repeats, np.int64))
    if kind == "split" and size % 2 == 0:
        first = g.add("Split", x, outputs=2, axis=axis, num_outputs=2)
        parts = [first, first[:-1] + "1"]
        if g.rng.random() < 0.5:
            return g.add(g.pick("Add", "Sub", "Max", "Min"), *parts)
        return g.add("Concat", *(g.add(name, *parts) for name in ("Max", "Min")), axis=axis)
    if kind == "resize" and rank > 2:
        where = g.pick("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")
        # Where corners are aligned and a size is rounded, runtimes do not agree.
        factors = (1.0, 2.0) if where == "align_corners" else (0.6, 1.0, 1.5, 2.0)
        scales = [1.0, 1.0, *(float(g.pick(*factors)) for _ in range(rank - 2))]
        mode = g.pick("nearest", "linear", "cubic" if rank == 4 else "linear")
        return g.add("Resize", x, "", g.constant(scales), mode=mode, coordinate_transformation_mode=where)
    if kind in ("depth", "space") and rank == 4:
        return g.add("DepthToSpace" if kind == "depth" else "SpaceToDepth", x, blocksize=2)
    if kind == "where":
        mask = g.constant(g.rng.random(shape[1:]) < 0.5, np.bool_)
        return g.add("Where", mask, x, g.constant(g.normal(*shape[1:])))
    return None


def _reduced(g: Graph, x: str, shape: tuple[int, ...]) -> str:
    axes = sorted({int(g.rng.integers(1, len(shape))) for _ in range(int(g.rng.integers(1, 3)))})
    name = g.pick("Sum", "Mean", "Max", "Min", "L1", "L2", "LogSumExp", "TopK", "CumSum", "centre")
    if name == "TopK":
        count = int(g.rng.integers(1, shape[axes[0]] + 1))
        largest = int(g.rng.integers(0, 2))
        return g.add(name, x, g.constant([count], np.int64), outputs=2, axis=axes[0], largest=largest)
    if name == "CumSum":
        return g.add(name, x, g.constant(axes[0], np.int64), reverse=int(g.rng.integers(0, 2)))
    if name == "centre":
        return g.add("Sub", x, g.add("ReduceMean", x, g.constant(axes, np.int64)))
    return g.add(f"Reduce{name}", x, g.constant(axes, np.int64), keepdims=int(g.rng.random() < 0.8))


def _normalized(g: Graph, x: str, shape: tuple[int, ...]) -> str | None:
    name = g.pick("Batch", "Layer", "Instance", "softmax", "log", "written", "rms")
    channels = shape[1]
    one = [g.constant(g.normal(channels)) for _ in range(3)]
    if name == "Batch":
        spread = g.constant(0.05 + np.abs(g.normal(channels)))
        return g.add("BatchNormalization", x, *one, spread, epsilon=1e-3)
    if name == "Layer":
        size = shape[-1]
        scale, bias = (g.constant(g.normal(size)) for _ in range(2))
        return g.add("LayerNormalization", x, scale, bias, epsilon=g.pick(0.05, 1.0)) if size > 1 else None
    if name == "Instance":
        return g.add("InstanceNormalization", x, *one[:2], epsilon=g.pick(0.05, 1.0)) if len(shape) > 2 else None
    if name == "softmax":
        return g.add("Softmax", x, axis=int(g.rng.integers(1, len(shape))))
    if name == "log":
        return g.add("LogSoftmax", x, axis=int(g.rng.integers(1, len(shape))))
    axis = g.constant([-1], np.int64)
    c = g.add("Sub", x, g.add("ReduceMean", x, axis)) if name == "written" else x
    mean = g.add("ReduceMean", g.add("Pow", c, g.constant(2.0)), axis)
    return g.add("Div", c, g.add("Sqrt", g.add("Add", mean, g.constant(g.pick(0.1, 1.0)))))


def _joined(g: Graph, x: str, shape: tuple[int, ...]) -> str | None:
    """Two ways to the same place: residuals, skips, concatenations."""
    fitting = [name for name, other in g.values[:-1] if other == shape]
    other = g.pick(*fitting) if fitting and g.rng.random() < 0.6 else None
    if other is None:
        inner = _activation(g, x, shape)
        if len(shape) == 4 and g.rng.random() < 0.7:
            weight = g.constant(g.normal(shape[1], shape[1], 3, 3, scale=0.3))
            inner = g.add("Conv", inner, weight, pads=[1, 1, 1, 1])
        elif g.rng.random() < 0.7:
            inner = g.add("MatMul", inner, g.constant(g.normal(shape[-1], shape[-1], scale=0.4)))
        other = _activation(g, inner, shape) if g.rng.random() < 0.5 else inner
    if g.rng.random() < 0.25:
        return g.add("Concat", x, other, axis=int(g.rng.integers(1, len(shape))))
    return g.add(g.pick("Add", "Add", "Sub", "Max", "Min", "Sum"), x, other)


PROPOSALS: tuple[Proposal, ...] = (
    *(_activation, _activation, _written, _arithmetic, _dense, _dense, _convolution, _convolution, _convolution),
    *(_pool, _moved, _moved, _reduced, _normalized, _joined, _joined),
)
