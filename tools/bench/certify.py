"""Bounds of Lipschitz constants, their time and memory: sn-graph beside eclipse-nn, and cvxpy with Clarabel.

    python -m tools.bench.certify --parts lipsdp eclipse layers models --limit 120

Every figure is of a process of its own, so that memory is what that way needs, and nobody finds the other's caches.

    certify         sn.certify on the exported model: attained … proven, by the level that proved it
    spectral.lmi    chain_bound on the weights alone, which is what the next three are given
    ECLipsE-Fast    the closed form as its paper has it (Xu & Sivaranjani, 2024, 2404.04375), in numpy
    cvxpy           LipSDP-Neuron (Fazlyab et al., 2019, 1906.04893) as one semidefinite program, solved by Clarabel
    eclipse-nn      its method "ECLipsE", whatever it prints

The last two are left out where they are not installed, and told as such if they don't end within the limit. All but the
first two are unproven numbers. Times are of the call without imports.
"""

import argparse
import importlib
import json
import math
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from sn_graph.spectral.lmi import chain_bound
from tools.bench.certify_exports import exports
from tools.bench.certify_nets import (
    DEPTHS,
    ROOT,
    WIDTHS,
    Net,
    Real,
    bottlenecks,
    convolutional_layers,
    dense_layers,
    eclipse,
    published,
)
from tools.bench.common import blas, clock, markdown_table, versions

FAMILIES = ("SLL", "CPL", "AOL")
CORPUS = ROOT.parent / "shared" / "corpus"
# ECLipsE's networks that are shown unless all are asked for.
SHOWN = ((2, 80), (5, 20), (10, 60), (20, 40), (50, 20), (100, 20))

Figures = dict[str, float | str]


def by_certify(model: Any, budget: float) -> Figures:
    """Ask sn-graph, with its search for the attained end."""
    import sn_graph as sn

    seconds, found = clock(lambda: sn.certify(model, budget=budget))
    if found.unbounded is not None:
        return {"seconds": seconds, "bound": math.inf, "note": f"unbounded at {found.unbounded.node}"}
    figures: Figures = {"seconds": seconds, "bound": found.proven or 0.0, "note": found.level or ""}
    figures.update({f"level {name}": value for name, value in found.levels.items() if value is not None})
    return {**figures, "attained": found.attained or 0.0}


def by_chain_bound(weights: list[Real], budget: float) -> Figures:
    """Ask the room of inequalities itself."""
    between = len(weights) - 1
    seconds, found = clock(
        lambda: chain_bound(weights, [0.0] * between, [1.0] * between, deadline=time.monotonic() + budget)
    )
    return {"seconds": seconds, "bound": found.value, "note": found.proven_by}


def by_closed_form(weights: list[Real], budget: float) -> Figures:
    """Run ECLipsE-Fast."""
    del budget

    def run() -> float:
        form = np.eye(weights[0].shape[1])
        for weight in weights[:-1]:
            inner = weight @ np.linalg.inv(form) @ weight.T
            scale = 2.0 / np.linalg.eigvalsh(inner)[-1]
            form = scale * np.eye(len(weight)) - scale**2 / 4.0 * inner
        return float(np.sqrt(np.linalg.eigvalsh(weights[-1] @ np.linalg.solve(form, weights[-1].T))[-1]))

    seconds, bound = clock(run)
    return {"seconds": seconds, "bound": bound}


def by_cvxpy(weights: list[Real], budget: float) -> Figures:
    """Solve LipSDP-Neuron by Clarabel; a long input is shortened first, as we do it."""
    cp: Any = importlib.import_module("cvxpy")
    del budget
    first = weights[0]
    if first.shape[1] > len(first):
        left, values, _ = np.linalg.svd(first, full_matrices=False)
        first = left * values
    layers = [first, *weights[1:]]
    inputs, count = first.shape[1], sum(len(layer) for layer in layers[:-1])
    rows, output = np.zeros((count, inputs + count)), np.zeros((len(layers[-1]), inputs + count))
    row, column = 0, 0
    for layer in layers[:-1]:
        rows[row : row + len(layer), column : column + layer.shape[1]] = layer
        row, column = row + len(layer), inputs + row
    output[:, column:] = layers[-1]
    select, corner = np.eye(count, inputs + count, inputs), np.diag([1.0] * inputs + [0.0] * count)

    def run() -> Figures:
        rho, each = cp.Variable(), cp.Variable(count, nonneg=True)
        diagonal = cp.diag(each)
        inner = 2 * select.T @ diagonal @ select - select.T @ diagonal @ rows - rows.T @ diagonal @ select
        problem = cp.Problem(cp.Minimize(rho), [rho * corner + inner - output.T @ output >> 0])
        problem.solve(solver=cp.CLARABEL)
        return {"bound": float(np.sqrt(rho.value)) if rho.value is not None else math.inf, "note": problem.status}

    seconds, figures = clock(run)
    return {"seconds": seconds, **figures}


def by_eclipse_nn(weights: list[Real], budget: float) -> Figures:
    """Ask eclipse-nn for its semidefinite bound."""
    torch: Any = importlib.import_module("torch")
    peer: Any = importlib.import_module("eclipse_nn.LipConstEstimator")
    del budget
    estimator = peer.LipConstEstimator(weights=[torch.from_numpy(weight) for weight in weights])
    seconds, found = clock(lambda: estimator.estimate("ECLipsE"))
    return {"seconds": seconds, "bound": float(found) if found is not None else math.inf}


ON_WEIGHTS: dict[str, Callable[[list[Real], float], Figures]] = {
    "spectral.lmi": by_chain_bound,
    "ECLipsE-Fast": by_closed_form,
    "cvxpy": by_cvxpy,
    "eclipse-nn": by_eclipse_nn,
}


def nets(part: str, whole: bool) -> Iterator[Net]:
    """Give the networks of a part of the benchmark."""
    match part:
        case "lipsdp":
            yield from filter(None, (published("random", 36.482), published("mnist", 24.365)))
        case "eclipse":
            pairs = [(depth, width) for depth in DEPTHS for width in WIDTHS] if whole else SHOWN
            yield from (eclipse(*pair) for pair in pairs)
            yield from (bottlenecks(seed) for seed in range(2))
        case "layers":
            yield from (dense_layers(family) for family in FAMILIES)
            yield from (convolutional_layers(family) for family in FAMILIES)
        case "models":
            yield from _files(ROOT / "models")
        case "corpus":
            yield from _files(CORPUS)
        case "exports":
            yield from exports()


def _files(folder: Path) -> Iterator[Net]:
    for path in sorted(folder.rglob("*.onnx")):
        yield Net(path.name, None, lambda path=path: path)  # type: ignore[misc]


def one(part: str, index: int, way: str, whole: bool, budget: float) -> Figures:
    """Measure one way on one network, in this process."""
    net = list(nets(part, whole))[index]
    try:
        if way == "certify":
            figures = by_certify(net.make(), budget)
        elif net.weights is None:
            return {}
        else:
            figures = ON_WEIGHTS[way](net.weights, budget)
    except ImportError as error:
        return {"note": f"not installed: {error.name}"}
    except Exception as error:  # a peer may fail in any way; the record says how
        told = f"{type(error).__name__}: {error}".replace(f"{ROOT}/", "")
        return {"note": told.splitlines()[0][:80]}
    return {**figures, "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024.0}


def elsewhere(part: str, index: int, way: str, arguments: argparse.Namespace) -> Figures:
    """Measure one way on one network in a process of its own."""
    command = [sys.executable, "-m", "tools.bench.certify", "--one", part, str(index), way]
    command += ["--budget", str(arguments.budget), *(["--all"] if arguments.all else [])]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=arguments.limit, check=False)
    except subprocess.TimeoutExpired:
        return {"note": f"not within {arguments.limit:g} s"}
    last = ran.stdout.strip().splitlines()[-1:] or ["{}"]
    figures: Figures = json.loads(last[0]) if last[0].startswith("{") else {"note": ran.stderr[-80:].strip()}
    return figures


def cell(figures: Figures, unit: float) -> str:
    """Write a way's bound in units of the product, its time and its memory."""
    if "bound" not in figures:
        return str(figures.get("note", ""))
    bound = float(figures["bound"])
    shown = "none" if math.isinf(bound) else f"{bound / unit:.6g}"
    return f"{shown}, {float(figures['seconds']):.3g} s, {float(figures['megabytes']):.0f} MB"


def report(part: str, arguments: argparse.Namespace) -> None:
    """Print the table of a part."""
    ways = arguments.ways or (["certify", *ON_WEIGHTS] if part in ("lipsdp", "eclipse") else ["certify"])
    rows = []
    for index, net in enumerate(nets(part, arguments.all)):
        if net.weights is None:
            product, unit = "", 1.0
        else:
            unit = math.prod(float(np.linalg.norm(weight, 2)) for weight in net.weights)
            product = f"{unit:.6g}"
        figures = {way: elsewhere(part, index, way, arguments) for way in ways}
        own = figures.get("certify", {})
        attained = f"{float(own['attained']) / unit:.4g}" if "attained" in own else ""
        levels = ", ".join(f"{key[6:]} {float(own[key]) / unit:.6g}" for key in own if key.startswith("level "))
        claimed = "" if net.claimed is None else f"{net.claimed / unit:.6g}"
        row = [net.title, product, claimed, attained, *(cell(figures[way], unit) for way in ways), levels]
        print(" | ".join(row), file=sys.stderr, flush=True)
        rows.append(row)
    head = ["network", "product of norms", "claimed", "attained", *ways, "levels"]
    print(f"\n{part}: all bounds divided by the product of norms where there is one\n\n{markdown_table(head, rows)}")


def main() -> None:
    """Run the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = ["lipsdp", "eclipse", "layers", "exports", "models"]
    parser.add_argument("--parts", nargs="+", default=parts, choices=[*parts, "corpus"])
    parser.add_argument("--ways", nargs="+", choices=["certify", *ON_WEIGHTS])
    parser.add_argument("--all", action="store_true", help="all 40 of ECLipsE's standard networks")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds that sn-graph may take for a network")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds after which a way is stopped")
    parser.add_argument("--one", nargs=3, metavar=("PART", "INDEX", "WAY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        part, index, way = arguments.one
        print(json.dumps(one(part, int(index), way, arguments.all, arguments.budget)))
        return
    print(versions(("numpy", "scipy", "cvxpy", "clarabel", "eclipse-nn"), blas(), name_absent=True))
    for part in arguments.parts:
        report(part, arguments)


if __name__ == "__main__":
    main()
