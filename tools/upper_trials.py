"""Trials of `--sigma upper`: the norms of folded weights, as onnxruntime reads them, against the bound.

    OPENBLAS_NUM_THREADS=1 python -m tools.upper_trials --count 10000 --seed 0

Weights of MatMul, Gemm and Conv, of all float types: stored as they are read, behind one Cast or several, and as int8
or uint8 behind DequantizeLinear with scales by tensor, axis or block. Most have sides of 1 to 12, where rounding counts
the most, some of 100 to 300. They are random, or have the least room: equal singular values, rank 1, graded, signs, one
entry, constant. Some models were scaled in memory before, and are folded again; some are folded with `clip`, by bounds
near the norm that they have. The norm is that of the matrix, or of what MatMul and Gemm do, Gemm's alpha counted.

The judge takes the folded model apart: onnxruntime, without its optimizations, reads what the consumer would, as
float64. The norm of that is LAPACK's; where this comes within 1e-13 of the bound, it is computed in 50 digits.

Prints how far below the bound the norms are, by what the weights are; ends with 1 if one is above it.
"""

import argparse
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import mpmath
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from scipy.linalg import svdvals

import sn_graph as sn
from sn_graph.choices import NormChoice
from tools.sigma_trials import fifty_digits, forms

Array = NDArray[np.float64]

TYPES: dict[str, np.dtype[Any]] = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
# The stored type, and those that it is cast to.
CASTS = (
    *((name,) for name in TYPES),
    ("float32", "float16"),
    ("float32", "bfloat16"),
    ("float64", "float32"),
    ("float64", "float16"),
    ("float64", "bfloat16"),
    ("float64", "float32", "float16"),
    ("float64", "float32", "bfloat16"),
    ("float64", "float16", "bfloat16"),
    ("float32", "float16", "float32"),
    ("float32", "bfloat16", "float32"),
    ("float32", "bfloat16", "float16"),
    ("float16", "float32"),
    ("bfloat16", "float16"),
    ("float16", "bfloat16"),
)
# By number, as `forms` makes them.
KINDS = {"normal": 0, "equal values": 1, "rank 1": 2, "graded": 3, "signs": 4, "one entry": 6, "constant": 7}
CONSUMERS = ("MatMul", "MatMul, weight left", "Gemm", "Gemm, transB", "Conv")
OPSET = 21  # the first with scales by block
# How near to the bound LAPACK's norm is not enough, and up to which side there is a better one.
NEAR = 1e-13
SMALL = 12
DIGITS = 50
# How many violations are told in full.
TOLD = 12


@dataclass(frozen=True)
class Trial:
    """A model to fold, and what is asked for.

    Attributes:
        model: A single consumer, its last node, behind what its weight passes.
        place: The consumer's input that takes the weight.
        rows: Of the weight's matrix, which is the weight flattened to so many.
        alpha: What counts besides the matrix's norm, where the consumer's is asked for.
        first: The bound of the fold before; None for none.
        bound, clip, norm: Those of the fold.
        families: What it is, under each of HEADINGS.
    """

    model: onnx.ModelProto
    place: int
    rows: int
    alpha: float
    first: float | None
    bound: float
    clip: bool
    norm: NormChoice
    families: tuple[str, ...]


HEADINGS = ("weight", "matrix", "consumer", "fold")


@dataclass(frozen=True)
class Weight:
    """A weight in a graph.

    Attributes:
        name: That of the value that the consumer reads.
        dtype: Its type.
        nodes, tensors: What makes it.
        family: What it is, in a word.
    """

    name: str
    dtype: str
    nodes: tuple[onnx.NodeProto, ...]
    tensors: tuple[onnx.TensorProto, ...]
    family: str


def behind_casts(name: str, path: Sequence[str]) -> tuple[str, tuple[onnx.NodeProto, ...]]:
    """Return what a value is called behind casts to these types, and the casts."""
    nodes = []
    for dtype in path:
        code = helper.np_dtype_to_tensor_dtype(TYPES[dtype])
        nodes.append(helper.make_node("Cast", [name], [f"{name}.{dtype}"], to=code))
        name = f"{name}.{dtype}"
    return name, tuple(nodes)


def float_weight(generator: np.random.Generator, elements: Array) -> Weight:
    """Store a weight in a float type, behind casts or not."""
    stored, *path = CASTS[int(generator.integers(len(CASTS)))]
    with np.errstate(over="ignore", under="ignore"):
        weight = elements.astype(TYPES[stored])
    weight[~np.isfinite(weight)] = 1
    name, nodes = behind_casts("w", path)
    family = " to ".join((stored, *path))
    return Weight(name, (stored, *path)[-1], nodes, (numpy_helper.from_array(weight, "w"),), family)


def quantized_weight(generator: np.random.Generator, elements: Array) -> Weight:
    """Store a weight as integers, scaled by tensor, axis or block."""
    signed, half = bool(generator.integers(2)), bool(generator.integers(2))
    least, most = (-128, 127) if signed else (0, 255)
    layout = ("tensor", "axis", "block")[int(generator.integers(3))]
    axis = int(generator.integers(min(elements.ndim, 2)))
    block = int(generator.integers(1, elements.shape[axis] + 1))
    shape, attributes = scales_of(layout, elements.shape, axis, block)
    # Never so small that float16 would have hardly a digit of them.
    steps = np.maximum(np.abs(elements).max() / 127.0 * generator.uniform(0.5, 1.0, shape), 2.0**-14)
    scales = np.asarray(steps.astype(np.float16 if half else np.float32))
    zeros = np.asarray(generator.integers(-20, 21, shape) if signed else generator.integers(100, 156, shape))
    if signed and generator.integers(2):
        zeros = np.zeros_like(zeros)
    wide, offsets = (spread(values, layout, elements.shape, axis, block) for values in (scales, zeros))
    integers = np.clip(np.rint(elements / wide.astype(np.float64)) + offsets, least, most)
    stored = np.dtype(np.int8 if signed else np.uint8)
    tensors = [numpy_helper.from_array(integers.astype(stored), "q"), numpy_helper.from_array(scales, "s")]
    inputs = ["q", "s"]
    if zeros.any() or generator.integers(2):
        inputs, tensors = [*inputs, "z"], [*tensors, numpy_helper.from_array(zeros.astype(stored), "z")]
    dequantize = helper.make_node("DequantizeLinear", inputs, ["w"], **attributes)
    path = ("bfloat16",) if generator.random() < 0.1 else ("float16",) if generator.random() < 0.2 else ()
    name, casts = behind_casts("w", path)
    family = " to ".join((f"{stored}, {scales.dtype} scale by {layout}", *path))
    return Weight(name, (scales.dtype.name, *path)[-1], (dequantize, *casts), tuple(tensors), family)


def scales_of(layout: str, shape: tuple[int, ...], axis: int, block: int) -> tuple[tuple[int, ...], dict[str, Any]]:
    """Return the shape of the scales of a weight, and the attributes of its DequantizeLinear."""
    if layout == "tensor":
        return (), {}
    if layout == "axis":
        return (shape[axis],), {"axis": axis}
    blocks = tuple(-(-size // block) if other == axis else size for other, size in enumerate(shape))
    return blocks, {"axis": axis, "block_size": block}


def spread(values: NDArray[Any], layout: str, shape: tuple[int, ...], axis: int, block: int) -> NDArray[Any]:
    """Return scales or zero points, so that they fit a weight element by element."""
    if layout == "block":
        return np.repeat(values, block, axis).take(range(shape[axis]), axis)
    return values.reshape([-1 if other == axis else 1 for other in range(len(shape))]) if layout == "axis" else values


def random_shape(generator: np.random.Generator, consumer: str) -> tuple[int, ...]:
    """Draw the shape of a weight: most with sides of 1 to SMALL."""
    low, high = (100, 300) if generator.random() < 0.03 else (1, SMALL)
    rows, columns = (int(side) for side in generator.integers(low, high + 1, 2))
    if consumer != "Conv":
        return rows, columns
    taps = [int(generator.integers(1, 4)) for _ in range(int(generator.integers(1, 4)))]
    while math.prod(taps) > columns:
        taps[int(np.argmax(taps))] -= 1
    return rows, columns // math.prod(taps), *taps


def random_trial(generator: np.random.Generator) -> Trial:
    """Draw a model with a weight, and how it is folded."""
    consumer = CONSUMERS[int(generator.integers(len(CONSUMERS)))]
    kind = list(KINDS)[int(generator.integers(len(KINDS)))]
    shape = random_shape(generator, consumer)
    matrix = forms(generator, shape[0], math.prod(shape[1:]), KINDS[kind]) * 10.0 ** generator.uniform(-2, 2)
    matrix[0, 0] = matrix[0, 0] or 1.0
    make = quantized_weight if generator.random() < 0.4 else float_weight
    weight = make(generator, matrix.reshape(shape))
    alpha = float(np.float32(generator.normal())) if consumer.startswith("Gemm") and generator.integers(2) else 1.0
    first = float(10.0 ** generator.uniform(-1, 1)) if generator.random() < 0.3 else None
    bound = float(10.0 ** generator.uniform(-2, 2))
    norm: NormChoice = "operator" if consumer != "Conv" and generator.integers(2) else "matrix"
    clip = bool(generator.random() < 0.25)
    if clip:
        before = float(svdvals(matrix)[0]) if first is None else first
        counted = before * (abs(alpha) if norm == "operator" else 1.0)
        bound = counted * (1.0 + float(generator.choice([-1, 1]) * 10.0 ** generator.uniform(-9, -0.5)))
    fold = f"{norm} norm{'' if first is None else ', scaled before'}{', clip' if clip else ''}"
    model, place = model_of(consumer, shape, weight, alpha)
    return Trial(model, place, shape[0], alpha, first, bound, clip, norm, (weight.family, kind, consumer, fold))


def model_of(consumer: str, shape: tuple[int, ...], weight: Weight, alpha: float) -> tuple[onnx.ModelProto, int]:
    """Return a model of one consumer of a weight, and the consumer's input that takes it."""
    left = consumer == "MatMul, weight left"
    transposed = consumer == "Gemm, transB"
    attributes: dict[str, Any] = {}
    if consumer.startswith("Gemm"):
        attributes = {"alpha": alpha, "transB": int(transposed)}
    if consumer == "Conv":
        given = [1, shape[1], *(taps + 2 for taps in shape[2:])]
    elif left:
        given = [shape[1], 3]
    else:
        given = [3, shape[1] if transposed else shape[0]]
    code = helper.np_dtype_to_tensor_dtype(TYPES[weight.dtype])
    inputs = [weight.name, "x"] if left else ["x", weight.name]
    last = helper.make_node(consumer.partition(",")[0], inputs, ["y"], **attributes)
    graph = helper.make_graph(
        [*weight.nodes, last],
        "one",
        [helper.make_tensor_value_info("x", code, given)],
        [helper.make_tensor_value_info("y", code, None)],
        weight.tensors,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return model, 0 if left else 1


def read(model: onnx.ModelProto, place: int) -> Array:
    """Return what the last node of a model gets at an input, as onnxruntime makes it, in float64."""
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    weight = cut.graph.node[-1].input[place]
    del cut.graph.node[-1], cut.graph.input[:], cut.graph.output[:]
    cut.graph.node.append(helper.make_node("Cast", [weight], ["wide"], to=TensorProto.DOUBLE))
    cut.graph.output.append(helper.make_tensor_value_info("wide", TensorProto.DOUBLE, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(cut.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, {})[0]
    return found


@dataclass
class Tally:
    """What was found of a family: how many were folded or kept, and how far below the bound the folded ones are."""

    folded: int = 0
    kept: int = 0
    nearest: float = math.inf
    farthest: float = -math.inf
    violations: int = 0

    def add(self, status: str, gap: float, wrong: bool) -> None:
        """Count one weight."""
        self.violations += wrong
        if status != "folded":
            self.kept += 1
            return
        self.folded += 1
        self.nearest, self.farthest = min(self.nearest, gap), max(self.farthest, gap)


@dataclass(frozen=True)
class Judged:
    """What became of a weight.

    Attributes:
        status: As in the record.
        gap: How far its norm is below the bound, relative to it; below 0 where it is above.
        closely: Whether its norm was computed in 50 digits.
    """

    status: str
    gap: float
    closely: bool


def judge(trial: Trial) -> Judged | str:
    """Fold a model and judge what onnxruntime reads; return why sn-graph refuses it or leaves the weight out, or that.

    Raises:
        Exception: onnxruntime refuses what is left of the model.
    """
    source: onnx.ModelProto | sn.Model = trial.model
    try:
        if trial.first is not None:
            source = sn.fold(source, bound=trial.first).model
        result = sn.fold(source, sigma="upper", bound=trial.bound, clip=trial.clip, norm=trial.norm)
    except sn.ModelError as error:
        return f"refused: {error.reason}"
    (record,) = result.sites
    matrix = read(result.to_proto(), trial.place).reshape(trial.rows, -1)
    if record.matrix is None or sorted(record.matrix) != sorted(matrix.shape):
        return f"not the matrix of the trials, but {record.matrix}"
    if record.status == "skipped" or (record.status == "unchanged" and not trial.clip and matrix.any()):
        return f"left as it was: {record.reason}"
    factor = abs(trial.alpha) if trial.norm == "operator" else 1.0
    gap = 1.0 - float(svdvals(matrix)[0]) * factor / trial.bound
    if gap > NEAR or max(matrix.shape) > SMALL:
        return Judged(record.status, gap, False)
    return Judged(record.status, float(1 - fifty_digits(matrix) * factor / mpmath.mpf(trial.bound)), True)


def print_table(heading: str, tallies: Mapping[str, Tally]) -> None:
    """Print what was found of the families under one heading."""
    print(f"\n{heading:44}  folded    kept   least gap  widest gap  above the bound")
    for name, found in sorted(tallies.items()):
        gaps = [f"{gap:11.1e}" if math.isfinite(gap) else f"{'–':>11}" for gap in (found.nearest, found.farthest)]
        print(f"  {name:42}  {found.folded:6}  {found.kept:6} {gaps[0]} {gaps[1]}  {found.violations:15}")


def described(trial: Trial) -> str:
    """Return what a trial is, in a line."""
    asked = f"bound {trial.bound!r}, first bound {trial.first!r}, alpha {trial.alpha!r}, {trial.rows} rows"
    return f"{'; '.join(trial.families)}; {asked}"


def try_all(count: int, seed: int, start: int) -> bool:
    """Judge so many weights, and print what was found; return whether none is above the bound."""
    tables: dict[str, dict[str, Tally]] = {heading: defaultdict(Tally) for heading in HEADINGS}
    others: dict[str, list[str]] = defaultdict(list)
    wrong = closely = undecided = 0
    for index in range(start, start + count):
        trial = random_trial(np.random.default_rng([seed, index]))
        try:
            found = judge(trial)
        except Exception as error:  # onnxruntime's exceptions have no base of their own
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            found = f"onnxruntime: {str(error).splitlines()[0]}"
        if isinstance(found, str):
            others[re.sub(r"-?\d[\d.e+-]*", "#", found)].append(f"--start {index}: {described(trial)}")
            continue
        above = found.gap < (0.0 if found.closely else -NEAR)
        wrong, closely = wrong + above, closely + found.closely
        undecided += not found.closely and abs(found.gap) <= NEAR
        if above and wrong <= TOLD:
            print(f"above the bound by {-found.gap:.2e}: --start {index} --count 1: {described(trial)}")
        for heading, family in zip(HEADINGS, trial.families, strict=True):
            tables[heading][family].add(found.status, found.gap, above)
    print(
        f"{count} weights, {wrong} above the bound; {closely} judged in {mpmath.mp.dps} digits, {undecided} undecided"
    )
    for heading, tallies in tables.items():
        print_table(heading, tallies)
    print(f"\n{sum(map(len, others.values()))} not judged:")
    for reason, trials in sorted(others.items(), key=lambda item: -len(item[1])):
        print(f"  {len(trials):6} {reason}\n         first: {trials[0]}")
    return not wrong


def main() -> int:
    """Run the trials; return 1 if a norm is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="how many weights (10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the first weight's number; a violation names its own (0)")
    options = parser.parse_args()
    mpmath.mp.dps = DIGITS
    return int(not try_all(options.count, options.seed, options.start))


if __name__ == "__main__":
    raise SystemExit(main())
