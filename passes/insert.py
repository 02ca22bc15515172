"""Insert the power iteration, with its vectors u as state, so that each run normalizes as training does.

    t = M v,  σ = ‖t‖,  u' = t / σ        with v = n(Mᵀu), n(x) = x / max(‖x‖, eps)

in the nodes that sn_graph.iteration chooses, and every consumer computes Y = Op(X/σ, W, B): the weight stays a
constant, bias, alpha, beta and fused activations stay as they were. Gather's rows are scaled; where the op is not
linear in X, the weight is. Miyato et al., 2018, https://arxiv.org/abs/1802.05957, algorithm 1.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.hoist import Hoist
from sn_graph.inserted import pack_original, read_inserted, write_inserted
from sn_graph.insertion import NOT_LINEAR, Insertion, StateLayout, StateMode
from sn_graph.iteration import bytes_read
from sn_graph.measure import KERAS_FLOOR, exact_sigma, exact_triplet, notes, readings, require_finite, with_progress
from sn_graph.model import Model
from sn_graph.operators import MADE_ZERO, Enclosure, Operators, alpha, state_length
from sn_graph.passes.base import Pass, PassResult
from sn_graph.plan import Plan, PlannedSite
from sn_graph.progress import Progress, silent
from sn_graph.report import SiteRecord, record_of
from sn_graph.spectral.blocks import BlockedMatrix
from sn_graph.spectral.power import seeded_state
from sn_graph.state import State, plan_state, skeleton_hash

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
        hoist = Hoist(model)
        state = self.start(model, plan)
        operators = Operators(model)
        records: list[SiteRecord] = []
        chosen: list[_Chosen] = []
        for planned in with_progress(model, plan, progress):
            record, choice = self._decide(model, plan, planned, state, hoist.refusal, operators)
            records.append(record)
            if choice is not None:
                chosen.append(choice)
        if chosen:
            self._write(model, plan, chosen, hoist)
        return PassResult(model, plan, tuple(records))

    def first_u(
        self, planned: PlannedSite, plan: Plan, matrix: NDArray[Any], state: State, operators: Operators
    ) -> "Start":
        """Return the u that a site starts from, with what had to be computed for it."""
        assert planned.view is not None
        through = None if plan.norm == "matrix" else operators.iterated(planned)
        if self.options.exact and through is not None:
            from sn_graph.spectral.convolution import operator_norm

            found = operator_norm(through, vectors=True)
            assert found.left is not None
            return Start(found.left.reshape(-1), enclosed=Enclosure(found.lower, found.upper))
        if self.options.exact:
            leading = exact_triplet(planned, matrix)
            return Start(leading.left if planned.view.side == "rows" else leading.right, leading.sigma)
        if planned.id in state.u:
            return Start(state.u[planned.id])
        return Start(seeded_state(self.options.seed, planned.id, state_length(planned, through)))

    def _sigmas(
        self, plan: Plan, planned: PlannedSite, matrix: NDArray[Any], start: "Start", operators: Operators
    ) -> dict[str, float | None]:
        """Return the norms for the record that --sigma exact and upper ask for."""
        if not self.options.exact:
            return {}
        sigma = exact_sigma(planned, matrix) if start.sigma is None else start.sigma
        known: dict[str, float | None] = {"sigma": sigma}
        if self.options.upper:
            from sn_graph.spectral.bound import upper_bound

            known["sigma_upper"] = upper_bound(matrix, sigma)
        if plan.norm == "operator":
            enclosed = start.enclosed or operators.enclose(planned)
            known |= {"sigma_operator": enclosed.lower, "sigma_operator_upper": enclosed.upper}
        return known

    def start(self, model: Model, plan: Plan) -> State:
        """Return the state that the iteration starts from, where it is not random or exact. Raises ModelError."""
        return State({}, {}) if self.options.exact else self.options.state or plan_state(plan, model)

    def _decide(
        self,
        model: Model,
        plan: Plan,
        planned: PlannedSite,
        state: State,
        refusal: Callable[[PlannedSite], str | None],
        operators: Operators,
    ) -> "tuple[SiteRecord, _Chosen | None]":
        """Return the site's record, and how it begins where it is inserted."""
        if planned.status == "skipped" or planned.view is None:
            return record_of(planned), None
        through_nodes = plan.norm == "operator"
        reason = refusal(planned) or _not_linear(planned)
        if reason is not None:
            return record_of(planned, "skipped", reason=reason), None
        matrix = planned.matrix(model)
        require_finite(planned, matrix)
        largest = BlockedMatrix.of(matrix).largest()
        if largest == 0.0:
            return record_of(planned, "unchanged", reason="all zeros: no spectral norm to divide by"), None
        if through_nodes and operators.is_zero(planned):
            return record_of(planned, "unchanged", reason=MADE_ZERO), None
        reason = _out_of_range(plan, planned, matrix, largest) or (
            operators.refusal(planned) if through_nodes else None
        )
        if reason is not None:
            return record_of(planned, "skipped", reason=reason), None
        through = operators.iterated(planned) if through_nodes else None
        factor = abs(alpha(planned.uses[0])) if through_nodes else 1.0
        start = self.first_u(planned, plan, matrix, state, operators)
        small = largest < KERAS_FLOOR  # and so may the norm be; rare enough to compute it
        record = record_of(
            planned,
            "inserted",
            **self._sigmas(plan, planned, matrix, start, operators),
            notes=(*_costs(planned), *(notes(planned, exact_sigma(planned, matrix)) if small else ())),
            readings=readings(model, planned, start.sigma),
        )
        floor = plan.eps * (largest if largest < _TINY else 1.0)
        return record, _Chosen(
            planned, start.u, {"floor": floor, "largest": largest, "through": through, "factor": factor}
        )

    def _write(self, model: Model, plan: Plan, chosen: "list[_Chosen]", hoist: Hoist) -> None:
        original = model.copy()
        hoisted = hoist.apply([one.planned for one in chosen])
        packed = pack_original(original, model, hoisted.moved)
        insertion = Insertion(model, plan, self.options.layout, self.options.mode, self.options.scale is Scale.WEIGHT)
        for one in chosen:
            insertion.add(one.planned, hoisted.weights[one.planned.id], one.u, **one.known)
        inserted = insertion.finish()
        write_inserted(model, replace(inserted, model=skeleton_hash(original), original=packed))


@dataclass(frozen=True, eq=False)
class Start:
    """The first u [n] of a site; of the leading singular vector also what it is the vector of.

    Attributes:
        sigma: The matrix's norm.
        enclosed: The norm of the convolution that the iteration goes through.
    """

    u: NDArray[np.floating]
    sigma: float | None = None
    enclosed: Enclosure | None = None


@dataclass(frozen=True, eq=False)
class _Chosen:
    """A site to insert, the u it starts from, and what else its Entry wants."""

    planned: PlannedSite
    u: NDArray[np.floating]
    known: Mapping[str, Any]


_TINY = 1e-6  # a largest element below which eps itself could act, and make σ wrong


def _not_linear(planned: PlannedSite) -> str | None:
    op_type = next((use.node.op_type for use in planned.uses if use.node.op_type in NOT_LINEAR), None)
    if op_type is None or planned.site.quantization is None:
        return None
    return f"quantized, and {op_type} is not linear in its input, so nothing can be scaled; fold it instead"


def _out_of_range(plan: Plan, planned: PlannedSite, matrix: NDArray[Any], largest: float) -> str | None:
    """Return why numbers on the way would leave their type, or None. σ is at most largest · √(rows · cols)."""
    highest = largest * math.sqrt(matrix.size)
    if matrix.dtype == np.float64:
        if largest < _DOUBLE_RANGE[0] or highest > _DOUBLE_RANGE[1]:
            return f"its largest element is {largest:.3g}, and the σ that goes out is float32; rescale it, or fold"
        return None
    if largest < SMALLEST or largest > LARGEST or highest > LARGEST * 10:
        return f"its largest element {largest:.3g} would leave float32 in the iteration; rescale it, or fold"
    if planned.site.dtype == "float16":
        low, high = (float(bound) * plan.bound for bound in _HALF_RANGE)
        if highest > high or largest < low:
            sigma = exact_sigma(planned, matrix)
            if not low <= sigma <= high:
                return f"its norm {sigma:.3g} does not fit into float16, in which its consumer divides; fold it"
    return None


def _costs(planned: PlannedSite) -> Iterator[str]:
    """Yield a warning where the iteration costs far more than the node itself."""
    if planned.site.op_types == ("Gather",) and planned.view is not None:
        yield (
            f"each run reads {bytes_read(planned.view) / 1e6:.3g} MB for the iteration where the node itself reads a "
            "few rows of its table; folding costs nothing at run time"
        )
    if planned.site.quantization is not None:
        yield "runtimes that fuse DequantizeLinear and its consumer into an integer operator do so no more; fold it"
