"""Whole plans: a file that holds spectral norm as arithmetic is not normalized in its other layers by accident.

Of 117 spectrally normalized weights in 14 exports the exporter had folded 55 and left 62 as chains; to fold "the rest"
normalizes just the layers that must not be. Real-ESRGAN's discriminator came out 28 % off.
"""

from sn_graph.errors import ModelError
from sn_graph.model import Model
from sn_graph.plan.options import PlanOptions
from sn_graph.plan.plan import Plan


def require_whole(plan: Plan, model: Model, options: PlanOptions, *, force: bool = False) -> Plan:
    """Return the plan. Raises ModelError where it leaves out weights that the graph normalizes, and nobody said so.

    Args:
        plan, model: The plan, and the model that it was made of.
        options: What it was made from: a plan, names or op types say which weights are meant.
        force: Whether to go on regardless.
    """
    held = [site for site in plan.sites if site.explanation is not None and site.explanation.form.is_spectral_norm]
    said = force or any(options.get(key) for key in ("plan", "include", "op_types"))
    if not held or said or not plan.eligible():
        return plan
    original = held[0].explanation.original if held[0].explanation is not None else None
    first = held[0].site.weight if original is None else original.name
    count = f"{len(held)} weights" if len(held) > 1 else "a weight"
    raise ModelError(
        f"{model.name} holds {count} normalized in the graph ('{first}'{' first' if len(held) > 1 else ''})",
        "and only its other weights would be normalized",
        "run sn-graph lift first; or name the weights that are meant with --include, or give --force",
    )
