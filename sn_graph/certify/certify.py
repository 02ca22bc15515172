"""Certifying: a network's constant by every level that fits the time, and a search for how much of it is attained."""

import time
from collections.abc import Mapping, Sequence
from enum import StrEnum

from sn_graph.certify.build import network_of
from sn_graph.certify.certificate import CAVEAT, Certificate, Stop
from sn_graph.certify.network import Network
from sn_graph.certify.product import Bound, product_bounds
from sn_graph.certify.steps import NoBound, Unbounded
from sn_graph.certify.witness import Witness, witnesses
from sn_graph.model import Model
from sn_graph.progress import Progress, silent
from sn_graph.report import CertifiedNode

# The part of the time that the search for the attained end gets; the least where level 1 took all of it.
SEARCH, LEAST = 0.2, 0.05


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
        inputs, output, dims: See `network_of`.
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
    network = network_of(model, inputs=inputs, output=output, dims=dims)
    if isinstance(network, Unbounded):
        named = ", ".join(inputs) or _only(model)
        end = output or model.proto.graph.output[0].name
        return _unbounded(model, named, end, network), None, []
    names, end = ", ".join(network.names), output or model.proto.graph.output[0].name
    try:
        bounds = product_bounds(network)
    except NoBound as error:
        step = network.steps[-1]
        return _unbounded(model, names, end, Unbounded(step.node, step.path, error.reason, error.do)), None, []
    proven = next((one.bound for one in bounds if one.step.result == network.output), 0.0)
    if network.output in network.names:
        proven = 1.0
    levels = {"product": proven if network.constant is None else 0.0}
    del level
    found = witnesses(network, max(LEAST * budget, SEARCH * (budget - (time.monotonic() - begun))), progress)
    best = min(levels, key=lambda name: levels[name])
    certificate = Certificate(
        model=model.name,
        input=names,
        output=end,
        attained=found[0].quotient if found else 0.0,
        proven=levels[best],
        level=best,
        nodes=tuple(map(_row, bounds)),
        levels=levels,
        witness=found[0] if found else None,
        sizes=network.sizes,
        open=network.open,
        notes=(CAVEAT,),
    )
    return certificate, network, found


def _only(model: Model) -> str:
    held = {tensor.name for tensor in model.proto.graph.initializer}
    return ", ".join(info.name for info in model.proto.graph.input if info.name not in held)


def _row(bound: Bound) -> CertifiedNode:
    step = bound.step
    return CertifiedNode(
        step.path, step.node.op_type, step.rule, max(bound.factors, default=0.0), bound.bound, step.note
    )


def _unbounded(model: Model, names: str, output: str, found: Unbounded) -> Certificate:
    stop = Stop(found.path, found.node.op_type, found.reason, found.do)
    return Certificate(model.name, names, output, None, None, None, stop, notes=(CAVEAT,))
