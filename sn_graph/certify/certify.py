"""Certifying: a network's constant by every level that fits the time, and a search for how much of it is attained."""

import time
from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum

from sn_graph.certify.build import build
from sn_graph.certify.certificate import CAVEAT, Certificate, Stop
from sn_graph.certify.levels import higher_levels
from sn_graph.certify.network import Network
from sn_graph.certify.product import Bound, output_bound, product_bounds
from sn_graph.certify.question import Question
from sn_graph.certify.steps import Unbounded
from sn_graph.certify.witness import Witness, witnesses
from sn_graph.model import Model
from sn_graph.progress import Progress, silent
from sn_graph.report import CertifiedNode

# The part of the time that the search for the attained end gets; the least where level 1 took all of it.
SEARCH, LEAST = 0.2, 0.05
# The part that level 1 gets before it takes coarser norms: with levels above it, and alone.
PRODUCT = (0.4, 0.75)


class Level(StrEnum):
    """How far to go: each level tries those before it too, and the answer is the least of all."""

    AUTO = "auto"
    PRODUCT = "product"
    FUSED = "fused"
    LMI = "lmi"


def certify(
    model: Model,
    *,
    inputs: Sequence[str] = (),
    output: str | None = None,
    level: Level = Level.AUTO,
    budget: float = 60.0,
    dims: Mapping[str, int] | None = None,
    progress: Progress = silent,
) -> tuple[Certificate, Network | None, list[Witness]]:
    """Enclose the Lipschitz constant of a model.

    Args:
        model: The model.
        inputs, output, dims: See `Question.of`.
        level: How far to go.
        budget: Seconds, of which a part goes to the search; level 1 is always finished.
        progress: Told the part of the search that is done.

    Returns:
        The certificate; the network, None where it has no bound; the candidates for the witness, the best first.

    Raises:
        ModelError: The model can't be used, or the question is open.
        UsageError: An input, output or dimension is unknown.
    """
    begun = time.monotonic()
    question = Question.of(model, inputs, output, dims)
    network = build(model, question)
    if isinstance(network, Unbounded):
        return _unbounded(model, question, network), None, []
    bounds = product_bounds(network, begun + PRODUCT[level is Level.PRODUCT] * budget)
    if isinstance(bounds, Unbounded):
        return _unbounded(model, question, bounds), None, []
    levels = {"product": output_bound(network, bounds)}
    if bounds and level is not Level.PRODUCT and levels["product"] > 0.0:
        end = begun + (1.0 - SEARCH) * budget
        levels.update(higher_levels(network, bounds, lmi=level is not Level.FUSED, deadline=end).bounds)
    best = min(levels, key=lambda name: levels[name])
    found = witnesses(network, max(LEAST * budget, SEARCH * (budget - (time.monotonic() - begun))), progress)
    certificate = Certificate(
        model=model.name,
        input=question.names,
        output=question.output,
        attained=found[0].quotient if found else 0.0,
        proven=levels[best],
        level=best,
        nodes=tuple(map(_row, bounds)),
        levels=levels,
        witness=found[0] if found else None,
        sizes=network.sizes,
        open=network.open,
        notes=tuple(_notes(network, question, bool(found))),
    )
    return certificate, network, found


def _notes(network: Network, question: Question, searched: bool) -> Iterator[str]:
    yield CAVEAT
    if network.open:
        yield f"what is proven holds for every size {', '.join(network.open)}"
    if network.parameters:
        others = ", ".join(value.name for value in question.others)
        yield f"what is proven holds for any value of {others}; the lower end is attained at one"
    if network.constant is not None:
        yield f"the output {question.output} does not depend on {question.names}"
    elif not searched:
        yield "no lower end: the network takes too long for the budget, or no two inputs had different outputs"


def _row(bound: Bound) -> CertifiedNode:
    step = bound.step
    constant = max(bound.factors, default=0.0)
    note = "coarse: there was no time for its norm at its size; more with --budget" if bound.is_hurried else step.note
    return CertifiedNode(step.path, step.node.op_type, step.rule, constant, bound.bound, note)


def _unbounded(model: Model, question: Question, found: Unbounded) -> Certificate:
    stop = Stop(found.path, found.node.op_type, found.reason, found.do)
    return Certificate(model.name, question.names, question.output, None, None, None, stop, notes=(CAVEAT,))
