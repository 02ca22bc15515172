"""Trials of the operator norm: both ends of it against the matrix that onnxruntime makes of a node.

    OPENBLAS_NUM_THREADS=1 python -m tools.operator_trials --count 10000 --seed 0

Models of one Conv or ConvTranspose in one to three dimensions, in float32, float64 and float16, whose matrices have at
most 500 rows and columns: any strides, dilations and groups (depthwise among them), asymmetric pads, every auto_pad,
output padding, and output shapes under every auto_pad. Kernels are Gaussian, or made to leave little room: of one sign,
constant, of rank one, a single tap, ridges and waves along diagonals, channels of zeros, large at the outer taps only,
of elements of all scales; and groups may nearly tie.

`inspect` measures each model as any caller would, and once more on one of the ways that larger maps take. The judge is
float64 SVD of what the node gives for the unit vectors. Each entry of that matrix is one element of the kernel or 0, so
it is exact. Where onnxruntime has no kernel for a type (float64), the node is run in float32 with whole numbers for
elements, which tell the element that stands at each entry.

Prints how far the lower ends lie below the norm and the upper ends above it, and which models onnxruntime refused; ends
with 1 if an upper end lies below the norm, or a lower end above it or further below than promised.
"""

import argparse
import importlib
import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import reduce
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.capi.onnxruntime_pybind11_state import NotImplemented as NoKernel
from scipy.linalg import svdvals

import sn_graph as sn
from tools.op_models import op_model
from tools.supremum_trials import random_lines, random_ridge

Array = NDArray[np.float64]

# Reached by name: the trials set what no caller sets.
correlation_norm: Any = importlib.import_module("sn_graph.spectral.convolution.norm")

# Elements of the largest input and output.
LIMIT = 500
TYPES = (np.float32, np.float64, np.float16)
PADDINGS = ("NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID")
# How far a lower end may lie below the norm; below the upper end, where it began with waves.
PROMISED = 1e-5
ACCEPTED = 2e-4
# What the SVD of an exact matrix may be off.
ROUNDED = 1e-12
# How many violations are told in full.
TOLD = 12

NEVER = 1 << 62
LARGE = {"DENSE_SIDE": 0, "WAVE_LENGTH": NEVER}
PLAIN, WAVES = "as it is", "large: from waves"
WAYS: dict[str, dict[str, int]] = {
    PLAIN: {},
    "large: at random": LARGE,
    "large: in float32": {**LARGE, "SINGLE_LENGTH": 0},
    WAVES: {**LARGE, "WAVE_LENGTH": 0},
    "large: bound of all sizes": {**LARGE, "EMBEDDING_OPERATIONS": 0},
}


@dataclass(frozen=True)
class Trial:
    """A node to measure.

    Attributes:
        op_type: Conv or ConvTranspose.
        kernel: As the node reads it, in the type of the model.
        size: The spatial size of its input.
        attributes: Those of the node.
        kind: What the kernel is.
        padding: How it is padded, in a word.
    """

    op_type: str
    kernel: NDArray[Any]
    size: tuple[int, ...]
    attributes: dict[str, Any]
    kind: str
    padding: str

    @property
    def channels(self) -> int:
        """Those of the input."""
        first, second = (int(count) for count in self.kernel.shape[:2])
        return first if self.op_type == "ConvTranspose" else second * int(self.attributes["group"])

    @property
    def inputs(self) -> int:
        """How many elements a sample of the input has."""
        return self.channels * math.prod(self.size)

    def model(self, kernel: NDArray[Any]) -> onnx.ModelProto:
        """Return the model of the node with a kernel, for all unit vectors as one batch."""
        return op_model(self.op_type, [self.inputs, self.channels, *self.size], kernel, **self.attributes)

    def __str__(self) -> str:
        shape = "x".join(map(str, self.kernel.shape))
        return f"{self.op_type} {self.kernel.dtype} {shape} ({self.kind}) on {self.size}, {self.attributes}"


def single_tap(generator: np.random.Generator, shape: Sequence[int]) -> Array:
    """Draw a kernel [outputs, inputs, taps…] with one tap, perhaps one that no output reads."""
    kernel = np.zeros(shape)
    place = [slice(tap, tap + 1) for tap in map(generator.integers, shape[2:])]
    filled = kernel[(slice(None), slice(None), *place)]
    filled[...] = generator.standard_normal(filled.shape)
    return kernel


def without_channels(generator: np.random.Generator, shape: Sequence[int]) -> Array:
    """Draw a kernel with outputs and inputs of zeros, as pruning leaves them."""
    outputs, inputs = (generator.random(channels) < 0.6 for channels in shape[:2])
    outputs[generator.integers(shape[0])] = inputs[generator.integers(shape[1])] = True
    kept = np.multiply.outer(outputs, inputs)
    return generator.standard_normal(shape) * kept.reshape(*kept.shape, *(1,) * (len(shape) - 2))


def hollow(generator: np.random.Generator, shape: Sequence[int]) -> Array:
    """Draw a kernel that falls off from its outer taps inwards, by up to 1e-6: what the border reads is the most."""
    outwards = [np.abs(np.linspace(-1.0, 1.0, taps)) if taps > 1 else np.ones(1) for taps in shape[2:]]
    return generator.standard_normal(shape) * 10.0 ** (6.0 * (reduce(np.maximum.outer, outwards) - 1.0))


KINDS: dict[str, Callable[[np.random.Generator, Sequence[int]], Array]] = {
    "Gaussian": lambda generator, shape: generator.standard_normal(shape),
    "non-negative": lambda generator, shape: generator.random(shape),
    "constant": lambda generator, shape: np.full(shape, generator.standard_normal()),
    "signs": lambda generator, shape: generator.choice([-1.0, 1.0], shape),
    "rank one": lambda generator, shape: reduce(np.multiply.outer, map(generator.standard_normal, shape)),
    "single tap": single_tap,
    "channels of zeros": without_channels,
    "hollow": hollow,
    "all scales": lambda generator, shape: generator.standard_normal(shape) * 2.0 ** generator.integers(-12, 7, shape),
    "ridge": lambda generator, shape: random_ridge(generator, len(shape) - 2)[0],
    "waves": lambda generator, shape: random_lines(generator, len(shape) - 2),
}


def draw(generator: np.random.Generator, rank: int, low: int, high: int) -> list[int]:
    """Draw a number from low to high for each axis, mostly small."""
    return [low + int((high - low + 1) * generator.random() ** 2) for _ in range(rank)]


def random_kernel(generator: np.random.Generator, kind: str, rank: int, transposed: bool) -> tuple[Array, int]:
    """Draw a kernel of a kind and its groups, whose norms may nearly tie."""
    group = int(generator.choice([1, 1, 1, 2, 3]))
    first, second = draw(generator, 2, 1, 6)
    if generator.random() < 0.25:  # depthwise
        group, first, second = (
            int(generator.integers(2, 9)),
            *((1, first % 3 + 1) if transposed else (first % 3 + 1, 1)),
        )
    shape = first, second, *draw(generator, rank, 1, (9, 5, 4)[rank - 1])
    tie = 10.0 ** generator.uniform(-9, -1)
    parts = [KINDS[kind](generator, shape)]
    for _ in range(group - 1):
        # Mirrored, a group has the same norm wherever the padding is symmetric.
        other = np.flip(parts[0], 2) if generator.random() < 0.5 else parts[0]
        parts.append(other * (1.0 + tie * generator.uniform(-1, 1)))
    if generator.random() < 0.5 and kind not in ("ridge", "waves"):
        parts = [KINDS[kind](generator, shape) for _ in parts]
    return np.concatenate(parts), group


def random_type(generator: np.random.Generator, kernel: Array) -> NDArray[Any]:
    """Scale a kernel, and round it to a type."""
    dtype = np.dtype(TYPES[int(generator.integers(len(TYPES)))])
    widest = {2: 2, 4: 15, 8: 140}[dtype.itemsize]
    exponent = generator.uniform(-widest, widest) if generator.random() < 0.3 else 0.0
    scaled: NDArray[Any] = (kernel * 10.0**exponent).astype(dtype)
    return scaled


def random_trial(generator: np.random.Generator) -> Trial:
    """Draw a node whose input and output have at most LIMIT elements."""
    while True:
        rank, transposed = int(generator.integers(1, 4)), bool(generator.integers(2))
        kind = str(generator.choice(list(KINDS)))
        kernel, group = random_kernel(generator, kind, rank, transposed)
        taps = kernel.shape[2:]
        strides, dilations = draw(generator, rank, 1, 4), draw(generator, rank, 1, 3)
        size = [int(length) for length in generator.integers(1, (200, 30, 11)[rank - 1], rank)]
        reach = [dilation * (count - 1) for dilation, count in zip(dilations, taps, strict=True)]
        while longest(kernel, group, transposed, size, strides, reach) > LIMIT and max(size) > 1:
            size[int(np.argmax(size))] //= 2
        if longest(kernel, group, transposed, size, strides, reach) <= LIMIT:
            break
    attributes: dict[str, Any] = {"strides": strides, "dilations": dilations, "group": group}
    if transposed:
        name = random_cropping(generator, size, strides, reach, attributes)
    else:
        name = random_padding(generator, reach, attributes)
    op_type = "ConvTranspose" if transposed else "Conv"
    return Trial(op_type, random_type(generator, kernel), tuple(size), attributes, kind, name)


def longest(kernel: Array, group: int, transposed: bool, size: list[int], strides: list[int], reach: list[int]) -> int:
    """Return how many elements the larger of input and output may have, whatever the padding."""
    first, second = (int(channels) for channels in kernel.shape[:2])
    axes = list(zip(size, strides, reach, strict=True))
    if transposed:
        return max(first * math.prod(size), second * group * math.prod(n * s + r + s for n, s, r in axes))
    return max(second * group * math.prod(size), first * math.prod((n + 2 * r + 2) // s + 1 for n, s, r in axes))


def random_padding(generator: np.random.Generator, reach: list[int], attributes: dict[str, Any]) -> str:
    """Draw how a Conv is padded; return it in a word."""
    auto_pad = str(generator.choice(["NOTSET", "NOTSET", *PADDINGS]))
    if auto_pad != "NOTSET":
        if auto_pad != "VALID" and generator.random() < 0.98:
            attributes["dilations"] = [1] * len(reach)  # onnxruntime refuses others
        attributes["auto_pad"] = auto_pad
        return f"Conv, {auto_pad}"
    if generator.random() < 0.2:
        return "Conv, no pads"
    attributes["pads"] = random_pads(generator, reach)
    return "Conv, pads"


def random_cropping(
    generator: np.random.Generator, size: list[int], strides: list[int], reach: list[int], attributes: dict[str, Any]
) -> str:
    """Draw how the output of a ConvTranspose is cropped and padded; return it in a word."""
    auto_pad = str(generator.choice(["NOTSET", *PADDINGS]))
    if auto_pad != "NOTSET":
        attributes["auto_pad"] = auto_pad
    padded = [0] * len(size)
    if generator.random() < 0.5:
        padded = [int(generator.integers(stride)) for stride in strides]
        attributes["output_padding"] = padded
    if generator.random() < 0.4:
        attributes["output_shape"] = [
            int(generator.integers(max(1, s * (n - 1) + 1 - r // 2), s * n + r + 1))
            for n, s, r in zip(size, strides, reach, strict=True)
        ]
        return f"ConvTranspose, output shape, {auto_pad}"
    if auto_pad == "NOTSET" and generator.random() < 0.8:
        attributes["pads"] = random_pads(generator, reach)
    return f"ConvTranspose, {'pads' if auto_pad == 'NOTSET' else auto_pad}{', output padding' if any(padded) else ''}"


def random_pads(generator: np.random.Generator, reach: Sequence[int]) -> list[int]:
    """Draw pads, begins and then ends, which may be as wide as the kernel."""
    return [int(generator.integers(most + 2)) // int(generator.integers(1, 3)) for most in (*reach, *reach)]


def matrix(trial: Trial) -> Array:
    """Return the matrix of a node, one row for each element of its input, exactly.

    Raises:
        Exception: onnxruntime refuses the model.
    """
    try:
        return run(trial, trial.kernel).astype(np.float64)
    except NoKernel:
        numbers = np.arange(1, trial.kernel.size + 1, dtype=np.float32).reshape(trial.kernel.shape)
        places = run(trial, numbers)
        elements = np.append(0.0, trial.kernel.astype(np.float64))
        return elements[places.astype(np.int64)]


def run(trial: Trial, kernel: NDArray[Any]) -> NDArray[Any]:
    """Return what the node gives for the unit vectors of its input, one a row."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    model = trial.model(kernel).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    units = np.eye(trial.inputs, dtype=kernel.dtype).reshape(trial.inputs, trial.channels, *trial.size)
    found: NDArray[Any] = session.run(None, {"x": units})[0]
    return found.reshape(trial.inputs, -1)


@contextmanager
def going(way: str) -> Iterator[None]:
    """Let convolutions be measured on one of the WAYS."""
    before = {name: getattr(correlation_norm, name) for name in WAYS[way]}
    try:
        for name, value in WAYS[way].items():
            setattr(correlation_norm, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(correlation_norm, name, value)


def measure(trial: Trial, way: str) -> tuple[float, float] | str:
    """Return both ends of the norm as `inspect` tells them, NaN for one that it does not tell; or the error raised."""
    try:
        with going(way):
            (record,) = sn.inspect(trial.model(trial.kernel), norm="operator").sites
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    lower, upper = record.sigma_operator, record.sigma_operator_upper
    return math.nan if lower is None else lower, math.nan if upper is None else upper


def begins_with_waves(trial: Trial) -> bool:
    """Say whether a map of its lengths, were it larger, would be begun with waves."""
    return len(trial.size) == 1 and trial.attributes["group"] == 1 and trial.size[0] >= 2 * correlation_norm.WAVE_SIZE


def violation(way: str, bracket: tuple[float, float] | str, norm: float) -> str | None:
    """Return what is not as promised of a bracket, or None."""
    if isinstance(bracket, str):
        return "an error"
    lower, upper = bracket
    if not upper >= norm * (1.0 - ROUNDED):
        return "upper end below the norm"
    if not lower <= norm * (1.0 + ROUNDED):
        return "lower end above the norm"
    near = lower >= norm * (1.0 - PROMISED) or (way == WAVES and upper <= lower * (1.0 + ACCEPTED))
    return None if near else "lower end too low"


@dataclass
class Tally:
    """What was found of a family of models.

    Attributes:
        models: How many there are.
        below, above: How far a lower end lies below the norm and an upper end above it, at most, relative to it: of the
            brackets as they are, and of those on the ways of larger maps.
        violations: Brackets that are not as promised.
    """

    models: int = 0
    below: list[float] = field(default_factory=lambda: [-math.inf, -math.inf])
    above: list[float] = field(default_factory=lambda: [-math.inf, -math.inf])
    violations: int = 0

    def add(self, way: str, bracket: tuple[float, float] | str, norm: float, wrong: bool) -> None:
        """Count one bracket."""
        self.violations += wrong
        if norm > 0.0 and not isinstance(bracket, str):
            large, (lower, upper) = int(way != PLAIN), bracket
            self.below[large] = max(self.below[large], 1.0 - lower / norm)
            self.above[large] = max(self.above[large], upper / norm - 1.0)


HEADINGS = ("kernel", "node", "padding", "groups", "type", "way")


def families(trial: Trial, way: str) -> tuple[str, ...]:
    """Return the family of a bracket under each of the HEADINGS."""
    group = int(trial.attributes["group"])
    depthwise = group > 1 and trial.kernel.shape[1] == 1
    groups = "depthwise" if depthwise else "several" if group > 1 else "one"
    node = f"{trial.op_type} {len(trial.size)}-D"
    return trial.kind, node, trial.padding, groups, trial.kernel.dtype.name, way


def print_table(heading: str, tallies: Mapping[str, Tally]) -> None:
    """Print what was found of the families under one heading."""
    print(f"\n{'':54}   as it is             as a larger map")
    print(f"{heading:46}  models   below     above     below     above    violations")
    for name, found in sorted(tallies.items()):
        ends = (found.below[0], found.above[0], found.below[1], found.above[1])
        shown = " ".join(f"{end:9.1e}" if math.isfinite(end) else f"{'–':>9}" for end in ends)
        print(f"  {name:44}  {found.models:6} {shown}  {found.violations:12}")


def reason(error: Exception) -> str:
    """Return what onnxruntime says in refusing a model, without places and numbers."""
    said = str(error).splitlines()[0].partition("Status Message: ")
    told = re.sub(r"^\S+\.(cc|h):\d+ .*? (?=[A-Z])", "", said[2] or said[0])
    return re.sub(r"\{.*?\}|-?\d+", "#", told)[:160]


def try_all(count: int, seed: int, start: int) -> bool:
    """Judge so many models, and print what was found; return whether all is as promised."""
    tables: dict[str, dict[str, Tally]] = {heading: defaultdict(Tally) for heading in HEADINGS}
    refused: dict[str, list[Trial]] = defaultdict(list)
    found: Counter[str] = Counter()
    zeros = judged = 0
    larger = [way for way in WAYS if way != PLAIN]
    for index in itertools.count(start):
        if judged == count:
            break
        trial = random_trial(np.random.default_rng([seed, index]))
        try:
            dense = matrix(trial)
        except Exception as error:  # onnxruntime's exceptions have no base of their own
            if not type(error).__module__.startswith("onnxruntime"):
                raise
            refused[reason(error)].append(trial)
            continue
        norm = float(svdvals(dense)[0]) if dense.size else 0.0
        judged, zeros = judged + 1, zeros + (norm == 0.0)
        for way in (PLAIN, WAVES if begins_with_waves(trial) and index % 2 else larger[index % len(larger)]):
            bracket = measure(trial, way)
            wrong = violation(way, bracket, norm)
            for heading, family in zip(HEADINGS, families(trial, way), strict=True):
                tally = tables[heading][family]
                tally.models += way == PLAIN or heading == "way"
                tally.add(way, bracket, norm, wrong is not None)
            if wrong is not None:
                found[wrong] += 1
                if found.total() <= TOLD:
                    print(f"{wrong}: {bracket}, norm {norm!r}, {way}, --start {index} --count 1: {trial}")
    print(f"{judged} models, {zeros} of which make 0 of every input: {found.total()} violations {dict(found) or ''}")
    for heading, tallies in tables.items():
        print_table(heading, tallies)
    print(f"\nonnxruntime {onnxruntime.__version__} refused {sum(map(len, refused.values()))} more:")
    for said, trials in sorted(refused.items(), key=lambda item: -len(item[1])):
        print(f"  {len(trials):6} {said}\n         first: {trials[0]}")
    return not found


def main() -> int:
    """Run the trials; return 1 if anything is not as promised."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="how many models (10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="the first model's number; a violation names its own (0)")
    options = parser.parse_args()
    return int(not try_all(options.count, options.seed, options.start))


if __name__ == "__main__":
    raise SystemExit(main())
