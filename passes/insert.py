"""Insert the power iteration, with its vectors u as state, so that each run normalizes as training does.

    t = M v,  σ = ‖t‖,  u' = t / σ        with v = n(Mᵀu), n(x) = x / max(‖x‖, eps)

and every consumer computes Y = Op(X/σ, W, B): the weight stays a constant, bias, alpha, beta and fused activations stay
as they were. Gather's rows are scaled; where the op is not linear in X, the weight is. Miyato et al., 2018,
https://arxiv.org/abs/1802.05957, algorithm 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.hoist import hoist_weights
from sn_graph.inserted import pack_original, read_inserted, write_inserted
from sn_graph.insertion import Insertion, StateLayout, StateMode
from sn_graph.measure import exact_triplet, readings, require_finite, with_progress
from sn_graph.model import Model
from sn_graph.model.graph import Scope
from sn_graph.passes.base import Pass, PassResult
from sn_graph.plan import Plan, PlannedSite
from sn_graph.progress import Progress, silent
from sn_graph.report import SiteRecord, record_of
from sn_graph.spectral.blocks import BlockedMatrix
from sn_graph.spectral.power import seeded_state
from sn_graph.state import State, load_state, skeleton_hash

OLDEST_OPSET = 7  # the first whose Div broadcasts
LARGEST, SMALLEST = 1e18, 1e-15  # of float32 weights: beyond these a square leaves float32
_OPEN_BODIES = frozenset({"If", "Loop", "Scan"})  # whose bodies may capture whatever is around them


class Scale(StrEnum):
    """What is divided by σ."""

    INPUT = "input"
    WEIGHT = "weight"


@dataclass(frozen=True)
class InsertOptions:
    """How to insert.

    Attributes:
        exact: Start from the leading singular vectors, so that σ is exact from the first run on.
        seed: Of the vectors u that the plan's state file does not give.
        layout: One state tensor for all weights, or one for each.
        mode: Whether the state input has a default.
        scale: Divide what the node reads, or the weight.
    """

    exact: bool = False
    seed: int = 0
    layout: StateLayout = StateLayout.PACKED
    mode: StateMode = StateMode.DEFAULT
    scale: Scale = Scale.INPUT


class Insert(Pass[InsertOptions]):
    """Insert the iteration; every node, weight and name of the model stays, but for parts that must be hoisted."""

    name = "insert"

    def apply(self, model: Model, plan: Plan, progress: Progress = silent) -> PassResult:
        """Insert the iteration for every eligible weight of the plan.

        Raises:
            ModelError: The model is inserted already, its opset is too old, a weight is not finite, or the state
                file does not fit.
        """
        if read_inserted(model) is not None:
            raise ModelError(f"{model.name} holds an inserted iteration already; take it out with strip first")
        opset = next((entry.version for entry in model.proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
        if opset < OLDEST_OPSET and plan.eligible():
            raise ModelError(
                f"{model.name} has opset {opset}, and insert needs {OLDEST_OPSET} or later; "
                "upgrade it with onnx.version_converter.convert_version first, or fold it, which works on any"
            )
        state = self._load_state(model, plan)
        records: list[SiteRecord] = []
        chosen: list[tuple[PlannedSite, NDArray[np.floating]]] = []
        for planned in with_progress(model, plan, progress):
            record, u = self._decide(model, planned, state)
            records.append(record)
            if u is not None:
                chosen.append((planned, u))
        if chosen:
            self._write(model, plan, chosen)
        return PassResult(model, plan, tuple(records))

    def _load_state(self, model: Model, plan: Plan) -> State:
        if plan.state is None:
            return State({}, {})
        lengths = {site.id: site.view.state_length for site in plan.eligible() if site.view}
        return load_state(plan.state, model, lengths)

    def _decide(
        self, model: Model, planned: PlannedSite, state: State
    ) -> tuple[SiteRecord, NDArray[np.floating] | None]:
        """Return the site's record, and its first u where it is inserted."""
        if planned.status == "skipped" or planned.view is None:
            return record_of(planned), None
        closed = next(
            (name for use in planned.uses for name in _owners(use.node.scope) if name not in _OPEN_BODIES), None
        )
        closed = closed or next((n for n in _owners(planned.site.scope) if n not in _OPEN_BODIES), None)
        if closed is not None:
            return record_of(planned, "skipped", reason=f"inside a {closed}, whose body can't read the state"), None
        matrix = planned.matrix(model)
        require_finite(planned, matrix)
        largest = BlockedMatrix.of(matrix).largest()
        if largest == 0.0:
            return record_of(planned, "unchanged", reason="all zeros: no spectral norm to divide by"), None
        if matrix.dtype != np.float64 and not SMALLEST <= largest <= LARGEST:
            reason = f"its largest element {largest:.3g} would leave float32 in the iteration; rescale it, or fold"
            return record_of(planned, "skipped", reason=reason), None
        sigma = None
        if planned.id in state.u:
            u: NDArray[Any] = state.u[planned.id]
        elif self.options.exact:
            found = exact_triplet(planned, matrix)
            sigma, u = found.sigma, found.left if planned.view.side == "rows" else found.right
        else:
            u = seeded_state(self.options.seed, planned.id, planned.view.state_length)
        record = record_of(
            planned,
            "inserted",
            sigma=sigma,
            notes=tuple(_cost(planned)),
            readings=readings(model, planned, sigma),
        )
        return record, u

    def _write(self, model: Model, plan: Plan, chosen: list[tuple[PlannedSite, NDArray[np.floating]]]) -> None:
        original = model.copy()
        hoisted = hoist_weights(model, [planned for planned, _ in chosen])
        packed = pack_original(original, model, hoisted.moved)
        insertion = Insertion(model, plan, self.options.layout, self.options.mode, self.options.scale is Scale.WEIGHT)
        for planned, u in chosen:
            insertion.add(planned, hoisted.weights[planned.id], u)
        inserted = insertion.finish()
        write_inserted(model, replace(inserted, model=skeleton_hash(original), original=packed))


def _owners(scope: Scope | None) -> Iterator[str]:
    """Yield the op types of the nodes whose bodies a scope stands in."""
    while scope is not None:
        if scope.owner is not None:
            yield scope.owner.op_type
        scope = scope.parent


def _cost(planned: PlannedSite) -> Iterator[str]:
    """Yield a warning where the iteration costs far more than the node itself."""
    if planned.site.op_types == ("Gather",) and planned.view is not None:
        megabytes = 2 * planned.view.rows * planned.view.cols * 4 / 1e6
        yield (
            f"each run reads the whole table twice ({megabytes:.3g} MB) where the node itself reads a few rows; "
            "folding costs nothing at run time"
        )
