"""The drawing docs/sigma.svg: a weight's singular values, what power iteration makes of the first, and the bracket.

    python tools/plot_sigma.py models/torch_patchgan_discriminator.onnx docs/sigma.svg

The weight is the model's largest. The estimates are those of PyTorch and Keras after k calls, σ_k = ‖M n(Mᵀu)‖ with u
carried over, for five random starts; both frameworks compute this, and their floors do nothing here.
"""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import svdvals

from sn_graph.model import Model
from sn_graph.plan import make_plan
from sn_graph.spectral.matrix import bracket, power_iteration, seeded_state

WIDTH, HEIGHT, LEFT, TOP, PANEL, GAP = 880, 360, 70, 40, 340, 90
BLUE, RED, GRAY = "#2563a8", "#b3402a", "#777"
STARTS, CALLS = 5, 300


@dataclass(frozen=True)
class Panel:
    """A rectangle of the drawing with its axes.

    Attributes:
        start: Its left edge.
        across, up: Return the place of a value on its axis, 0 … 1.
    """

    start: float
    across: Callable[[float], float]
    up: Callable[[float], float]

    def point(self, x: float, y: float) -> str:
        """Return "left,top" of two values."""
        height = HEIGHT - TOP - 60
        return f"{self.start + PANEL * self.across(x):.1f},{TOP + height * (1 - self.up(y)):.1f}"

    def line(self, xs: Sequence[float], ys: Sequence[float], color: str, width: float = 1.5) -> str:
        """Draw a line through points."""
        points = " ".join(self.point(x, y) for x, y in zip(xs, ys, strict=True))
        return f'<polyline points="{points}" fill="none" stroke="{color}" stroke-width="{width}"/>'

    def dot(self, x: float, y: float, color: str) -> str:
        """Draw a point."""
        left, top = self.point(x, y).split(",")
        return f'<circle cx="{left}" cy="{top}" r="2" fill="{color}"/>'

    def axes(self, title: str, xs: dict[float, str], ys: dict[float, str], below: str) -> list[str]:
        """Draw both axes with their labels, a title above and a label below."""
        bottom = HEIGHT - 60
        parts = [
            f'<path d="M{self.start},{TOP}V{bottom}H{self.start + PANEL}" fill="none" stroke="{GRAY}"/>',
            text(self.start, TOP - 16, title, "start", 14),
            text(self.start + PANEL / 2, HEIGHT - 18, below),
        ]
        for x, label in xs.items():
            parts.append(text(self.start + PANEL * self.across(x), bottom + 18, label))
        for y, label in ys.items():
            top = TOP + (bottom - TOP) * (1 - self.up(y))
            parts.append(
                f'<path d="M{self.start - 4},{top:.1f}H{self.start + PANEL}" stroke="#ddd" stroke-width="0.6"/>'
            )
            parts.append(text(self.start - 8, top + 4, label, "end"))
        return parts


def text(x: float, y: float, content: str, anchor: str = "middle", size: int = 12, color: str = "#222") -> str:
    """Write a line of text."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{color}">{content}</text>'


def largest_weight(path: Path) -> tuple[str, NDArray[np.float32]]:
    """Return the name and the matrix of the model's largest weight."""
    model = Model.open(path)
    target = max(make_plan(model).targets(), key=lambda target: math.prod(target.shape))
    return target.id, np.asarray(target.matrix(model), np.float32)


def shortfalls(matrix: NDArray[np.float32], sigma: float, seed: int) -> list[float]:
    """Return how far the estimate is below σ after each call, relative to it."""
    state, found = seeded_state(seed, "weight", matrix.shape[0]), []
    for _ in range(CALLS):
        result = power_iteration(matrix, state, 1, "rows")
        state = result.state.astype(np.float64)
        found.append(1 - result.sigma / sigma)
    return found


def spectrum_panel(values: NDArray[np.float64]) -> list[str]:
    """Draw the largest singular values."""
    shown = values[:64] / values[0]
    low = math.floor(10 * shown[-1]) / 10
    panel = Panel(LEFT, lambda x: (x - 1) / (len(shown) - 1), lambda y: (y - low) / (1.02 - low))
    steps = [low + (1 - low) * i / 4 for i in range(5)]
    parts = panel.axes(
        "the largest singular values, over σ",
        {1.0: "1", 16.0: "16", 32.0: "32", 48.0: "48", 64.0: "64"},
        {y: f"{y:.2f}" for y in steps},
        f"index, of {len(values)}",
    )
    return parts + [panel.dot(i, float(y), BLUE) for i, y in enumerate(shown, 1)]


def estimate_panel(runs: list[list[float]], width: float) -> list[str]:
    """Draw the estimates of all runs, and the width of the bracket."""
    lowest, highest = -9.0, 0.0
    panel = Panel(
        LEFT + PANEL + GAP,
        lambda x: math.log10(x) / math.log10(CALLS),
        lambda y: (math.log10(y) - lowest) / (highest - lowest),
    )
    parts = panel.axes(
        "how far below σ the frameworks' estimate is",
        {1.0: "1", 10.0: "10", 100.0: "100", float(CALLS): str(CALLS)},
        {10.0**e: f"1e{e}" for e in range(-8, 1, 2)},
        "training calls (one power iteration each)",
    )
    for run in runs:
        parts.append(panel.line(range(1, CALLS + 1), [max(x, 10**lowest) for x in run], RED))
    parts.append(panel.line([1, CALLS], [width, width], BLUE, 2.5))
    left, top = (float(x) for x in panel.point(1.3, width).split(","))
    return [*parts, text(left, top - 6, f"width of the proven bracket, {width:.0e}", "start", 12, BLUE)]


def main() -> None:
    """Write the drawing, and print its numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    name, matrix = largest_weight(arguments.model)
    values = svdvals(matrix.astype(np.float64))
    found = bracket(matrix)
    runs = [shortfalls(matrix, float(values[0]), seed) for seed in range(STARTS)]
    parts = spectrum_panel(values) + estimate_panel(runs, found.upper / found.lower - 1)
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif">'
    background = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    arguments.output.write_text("\n".join([head, background, *parts, "</svg>"]) + "\n", encoding="utf-8")
    rows, columns = matrix.shape
    last = [run[k - 1] for k in (1, 10, 100) for run in runs]
    print(f"{name} [{rows}, {columns}]: sigma in [{found.lower:.9g}, {found.upper:.9g}]")
    print("low after 1, 10, 100 calls:", " ".join(f"{x:.1e}" for x in last))


if __name__ == "__main__":
    main()
