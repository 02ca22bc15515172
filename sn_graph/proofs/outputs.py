"""Outputs: what two sides give for the same inputs, compared as a whole, or piece by piece where they take steps."""

from dataclasses import replace
from functools import partial

from sn_graph.errors import ModelError, VerificationFailed
from sn_graph.model import ConstantValues, Model
from sn_graph.plan import Plan
from sn_graph.proofs.proof import Proof, Terms
from sn_graph.proofs.rounding import types_passed
from sn_graph.proofs.steps import Feeds, Steps, cut, find_steps
from sn_graph.runtime import ParityResult, Side, compare_sides


def prove_outputs(
    source: Model, plan: Plan | None, left: Side, right: Side, feeds: Feeds, terms: Terms, what: str
) -> Proof:
    """Prove that a written model gives the outputs of another way to make it.

    Args:
        source: The model that both were made from; it runs.
        plan: What was done to its weights.
        left: The other way.
        right: The written model.
        feeds: The inputs.
        terms: What outputs may differ by.
        what: What messages call the written model.

    Returns:
        A proof by running; by structure where the left side does not run, or where the models differ only behind steps
        that can't be taken out. Its note says so.

    Raises:
        VerificationFailed: They differ, or the right side alone does not run.
    """
    passed = types_passed(plan) if plan is not None else ()
    compared = partial(compare_sides, rtol=terms.rtol, atol=terms.atol, passed=passed)
    failure = None
    try:
        parity = compared(left, right, feeds)
    except ModelError as error:
        if _loads(left) and not _runs(left, feeds):
            return Proof("structure", f"with the new weights the original does not run, whoever writes them: {error}")
        parity, failure = ParityResult(()), VerificationFailed(f"{what} does not run", str(error))
    if failure is None and parity.ok:
        return Proof("run", parity.doubt, parity=parity)
    steps = find_steps(source)
    if failure is not None and not steps.reached:
        raise failure
    step = f"rounding alone may move a step of {steps.names}"
    told = step if steps.nodes else "rounding grows on its way through the network"
    try:
        pieces = compared(*cut(left, right, feeds, steps, _joints(source, plan)))
    except (ModelError, KeyError):  # a value of a type that can't be fed, or one that got another name when inlined
        rigid = tuple(one for one in parity.comparisons if not one.ok and not _behind(one.output, steps))
        replace(parity, comparisons=rigid).raise_if_different()
        return Proof("structure", f"outputs differ, or can't be computed, where {step}")
    pieces.raise_if_different()
    if steps.hidden:
        but = "but for what is inside subgraphs and functions"
        return Proof("structure", f"compared piece by piece, {but}: {told}", parity=pieces)
    return Proof("run", f"compared piece by piece, because {told}", parity=pieces)


def _joints(source: Model, plan: Plan | None) -> list[str]:
    """Return what the planned consumers read beside their weights: between them rounding has a short way to grow on."""
    main, constant = source.graph.main, ConstantValues(source.graph)
    nodes = [use.node for target in plan.targets() for use in target.uses] if plan is not None else []
    names = [name for node in nodes if not node.scope.id for name in node.proto.input]
    return [name for name in names if name in main.producers and not constant.holds(main, name)]


def _behind(output: str, steps: Steps) -> bool:
    """Say whether an output, or the sequence or map that it is a part of, lies behind a step."""
    return any(output == name or output.startswith((f"{name}[", f"{name}.")) for name in steps.reached)


def _loads(side: Side) -> bool:
    try:
        side.open()
    except ModelError:
        return False
    return True


def _runs(side: Side, feeds: Feeds) -> bool:
    try:
        list(side.run(feeds))
    except ModelError:
        return False
    return True
