"""Making plans: from the command line's filters, from a file, or for a copy of the model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sn_graph.choices import ConventionChoice, NormChoice
from sn_graph.errors import UsageError
from sn_graph.model import Model, ModelSource
from sn_graph.plan.convention import resolve_convention
from sn_graph.plan.decide import check_op_types, decide_all, filter_names, only_op_types, patterns, refuse_pieces
from sn_graph.plan.file import load_plan
from sn_graph.plan.options import PathName
from sn_graph.plan.plan import NORMS, Plan, PlannedSite
from sn_graph.sites import Transfer, find_sites
from sn_graph.state import StateSource

MOST_ITERATIONS = 200_000
"""Power iterations of all weights together: some seconds for small ones, and no estimate gets better by more."""


def make_plan(
    source: ModelSource,
    *,
    convention: ConventionChoice = "auto",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
) -> Plan:
    """Find a model's weights and decide which to normalize.

    Args:
        source: A path, a ModelProto, a Model or a PassResult; its path names the plan's.
        convention: "auto", "keras", "torch" or "torch-parametrization".
        include, exclude: Regular expressions, searched in weight names.
        op_types: Normalize these consumers only; recurrent ones are normalized only when named here.

    Raises:
        UsageError: An expression, convention or op type is not valid.

    >>> plan = make_plan("models/keras_dcgan_discriminator.onnx", op_types=["Conv"])
    >>> [(site.site.op_types, site.status) for site in plan.sites][-2:]
    [(('Conv',), 'eligible'), (('MatMul',), 'skipped')]
    """
    model = Model.open(source)
    sites = find_sites(model)
    origin = resolve_convention(convention, model, sites)
    check_op_types(op_types)
    planned = decide_all(model, sites, origin.convention, op_types)
    narrowed = tuple(filter_names(site, patterns(include), patterns(exclude)) for site in planned)
    name = model.path.name if model.path else ""
    return Plan(name, origin.convention, origin.reason, narrowed, guessed=origin.guessed)


def narrow_plan(
    plan: Plan, *, include: Sequence[str] = (), exclude: Sequence[str] = (), op_types: Sequence[str] = ()
) -> Plan:
    """Return a plan with fewer sites eligible: what the filters do to a plan that came from a file."""
    check_op_types(op_types)
    sites = tuple(filter_names(site, patterns(include), patterns(exclude)) for site in plan.sites)
    if op_types:
        sites = tuple(only_op_types(site, op_types) for site in sites)
    return replace(plan, sites=sites)


def rebind(plan: Plan, model: Model) -> Plan:
    """Return the same plan for a copy of the model it was made for; no weight is searched for again.

    Raises:
        UsageError: The plan was made for another model.
    """
    transfer = Transfer(model.graph)

    def rebound(planned: PlannedSite) -> PlannedSite:
        site = transfer.site(planned.site)
        places = [planned.site.uses.index(use) for use in planned.uses]  # names of nodes need not be unique
        return replace(planned, site=site, uses=tuple(site.uses[place] for place in places))

    try:
        return replace(plan, sites=tuple(map(rebound, plan.sites)))
    except (KeyError, IndexError):
        raise UsageError(
            f"the plan was made for another model than {model.name}", do="make it with make_plan(model)"
        ) from None


def build_plan(
    model: Model,
    *,
    plan: PathName | Plan | None = None,
    convention: ConventionChoice | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    op_types: Sequence[str] = (),
    power_iterations: int | None = None,
    bound: float | None = None,
    clip: bool | None = None,
    norm: NormChoice | None = None,
    state: StateSource | None = None,
) -> Plan:
    """Return the plan of a file, or of the model itself, with the given arguments over it; None leaves the plan's.

    Raises:
        ModelError: The plan file can't be used for the model.
        UsageError: An argument is not valid.
    """
    if plan is None:
        made = make_plan(model, convention=convention or "auto", include=include, exclude=exclude, op_types=op_types)
    else:
        made = rebind(plan, model) if isinstance(plan, Plan) else load_plan(plan, model, convention=convention)
        made = narrow_plan(made, include=include, exclude=exclude, op_types=op_types)
    if bound is not None and not 0 < bound < math.inf:
        raise UsageError(f"a bound of {bound:g} is not a norm", do="give a number above zero")
    if power_iterations is not None and power_iterations < 1:
        raise UsageError(f"{power_iterations} power iterations are none", do="give at least 1")
    if power_iterations is not None:  # over a site's own number too
        made = replace(made, sites=tuple(replace(site, power_iterations=None) for site in made.sites))
    if bound is not None:
        made = replace(made, sites=tuple(replace(site, bound=None) for site in made.sites))
    if clip is not None:
        made = replace(made, sites=tuple(replace(site, clip=None) for site in made.sites))
    if norm is not None and norm not in NORMS:
        raise UsageError(f"no norm '{norm}'", do=f"choose one of {', '.join(NORMS)}")
    made = replace(
        made,
        norm=norm or made.norm,
        power_iterations=made.power_iterations if power_iterations is None else power_iterations,
        bound=made.bound if bound is None else bound,
        clip=made.clip if clip is None else clip,
        state=made.state if state is None else state if isinstance(state, Mapping) else Path(state),
    )
    if made.norm == "operator":
        made = replace(made, sites=tuple(map(refuse_pieces, made.sites)))
    total = sum(made.iterations(target) for target in made.targets())
    if total > MOST_ITERATIONS:
        raise UsageError(
            f"{min(total, 10**18):,} power iterations in all are too many" if total < 10**18 else "too many iterations",
            f"where at most {MOST_ITERATIONS:,} are made of all weights together",
            "ask for fewer, or for --sigma exact",
        )
    return made
