"""Time and error of everything that computes a largest singular value, side by side in one interleaved run.

    python -m tools.bench.sigma --shapes 1024x9216 4096x4096 --repeats 7
    python -m tools.bench.sigma --spectra
    python -m tools.bench.sigma --resnet50
    python -m tools.bench.sigma --ratios

Times are medians in milliseconds; the ratio is numpy.linalg.norm(W, 2) over the method, so larger is faster; the error
is relative to LAPACK's eigenvalue of the float64 Gram matrix, so that of a proven bound is the width of its bracket.
--spectra gives the greatest error of each on matrices of known singular values with a small gap or a cluster at the
top. --resnet50 adds up the 54 weights of that network, against the best of scipy's solvers for each shape: of all, and
of those that --spectra finds within 1e-6. --ratios gives what float16 and bfloat16 cost beside float32, and what a
proven bound costs beside σ. OPENBLAS_NUM_THREADS (and OMP_NUM_THREADS for PyTorch) fix the threads.
"""

import argparse
import contextlib
import importlib
import math
import statistics
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, svdvals
from scipy.sparse.linalg import svds

from sn_graph.spectral.matrix import (
    bracket,
    leading_singular_triplet,
    power_iteration,
    seeded_state,
    spectral_norm,
    upper_bound,
)
from tools.bench.common import blas, clock, interleaved, versions

SHAPES = (
    "64x27 64x48 64x576 128x1024 256x2304 512x4608 1000x2048 1024x9216 2048x2048 4096x4096 50000x256 3x20000 10x2048"
)
# A method that takes longer than this many seconds is not run again.
SLOW = 3.0
# numpy and scipy bring a BLAS each, whose threads spin for a tenth of a second after their last call, on the cores of
# the others.
REST = 0.2
# What counts as exact.
PROMISED = 1e-6
# A run shorter than this is mostly the caches' waking up after the rest: it is run twice, and the second one counts.
WARM = 0.02

PACKAGES = ("numpy", "scipy", "scikit-learn", "torch")

Matrix = NDArray[np.float32]
Method = Callable[[Matrix], float]


def gram_eigenvalue(matrix: NDArray[Any]) -> float:
    """Compute σ by LAPACK on the Gram matrix, in the type of the matrix."""
    gram = matrix @ matrix.T if matrix.shape[0] < matrix.shape[1] else matrix.T @ matrix
    last = len(gram) - 1
    return float(np.sqrt(eigh(gram, eigvals_only=True, subset_by_index=[last, last])[0]))


def sparse_solver(name: str) -> Method:
    """Make a method of one of scipy's sparse solvers."""

    def solve(matrix: Matrix) -> float:
        # PROPACK's own limit of iterations is too low for most of these.
        steps = {"propack": max(matrix.shape)}.get(name)
        return float(svds(matrix, k=1, solver=name, maxiter=steps, return_singular_vectors=False, rng=0)[0])

    return solve


def power_steps(matrix: Matrix) -> float:
    """Estimate σ by 200 power iterations."""
    return power_iteration(matrix, seeded_state(0, "weight", matrix.shape[1]), 200, "cols").sigma


def warm(matrix: Matrix) -> Method:
    """Make a method that begins from the left vector, found before the clock starts."""
    guess = leading_singular_triplet(matrix).left
    return lambda m: leading_singular_triplet(m, guess, "rows").sigma


def proven(matrix: Matrix) -> Method:
    """Make a method that bounds from a σ known before the clock starts."""
    sigma = spectral_norm(matrix)
    return lambda m: upper_bound(m, sigma)


def optional_methods() -> dict[str, Method]:
    """Return the methods of scikit-learn and PyTorch, where they are installed."""
    methods: dict[str, Method] = {}
    with contextlib.suppress(ImportError):
        extmath = importlib.import_module("sklearn.utils.extmath")
        methods["sklearn randomized_svd"] = lambda m: float(extmath.randomized_svd(m, 1, random_state=0)[1][0])
    with contextlib.suppress(ImportError):
        torch = importlib.import_module("torch")
        methods["torch matrix_norm"] = lambda m: float(torch.linalg.matrix_norm(torch.from_numpy(m), 2))
        methods["torch svd_lowrank"] = lambda m: float(torch.svd_lowrank(torch.from_numpy(m), q=6)[1][0])
    return methods


# What these know beforehand holds for the matrix that they were made for.
KNOWING = ("sn_graph, from the vector", "sn_graph upper_bound(σ)")


def methods(matrix: Matrix) -> dict[str, Method]:
    """Return all methods by name, for one matrix."""
    return {
        "sn_graph spectral_norm": spectral_norm,
        "sn_graph, from the vector": warm(matrix),
        "sn_graph upper_bound(σ)": proven(matrix),
        "sn_graph bracket": lambda m: bracket(m).upper,
        "numpy norm 2": lambda m: float(np.linalg.norm(m, 2)),
        "scipy svdvals": lambda m: float(svdvals(m)[0]),
        "scipy svds arpack": sparse_solver("arpack"),
        "scipy svds propack": sparse_solver("propack"),
        "scipy svds lobpcg": sparse_solver("lobpcg"),
        "eigh of the Gram matrix, float32": gram_eigenvalue,
        "eigh of the Gram matrix, float64": lambda m: gram_eigenvalue(m.astype(np.float64)),
        "200 power steps": power_steps,
        **optional_methods(),
    }


def measure(matrix: Matrix, repeats: int) -> dict[str, tuple[list[float], float | str]]:
    """Return the seconds of each run, and the last value or what went wrong."""
    turns = {name: partial(rested, method, matrix) for name, method in methods(matrix).items()}
    taken = interleaved(turns, rounds=repeats, enough=lambda turn: turn[0] > SLOW)
    return {name: ([seconds for seconds, _ in runs], runs[-1][1]) for name, runs in taken.items()}


def rested(method: Method, matrix: Matrix) -> tuple[float, float | str]:
    """Run a method once all other threads rest, and again where most of the time was waking up."""
    time.sleep(REST)
    first = run(method, matrix)
    return run(method, matrix) if first[0] < WARM else first


def run(method: Method, matrix: Matrix) -> tuple[float, float | str]:
    """Return the seconds of one run, and the value or what went wrong."""

    def attempt() -> float | str:
        try:
            return method(matrix)
        except (ArithmeticError, ValueError, np.linalg.LinAlgError) as failure:
            return f"{type(failure).__name__}: {failure}"[:40]

    return clock(attempt)


def report(shape: str, repeats: int, seed: int) -> None:
    """Print times, ratios and errors on a random matrix of a shape, the fastest first."""
    rows, columns = (int(part) for part in shape.split("x"))
    matrix = np.random.default_rng(seed).standard_normal((rows, columns), dtype=np.float32)
    exact = gram_eigenvalue(matrix.astype(np.float64))
    results = measure(matrix, repeats)
    base = statistics.median(results["numpy norm 2"][0])
    print(f"\n{shape}")
    for name, (times, value) in sorted(results.items(), key=lambda item: statistics.median(item[1][0])):
        median = statistics.median(times)
        error = value if isinstance(value, str) else f"{value / exact - 1:+.0e}"
        print(f"  {name:33} {median * 1e3:10.2f} ms  (least {min(times) * 1e3:9.2f})  {base / median:8.2f}x  {error}")


def spectra(rows: int, columns: int, seed: int) -> Iterator[tuple[str, Matrix]]:
    """Yield matrices with a small gap, or a cluster, below their largest singular value; a random one first."""
    generator = np.random.default_rng(seed)
    size = min(rows, columns)
    yield "random", generator.standard_normal((rows, columns), dtype=np.float32)
    left, _ = np.linalg.qr(generator.standard_normal((rows, size)))
    right, _ = np.linalg.qr(generator.standard_normal((columns, size)))
    rest = 0.9 * generator.random(size)
    for gap in (3e-6, 1e-5, 1e-4, 1e-3):
        for name, values in ((f"gap {gap:g}", rest), (f"one above a cluster, {gap:g}", np.full(size, 1 - gap))):
            yield name, ((left * np.concatenate([[1.0, 1 - gap], values[2:]])) @ right.T).astype(np.float32)
    yield "dense cluster, 1e-4", ((left * (1 - np.linspace(0, 1e-4, size))) @ right.T).astype(np.float32)


def greatest_errors(solvers: dict[str, Method], seeds: int) -> dict[str, tuple[float, str]]:
    """Return the greatest error of each on all spectra, and on which."""
    worst = dict.fromkeys(solvers, (0.0, ""))
    for seed in range(seeds):
        for spectrum, matrix in spectra(300, 500, seed):
            exact = gram_eigenvalue(matrix.astype(np.float64))
            for name, solver in solvers.items():
                value = run(solver, matrix)[1]
                error = abs(value / exact - 1) if isinstance(value, float) and math.isfinite(value) else math.inf
                worst[name] = max(worst[name], (error, spectrum))
    return worst


def report_spectra(seeds: int) -> None:
    """Print the greatest error of each method, the least first."""
    chosen = {name: method for name, method in methods(np.ones((2, 2), np.float32)).items() if name not in KNOWING}
    print(f"\ngreatest error on 300x500 matrices of known singular values, {seeds} seeds of each spectrum")
    for name, (error, spectrum) in sorted(greatest_errors(chosen, seeds).items(), key=lambda item: item[1]):
        print(f"  {name:33} {error:8.0e}   {spectrum}")


def resnet50() -> Counter[tuple[int, int]]:
    """Count the shapes [out, in · kernel] of its 53 convolutions and one dense layer."""
    shapes = Counter([(64, 147), (1000, 2048)])
    inward = 64
    for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3)):
        shapes[4 * width, inward] += 1
        for _ in range(blocks):
            shapes.update([(width, inward), (width, 9 * width), (4 * width, width)])
            inward = 4 * width
    return shapes


def report_resnet50(repeats: int, seed: int) -> None:
    """Print times on the weights of a ResNet-50, and their sums."""
    solvers: dict[str, Method] = {"svdvals": lambda m: float(svdvals(m)[0])}
    solvers |= {name: sparse_solver(name) for name in ("arpack", "propack")}
    exact = {name for name, (error, _) in greatest_errors(solvers, repeats).items() if error <= PROMISED}
    sums: dict[str, float] = defaultdict(float)
    print(f"\nResNet-50, random weights; of scipy's solvers, {', '.join(sorted(exact))} are exact to {PROMISED:g}")
    for (rows, columns), count in sorted(resnet50().items()):
        rivals = {"sn_graph": spectral_norm, **solvers}
        times: dict[str, list[float]] = {name: [] for name in rivals}
        for repeat in range(repeats):
            # Another matrix each time: PROPACK looks after 10, 20, 30, 45 and 67 steps, and some are done by the 31st.
            matrix = np.random.default_rng(seed + repeat).standard_normal((rows, columns), dtype=np.float32)
            for name, method in rivals.items():
                time.sleep(REST)
                run(method, matrix)
                times[name].append(run(method, matrix)[0])
        medians = {name: statistics.median(values) * 1e3 for name, values in times.items()}
        own = medians.pop("sn_graph")
        line = f"  {count} x {rows}x{columns:<6} sn_graph {own:8.2f} ms"
        for kind, names in (("all", set(medians)), ("exact", exact)):
            name = min(names, key=medians.__getitem__)
            sums[kind] += count * medians[name]
            line += f", best of {kind}: {name:8} {medians[name]:8.2f} ms ({own / medians[name]:4.2f})"
        sums["sn_graph"] += count * own
        print(line, flush=True)
    own = sums["sn_graph"]
    for kind in ("all", "exact"):
        print(f"  sum: sn_graph {own:.1f} ms, best of {kind} {sums[kind]:.1f} ms, ratio {own / sums[kind]:.2f}")


def report_ratios(repeats: int, seed: int) -> None:
    """Print the medians of σ of one matrix in three types, and of σ and a proven bound of another; and their ratios."""
    generator = np.random.default_rng(seed)
    wide = generator.standard_normal((4096, 11008), dtype=np.float32)
    square = generator.standard_normal((4096, 4096), dtype=np.float32)
    halves: dict[str, NDArray[Any]] = {
        "float32": wide,
        "float16": wide.astype(np.float16),
        "bfloat16": wide.astype(ml_dtypes.bfloat16),
    }
    groups: dict[str, dict[str, Callable[[], float]]] = {
        "σ, 4096x11008": {name: partial(spectral_norm, matrix) for name, matrix in halves.items()},
        "4096x4096, float32": {
            "σ": partial(spectral_norm, square),
            "bracket": lambda: bracket(square).upper,
        },
    }
    for title, methods in groups.items():
        taken = interleaved({name: partial(clock, method) for name, method in methods.items()}, rounds=repeats)
        medians = {name: statistics.median(seconds for seconds, _ in runs) for name, runs in taken.items()}
        first = next(iter(medians.values()))
        print(f"\n{title}")
        for name, median in medians.items():
            print(f"  {name:10} {median * 1e3:8.0f} ms   {median / first:5.2f}x")


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", default=SHAPES.split(), metavar="ROWSxCOLUMNS")
    parser.add_argument("--resnet50", action="store_true", help="its weights in place of the shapes")
    parser.add_argument("--ratios", action="store_true", help="what types and a proof cost")
    parser.add_argument("--spectra", action="store_true", help="errors where the leading value is hard to tell")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each method; seeds of each spectrum")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    print(versions(PACKAGES, blas(), name_absent=True))
    warnings.simplefilter("ignore")  # lobpcg warns at every run that it has not converged
    if arguments.spectra:
        report_spectra(arguments.repeats)
    if arguments.resnet50:
        report_resnet50(arguments.repeats, arguments.seed)
    if arguments.ratios:
        report_ratios(arguments.repeats, arguments.seed)
    if arguments.spectra or arguments.resnet50 or arguments.ratios:
        return
    for shape in arguments.shapes:
        report(shape, arguments.repeats, arguments.seed)


if __name__ == "__main__":
    main()
