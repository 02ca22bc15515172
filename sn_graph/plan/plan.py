"""Plans: the sites of a model, what is decided about each, and the parameters of a pass."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray

from sn_graph.model import Model
from sn_graph.progress import Progress
from sn_graph.report import Shown, Table, one_line, sizes
from sn_graph.sites import Convention, MatrixView, Site, WeightUse

if TYPE_CHECKING:
    from sn_graph.recognise import Explanation

Status = Literal["eligible", "skipped"]
VERSION = 1
NORMS = ("matrix", "operator")
HEADINGS = ("weight", "op", "type", "shape", "matrix", "status", "reason")


@dataclass(frozen=True, eq=False, repr=False)
class PlannedSite:
    """A site and what is decided about it.

    Attributes:
        site: The weight.
        view: The matrix whose norm counts; None where the graph computes the weight.
        status, reason: Whether it is to be normalized, and if not, why.
        uses: The weight inputs to normalize; the others keep the original.
        power_iterations: The site's own number, or None for the plan's.
        per_use: One iteration for each use, in graph order, each divided by its own σ.
        explanation: What the arithmetic is that the graph computes the weight with; None where a tensor holds it.
        bound, clip: The site's own, or None for the plan's.
    """

    site: Site
    view: MatrixView | None
    status: Status
    reason: str | None
    uses: tuple[WeightUse, ...]
    power_iterations: int | None = None
    per_use: bool = False
    explanation: "Explanation | None" = None
    bound: float | None = None
    clip: bool | None = None

    @property
    def id(self) -> str:
        """The site's id."""
        return self.site.id

    def __repr__(self) -> str:
        return one_line("PlannedSite", *self.cells)

    @property
    def cells(self) -> tuple[str, ...]:
        """The site as a row of a table, under `HEADINGS`."""
        matrix = () if self.view is None else (self.view.rows, self.view.cols)
        site = self.site
        what = ("+".join(site.op_types), site.dtype or "", sizes(site.shape), sizes(matrix))
        return (self.id, *what, self.status, self.reason or "")

    @property
    def splits(self) -> bool:
        """Whether something reads the weight that must keep the original."""
        return _splits(self.site, self.uses)

    @property
    def target(self) -> "Target | None":
        """The site as passes and norms take it; None where it is not eligible."""
        site = self.site
        if self.status == "skipped" or self.view is None or site.tensor is None or site.shape is None:
            return None
        own = (self.power_iterations, self.per_use, self.bound, self.clip)
        return Target(site, site.tensor, site.shape, self.view, self.uses, *own)


@dataclass(frozen=True, eq=False, repr=False)
class Target:
    """A weight to normalize: an eligible site, with nothing left open.

    Attributes:
        site: The weight.
        tensor, shape: As it is stored.
        view: The matrix M whose norm counts.
        uses: The weight inputs to normalize; the others keep the original.
        power_iterations, per_use, bound, clip: As in `PlannedSite`.
    """

    site: Site
    tensor: onnx.TensorProto
    shape: tuple[int, ...]
    view: MatrixView
    uses: tuple[WeightUse, ...]
    power_iterations: int | None = None
    per_use: bool = False
    bound: float | None = None
    clip: bool | None = None

    @property
    def id(self) -> str:
        """The site's id."""
        return self.site.id

    @property
    def splits(self) -> bool:
        """Whether something reads the weight that must keep the original."""
        return _splits(self.site, self.uses)

    def __repr__(self) -> str:
        return one_line("Target", self.id, "+".join(self.site.op_types), sizes((self.view.rows, self.view.cols)))

    @property
    def turns(self) -> tuple[WeightUse, ...]:
        """The uses that have an iteration each: all of them with `per_use`, else the first for all."""
        return self.uses if self.per_use else self.uses[:1]

    def array(self, model: Model) -> NDArray[np.generic]:
        """Return the weight in its stored shape, dequantized where it is quantized; read-only."""
        return self.site.read(model, self.tensor)

    def readings(self, model: Model, use: WeightUse, factor: float | None = None) -> list[NDArray[np.generic]]:
        """Return the weight as runtimes read it at one of its uses, after a factor: see `Model.array`."""
        return use.readings(self.site.read(model, self.tensor, factor))

    def matrix(self, model: Model) -> NDArray[np.generic]:
        """Return M, of shape (rows, cols), in the stored type (float32 where dequantized); read-only."""
        return self.view.matrix(self.array(model))


def _splits(site: Site, uses: tuple[WeightUse, ...]) -> bool:
    return len(uses) < len(site.uses) or bool(site.other_uses)


@dataclass(frozen=True, repr=False)
class Plan(Shown):
    """The sites of a model and the parameters of a pass.

    Attributes:
        model: The model file's name without its folder.
        convention, convention_reason: Whose matrices, and why.
        power_iterations: Iterations a run.
        eps: The norm floor of the power iteration.
        bound: The spectral norm that a normalized weight gets.
        clip: Leave weights alone whose norm is at most `bound`.
        norm: "matrix" (the reshaped kernel) or "operator" (what the consumers do).
        state: A safetensors file with the u of each site, or arrays by id, or None for seeded ones.
        guessed: Whether nothing in the model tells the convention.
        sites: Every site of the model.
    """

    model: str
    convention: Convention
    convention_reason: str
    sites: tuple[PlannedSite, ...]
    power_iterations: int = 1
    eps: float = 1e-12
    bound: float = 1.0
    clip: bool = False
    norm: str = "matrix"
    state: Path | Mapping[str, ArrayLike] | None = None
    guessed: bool = False

    @property
    def table(self) -> Table:
        """The sites as a table."""
        said = f"{len(self.eligible())} of {len(self.sites)} weights to normalize; convention {self.convention}"
        return Table(f"Plan of {self.model or 'a model'}: {said}", HEADINGS, [site.cells for site in self.sites])

    def to_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready data: see `to_json`."""
        return self.to_json()

    def _records(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.to_json()["sites"]
        return found

    def eligible(self) -> tuple[PlannedSite, ...]:
        """Return the sites to normalize."""
        return tuple(site for site in self.sites if site.status == "eligible")

    def targets(self) -> tuple[Target, ...]:
        """Return the sites to normalize, as passes and norms take them."""
        return tuple(target for site in self.sites if (target := site.target) is not None)

    def iterations(self, target: Target) -> int:
        """Return how many power iterations a run makes of a weight: its own number, or the plan's."""
        return target.power_iterations or self.power_iterations

    def bound_of(self, target: Target) -> float:
        """Return the norm that a weight gets: its own, or the plan's."""
        return target.bound or self.bound

    def clips(self, target: Target) -> bool:
        """Say whether a weight is left alone where its norm is at most the bound: its own word, or the plan's."""
        return self.clip if target.clip is None else target.clip

    def to_json(self) -> dict[str, Any]:
        """Return the plan file's content, except that `state` is left to `save_plan`."""
        return {
            "version": VERSION,
            "model": self.model,
            "convention": str(self.convention),
            "power_iterations": self.power_iterations,
            "eps": self.eps,
            "bound": self.bound,
            "clip": self.clip,
            "norm": self.norm,
            "state": None,
            "sites": [_site_to_json(site) for site in self.sites],
        }


def _site_to_json(planned: PlannedSite) -> dict[str, Any]:
    site, view = planned.site, planned.view
    record: dict[str, Any] = {
        "id": site.id,
        "weight": site.weight,
        "scope": site.scope.id,
        "status": planned.status,
        "reason": planned.reason,
        "split": list(view.split) if view and view.split is not None else None,
        "perm": list(view.perm) if view and view.perm is not None else None,
        "rows": view.rows if view else None,
        "cols": view.cols if view else None,
        "side": view.side if view else None,
    }
    if planned.power_iterations is not None:
        record["power_iterations"] = planned.power_iterations
    if planned.per_use:
        record["per_use"] = True
    if planned.bound is not None:
        record["bound"] = planned.bound
    if planned.clip is not None:
        record["clip"] = planned.clip
    return record


def one_at_a_time(model: Model, plan: Plan, progress: Progress) -> Iterator[PlannedSite]:
    """Yield the plan's sites; after each, tell how many elements have been measured, and give back what was read."""
    sizes = [int(np.prod(site.site.shape or (0,))) if site.status == "eligible" else 0 for site in plan.sites]
    done, total = 0, sum(sizes)
    for planned, size in zip(plan.sites, sizes, strict=True):
        yield planned
        model.let_go()
        done += size
        progress("measuring", done, total)
