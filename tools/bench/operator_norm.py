"""Time, error and width of everything that measures a convolution's operator norm, in one interleaved run.

    python -m tools.bench.operator_norm --cases 64x64x3s1@16 512x512x3s1@16 --repeats 3

A case is OUTPUTSxINPUTSxTAPSsSTRIDE@SIZE, with "dw" before it for depthwise; two spatial axes, pads (TAPS − 1)/2.
Times are medians in seconds. "against A" is the value over the norm of the zero-padded operator by ARPACK on float64
products, minus one: negative is below the norm, positive above it. Where ARPACK would take minutes it is left out, and
A is our own lower end. Set OPENBLAS_NUM_THREADS to fix the threads.
"""

import argparse
import contextlib
import importlib
import math
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svdvals
from scipy.sparse.linalg import LinearOperator, svds

from sn_graph.spectral.convolution import Convolution, adjoint, forward, operator_norm
from sn_graph.spectral.matrix import spectral_norm
from tools.bench.common import blas, clock, interleaved, versions

CASES = (
    "8x8x3s1@16 64x64x3s1@16 32x16x5s1@16 64x3x4s2@64 128x64x4s2@32 64x3x7s2@112 dw96x1x7s1@56 256x256x3s1@14 "
    "512x512x3s1@16 64x64x3s1@56 256x256x3s1@56 128x128x3s1@112 64x3x3s1@224 64x64x3s1@224"
)
# A method that takes longer than this many seconds is not run again.
SLOW = 3.0
# More elements than this, in the larger of the operator's sides or in its matrix, and a peer is left out.
DENSE_ELEMENTS = 1 << 23
SYMBOL_ELEMENTS = 1 << 27
# 64 x 3 channels at 224 x 224 took ARPACK 392 seconds.
ARPACK_ELEMENTS = 1 << 20
POWER_STEPS = 100
GRAM_STEPS = 6

Method = Callable[[Convolution], tuple[float, ...]]


@dataclass(frozen=True)
class Result:
    """What a method gave and how long it took, in seconds, at each run."""

    times: list[float]
    values: tuple[float, ...]


def parse(case: str, kind: str, seed: int) -> Convolution:
    """Make the convolution of a case, with a random kernel of a kind."""
    found = re.fullmatch(r"(dw)?(\d+)x(\d+)x(\d+)s(\d+)@(\d+)", case)
    if found is None:
        raise SystemExit(f"'{case}' is not OUTPUTSxINPUTSxTAPSsSTRIDE@SIZE")
    outputs, inputs, taps, stride, size = (int(part) for part in found.groups()[1:])
    rng = np.random.default_rng(seed)
    shape = (outputs, inputs, taps, taps)
    kernel = rng.random(shape, np.float32) if kind == "non-negative" else rng.standard_normal(shape, np.float32)
    group = outputs if found.group(1) else 1
    return Convolution(kernel, (stride,) * 2, (1, 1), ((taps - 1) // 2,) * 4, group, (size, size))


def bracket(convolution: Convolution) -> tuple[float, ...]:
    """Enclose the norm at the given size."""
    found = operator_norm(convolution)
    return found.lower, found.upper


def bracket_over_all_sizes(convolution: Convolution) -> tuple[float, ...]:
    """Enclose the supremum over all sizes."""
    dynamic = Convolution(
        convolution.kernel, convolution.strides, convolution.dilations, convolution.pads, convolution.group
    )
    found = operator_norm(dynamic)
    return found.lower, found.upper


def matrix_norm(convolution: Convolution) -> tuple[float, ...]:
    """Compute the norm of the reshaped kernel."""
    return (spectral_norm(convolution.kernel.reshape(len(convolution.kernel), -1)),)


def largest_by_arpack(convolution: Convolution, count: int) -> float:
    """Compute the largest singular value by ARPACK on float64 products, asked for so many of them."""
    rows, columns = math.prod(convolution.output_shape), math.prod(convolution.input_shape)
    operator = LinearOperator(
        (rows, columns),
        matvec=lambda x: forward(convolution, x.reshape(convolution.input_shape)).ravel(),
        rmatvec=lambda y: adjoint(convolution, y.reshape(convolution.output_shape)).ravel(),
        dtype=np.float64,
    )
    start = np.random.default_rng(0).standard_normal(min(rows, columns))
    return float(svds(operator, k=count, v0=start, return_singular_vectors=False).max())


def arpack(convolution: Convolution) -> tuple[float, ...]:
    """Compute the norm by ARPACK; () where that would take minutes."""
    if max(math.prod(convolution.output_shape), math.prod(convolution.input_shape)) >= ARPACK_ELEMENTS:
        return ()
    return (largest_by_arpack(convolution, 1),)


def power_iteration(convolution: Convolution) -> tuple[float, ...]:
    """Run power iterations through the node, as frameworks' users write it (torch if there, else the same in numpy)."""
    with contextlib.suppress(ImportError):
        return (_torch_power_iteration(convolution),)
    x = np.random.default_rng(0).standard_normal(convolution.input_shape)
    for _ in range(POWER_STEPS):
        x = adjoint(convolution, forward(convolution, x))
        x /= np.linalg.norm(x)
    return (float(np.linalg.norm(forward(convolution, x))),)


def _torch_power_iteration(convolution: Convolution) -> float:
    torch: Any = importlib.import_module("torch")
    kernel = torch.from_numpy(convolution.kernel)
    options = {"stride": convolution.strides, "padding": convolution.pads[:2], "groups": convolution.group}
    left = [
        (size + 2 * pad - taps) % stride
        for size, pad, taps, stride in zip(
            convolution.input_shape[1:],
            convolution.pads[:2],
            convolution.kernel.shape[2:],
            convolution.strides,
            strict=True,
        )
    ]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((1, *convolution.input_shape), generator=generator)
    with torch.no_grad():
        for _ in range(POWER_STEPS):
            y = torch.nn.functional.conv2d(x, kernel, **options)
            x = torch.nn.functional.conv_transpose2d(y, kernel, output_padding=left, **options)
            x /= torch.linalg.vector_norm(x)
        return float(torch.linalg.vector_norm(torch.nn.functional.conv2d(x, kernel, **options)))


def dense_svd(convolution: Convolution) -> tuple[float, ...]:
    """Compute the norm by SVD of the matrix written out; () where that is too large."""
    count = math.prod(convolution.input_shape)
    if count * math.prod(convolution.output_shape) > DENSE_ELEMENTS:
        return ()
    columns = [forward(convolution, unit.reshape(convolution.input_shape)).ravel() for unit in np.eye(count)]
    return (float(svdvals(np.stack(columns))[0]),)


def _circular_symbol(convolution: Convolution) -> NDArray[np.complex128] | None:
    """The blocks [frequencies · groups, O/group, I/group] of the circular convolution at the input's size, stride 1."""
    size, kernel = convolution.input_shape[1:], convolution.kernel
    if math.prod(size) * kernel.shape[0] * kernel.shape[1] > SYMBOL_ELEMENTS or max(kernel.shape[2:]) > min(size):
        return None
    spectrum = np.fft.fftn(kernel.astype(np.float64), size, axes=(2, 3))
    grouped = spectrum.reshape(convolution.group, -1, *kernel.shape[1:2], math.prod(size))
    return np.moveaxis(grouped, -1, 0).reshape(-1, *grouped.shape[1:3])


def sedghi(convolution: Convolution) -> tuple[float, ...]:
    """Compute all singular values of the circular convolution (Sedghi, Gupta & Long, 2019), blind to strides."""
    blocks = _circular_symbol(convolution)
    return () if blocks is None else (float(np.linalg.svd(blocks, compute_uv=False).max()),)


def gram_iteration(convolution: Convolution) -> tuple[float, ...]:
    """Bound the circular convolution's norm from above by repeated squaring (Delattre et al., 2023)."""
    blocks = _circular_symbol(convolution)
    if blocks is None:
        return ()
    logarithm = np.zeros(len(blocks))
    for _ in range(GRAM_STEPS):
        scale = np.linalg.norm(blocks, axis=(1, 2))
        blocks = blocks / scale[:, None, None]
        logarithm = 2.0 * (logarithm + np.log(scale))
        blocks = blocks.conj().transpose(0, 2, 1) @ blocks
    final = (logarithm + np.log(np.linalg.norm(blocks, axis=(1, 2)))) / 2.0**GRAM_STEPS
    return (float(np.exp(final.max())),)


METHODS: dict[str, Method] = {
    "sn_graph operator_norm": bracket,
    "sn_graph, over all sizes": bracket_over_all_sizes,
    "sn_graph, reshaped kernel": matrix_norm,
    "scipy svds, ARPACK, float64": arpack,
    f"power iteration, {POWER_STEPS} steps": power_iteration,
    "dense matrix, SVD": dense_svd,
    "FFT + SVD, circular (Sedghi)": sedghi,
    f"Gram iteration, {GRAM_STEPS} (Delattre)": gram_iteration,
}


def measure(convolution: Convolution, repeats: int) -> dict[str, Result]:
    """Run every method so often, in turn."""
    turns = {name: partial(clock, partial(method, convolution)) for name, method in METHODS.items()}
    taken = interleaved(turns, rounds=repeats, enough=lambda turn: turn[0] > SLOW)
    return {name: Result([seconds for seconds, _ in runs], runs[-1][1]) for name, runs in taken.items()}


def report(case: str, kind: str, repeats: int, seed: int) -> None:
    """Print times, ratios and errors of a case."""
    results = measure(parse(case, kind, seed), repeats)
    exact = (results["scipy svds, ARPACK, float64"].values or results["sn_graph operator_norm"].values)[0]
    own = statistics.median(results["sn_graph operator_norm"].times)
    print(f"\n{case}, {kind} kernel: ‖A‖ = {exact:.6g}", flush=True)
    for name, result in results.items():
        if result.values:
            errors = " … ".join(f"{value / exact - 1:+.1e}" for value in result.values)
            median = statistics.median(result.times)
            print(f"  {name:32} {median:8.3f} s  {median / own:7.2f}x  against A {errors}", flush=True)
        else:
            print(f"  {name:32} left out: too large", flush=True)


def main() -> None:
    """Run the cases that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=CASES.split(), metavar="CASE")
    parser.add_argument(
        "--kinds", nargs="+", default=["Gaussian", "non-negative"], choices=["Gaussian", "non-negative"]
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(versions(("numpy", "scipy", "torch"), blas(), name_absent=True))
    for case in arguments.cases:
        for kind in arguments.kinds:
            report(case, kind, arguments.repeats, arguments.seed)


if __name__ == "__main__":
    main()
