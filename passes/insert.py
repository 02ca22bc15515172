"""Insert the power iteration, with its vectors u as state, so that each run normalizes as training does.

    t = M v,  σ = ‖t‖,  u' = t / σ        with v = n(Mᵀu), n(x) = x / max(‖x‖, eps)

in the nodes that sn_graph.rewrite.insertion chooses, and every consumer computes Y = Op(X/σ, W, B): the weight stays a
constant, bias, alpha, beta and fused activations stay as they were. Gather's rows are scaled; where the operator is not
linear in X, the weight is. Miyato et al., 2018, https://arxiv.org/abs/1802.05957, algorithm 1.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError, UsageError, leave_out
from sn_graph.model import Model
from sn_graph.norms import (
    KERAS_FLOOR,
    MADE_ZERO,
    Start,
    Starter,
    doubt,
    exact_sigma,
    held,
    notes,
    plan_state,
    readings,
    require_finite,
)
from sn_graph.passes.base import Pass, PassResult, require_seed
from sn_graph.plan import Plan, PlannedSite, Target, one_at_a_time, record_of
from sn_graph.progress import Progress, silent
from sn_graph.report import SiteRecord
from sn_graph.rewrite import Hoist, pack_original
from sn_graph.rewrite.insertion import Insertion, StateLayout, StateMode, bytes_read
from sn_graph.sites import Action, locate_sites
from sn_graph.spectral.linalg import BlockedMatrix
from sn_graph.spectral.matrix import frobenius_norm, upper_bound
from sn_graph.state import State, read_inserted, skeleton_hash, write_inserted

OLDEST_OPSET = 7  # the first whose Div broadcasts
LARGEST, SMALLEST = 1e18, 1e-15  # of float32 weights: beyond these a square leaves float32
_DOUBLE_RANGE = (1e-30, 1e30)  # of float64 weights: σ goes out as float32
_HALF_RANGE = (6.2e-5, 6.5e4)  # float16's, without its subnormals


class Scale(StrEnum):
    """What is divided by σ."""

    INPUT = "input"
    WEIGHT = "weight"


@dataclass(frozen=True)
class InsertOptions:
    """How to insert.

    Attributes:
        exact: Start from the leading singular vectors, so that σ is exact from the first run on; not from a state.
        upper: Prove an upper bound of each σ besides.
        seed: Of the vectors u that no state gives.
        state: Where u starts, in place of the plan's state file.
        layout: One state tensor for all weights, or one for each.
        mode: Whether the state input has a default.
        scale: Divide what the node reads, or the weight.
    """

    exact: bool = False
    upper: bool = False
    seed: int = 0
    state: State | None = None
    layout: StateLayout = StateLayout.PACKED
    mode: StateMode = StateMode.DEFAULT
    scale: Scale = Scale.INPUT

    def __post_init__(self) -> None:
        """Raise UsageError for a seed that no generator takes."""
        require_seed(self.seed)


_MOST_UNROLLED = 5_000  # iterations of all weights: 10,000 took it 165 s to load, and 2,000 took 7 s


@dataclass(frozen=True, repr=False)
class InsertResult(PassResult):
    """What insert made.

    Attributes:
        starts: How the iteration of each inserted weight begins, in the order of the state.
    """

    starts: tuple[Start, ...] = ()


class Insert(Pass[InsertOptions]):
    """Insert the iteration; every node, weight and name of the model stays, but for parts that must be hoisted."""

    name = "insert"

    def requires(self, source: Model, plan: Plan) -> None:
        """Raise ModelError where a model is inserted already, or its opset is too old; UsageError for a vast graph."""
        if read_inserted(source) is not None:
            raise ModelError(f"{source.name} holds an inserted iteration already", do="take it out with strip first")
        opset = source.graph.opset() or 0
        if opset < OLDEST_OPSET and plan.eligible():
            raise ModelError(
                f"{source.name} has opset {opset}",
                f"and insert needs {OLDEST_OPSET} or later",
                "upgrade it with onnx.version_converter.convert_version first, or fold it, which works on any",
            )
        unrolled = sum(
            plan.iterations(target) * (len(target.uses) if target.per_use else 1) for target in plan.targets()
        )
        if unrolled > _MOST_UNROLLED and unrolled > len(plan.targets()):
            raise UsageError(
                f"{unrolled:,} power iterations in a graph are too many",
                f"because each is nodes of its own, and onnxruntime takes minutes to load more than {_MOST_UNROLLED:,}",
                "ask for fewer --power-iterations, or for --sigma exact, from which one iteration a run goes on",
            )

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> InsertResult:
        """Insert the iteration for every eligible weight of the plan.

        Raises:
            ModelError: As of `requires`; a weight is not finite, or the state file does not fit.
        """
        self.requires(model, plan)
        hoist = Hoist(model)
        decider = _Decider(model, plan, self.options, hoist, self._starter(model, plan))
        records: list[SiteRecord] = []
        starts: list[Start] = []
        for planned in one_at_a_time(model, plan, progress):
            record, start = decider.decide(planned)
            records.append(record)
            if start is not None:
                starts.append(start)
        if any(record.status in ("inserted", "unchanged") for record in records):
            self._write(model, plan, starts, hoist)
        return InsertResult(model, plan, tuple(records), starts=tuple(starts))

    def ensures(self, result: PassResult) -> None:
        """Raise RuntimeError where the model's own outputs are not the first, in their order."""
        super().ensures(result)
        if result.source is not None:
            own = [value.name for value in result.source.proto.graph.output]
            if [value.name for value in result.model.proto.graph.output][: len(own)] != own:
                raise RuntimeError("insert changed the outputs of the model")

    def _starter(self, model: Model, plan: Plan) -> Starter:
        exact = self.options.exact
        state = State({}, {}) if exact else self.options.state or plan_state(plan, model)
        return Starter(model, plan, state, self.options.seed, exact=exact)

    def _write(self, model: Model, plan: Plan, starts: list[Start], hoist: Hoist) -> None:
        original = model.copy()
        targets = [start.target for start in starts]
        hoisted = hoist.apply(targets)
        sites = {target.site.weight: target.site for target in targets}
        if hoisted.changed:
            sites = locate_sites(model, set(hoisted.weights.values()))
        packed = pack_original(original, model, hoisted.moved)
        weights = self.options.scale is Scale.WEIGHT
        insertion = Insertion(model, plan, self.options.layout, self.options.mode, weights=weights)
        for start in starts:
            site = sites.get(hoisted.weights[start.target.id])
            if site is None:
                raise ModelError(
                    f"no node reads weight '{start.target.site.weight}' once the functions on its way are written out",
                    "as where a call leaves out an input of its function",
                    leave_out(start.target.site.weight),
                )
            insertion.add(start, site)
        inserted = insertion.finish() if starts else insertion.nothing()
        write_inserted(model, replace(inserted, model=skeleton_hash(original), original=packed))
        model.edited()


@dataclass(frozen=True)
class _Decider:
    """Decides about each weight of one model: inserted, and how it starts; or why not."""

    model: Model
    plan: Plan
    options: InsertOptions
    hoist: Hoist
    starter: Starter

    def decide(self, planned: PlannedSite) -> tuple[SiteRecord, Start | None]:
        """Return a site's record, and how its iteration starts where it is inserted."""
        target = planned.target
        if target is None:
            return record_of(planned), None
        weights = self.options.scale is Scale.WEIGHT
        reason = self.hoist.refusal(target) or _no_part(target, weights) or _not_linear(target)
        if reason is not None:
            return record_of(planned, "skipped", reason), None
        matrix = target.matrix(self.model)
        require_finite(target, matrix)
        largest = BlockedMatrix.of(matrix).largest()
        reason = self._kept(target, largest)
        if reason is not None:
            return record_of(planned, "unchanged", reason), None
        reason = _out_of_range(self.plan, target, matrix, largest) or self._no_iteration(target)
        if reason is not None:
            return record_of(planned, "skipped", reason), None
        start = self.starter.start(target, matrix, largest)
        return self._record(planned, start, matrix), start

    def _kept(self, target: Target, largest: float) -> str | None:
        """Return why a weight stays as it is, or None."""
        if largest == 0.0:
            return "all zeros: no spectral norm to divide by"
        made_zero = self.plan.norm == "operator" and self.starter.operators.is_zero(target)
        return MADE_ZERO if made_zero else None

    def _no_iteration(self, target: Target) -> str | None:
        """Return why no iteration of the norm that counts can be inserted, or None."""
        return self.starter.operators.refusal(target) if self.plan.norm == "operator" else None

    def _record(self, planned: PlannedSite, start: Start, matrix: NDArray[Any]) -> SiteRecord:
        """Return the record of an inserted weight, with the norms that --sigma exact and upper ask for."""
        target = start.target
        small = start.largest < KERAS_FLOOR  # and so may the norm be; rare enough to compute it
        told = (*_costs(target), *(notes(target, exact_sigma(target, matrix)) if small else held(target)))
        read = readings(self.model, target, start.sigma)
        record = replace(record_of(planned, "inserted", notes=(*told, *doubt(self.plan, read))), readings=read)
        if not self.options.exact:
            return record
        sigma = exact_sigma(target, matrix) if start.sigma is None else start.sigma
        record = replace(record, sigma=sigma, frobenius=frobenius_norm(matrix))
        if self.options.upper:
            record = replace(record, sigma_upper=upper_bound(matrix, sigma))
        if self.plan.norm == "operator":
            enclosed = start.enclosed or self.starter.operators.enclose(target)
            record = replace(record, sigma_operator=enclosed.lower, sigma_operator_upper=enclosed.upper)
        return record


def _no_part(target: Target, weights: bool) -> str | None:
    """Return why no σ of the whole divides what one of the uses reads, or None."""
    if target.site.sparse is not None:
        return "stored as a sparse tensor, which no iteration reads; fold it, or store it dense"
    for use in target.uses:
        if use.handed:
            node = use.handed[0]
            return f"handed on by {node.op_type} (node '{node.path}'), so that no one σ fits; fold it instead"
        if use.piece is not None and use.piece.piece == "joint":
            return f"joined with other weights by {use.piece.node.path}, so that no one σ fits; fold it instead"
        if use.piece is not None and (weights or not use.operator.linear):
            return f"cut into parts by {use.piece.node.path}, so that only inputs can be scaled; fold it instead"
    return None


def _not_linear(target: Target) -> str | None:
    taking = next((use.node.op_type for use in target.uses if use.takes_integers), None)
    if taking is not None:
        return f"{taking} takes it as integers, of which the graph has no floating-point form to iterate on; fold it"
    read = target.site.quantization
    if read is not None and read.behind:
        return "looked up as integers, which are dequantized behind that; fold it"
    if read is not None and read.quantizer is not None and read.node.scope.id:
        return "quantized inside a body or local function; fold it instead, or inline that first"
    op_type = next((use.node.op_type for use in target.uses if not use.operator.linear), None)
    if op_type is not None and any(use.is_joined for use in target.uses):
        return f"its parts are joined in another order, and {op_type} is not linear in its input; fold it instead"
    if op_type is None or target.site.quantization is None:
        return None
    return f"quantized, and {op_type} is not linear in its input, so nothing can be scaled; fold it instead"


def _out_of_range(plan: Plan, target: Target, matrix: NDArray[Any], largest: float) -> str | None:
    """Return why numbers on the way would leave their type, or None. σ is at most largest · √(rows · cols)."""
    highest = largest * math.sqrt(matrix.size)
    if matrix.dtype == np.float64:
        if largest < _DOUBLE_RANGE[0] or highest > _DOUBLE_RANGE[1]:
            return f"its largest element is {largest:.3g}, and the σ that goes out is float32; rescale it, or fold"
        return None
    if largest < SMALLEST or largest > LARGEST or highest > LARGEST * 10:
        return f"its largest element {largest:.3g} would leave float32 in the iteration; rescale it, or fold"
    if target.site.dtype == "float16":
        low, high = (float(bound) * plan.bound_of(target) for bound in _HALF_RANGE)
        if highest > high or largest < low:
            sigma = exact_sigma(target, matrix)
            if not low <= sigma <= high:
                return f"its norm {sigma:.3g} does not fit into float16, in which its consumer divides; fold it"
    return None


def _costs(target: Target) -> Iterator[str]:
    """Yield a warning where the iteration costs far more than the node itself."""
    if all(use.operator.action is Action.LOOKUP and use.operator.linear for use in target.site.uses):
        yield (
            f"each run reads {bytes_read(target.view) / 1e6:.3g} MB for the iteration where the node itself reads a "
            "few rows of its table; folding costs nothing at run time"
        )
    if target.site.quantization is not None:
        yield "runtimes that fuse DequantizeLinear and its consumer into an integer operator do so no more; fold it"
