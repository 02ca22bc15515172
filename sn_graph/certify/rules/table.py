"""The table of rules: for each operator the function that makes its steps."""

from collections.abc import Callable

from sn_graph.certify.rules import (
    activations,
    arithmetic,
    batch_normalization,
    choices,
    convolutions,
    einsum,
    layout,
    normalizations,
    pools,
    products,
    reductions,
    refusals,
    resampling,
    softmax,
)
from sn_graph.certify.steps import Call, Made

Rule = Callable[[Call], Made]

STANDARD: dict[str, Rule] = {
    **activations.RULES,
    **arithmetic.RULES,
    **batch_normalization.RULES,
    **choices.RULES,
    **convolutions.RULES,
    **einsum.RULES,
    **layout.RULES,
    **normalizations.RULES,
    **pools.RULES,
    **products.RULES,
    **reductions.RULES,
    **refusals.RULES,
    **resampling.RULES,
    **softmax.RULES,
}
"""The rules of ONNX's own operators."""

MICROSOFT: dict[str, Rule] = {
    **activations.FUSED,
    **convolutions.FUSED,
    **normalizations.FUSED,
    **products.FUSED,
    **refusals.FUSED,
}
"""The rules of com.microsoft."""


def rule_of(domain: str, op_type: str) -> Rule | None:
    """Return the rule of an operator; None where there is none."""
    return {"": STANDARD, "com.microsoft": MICROSOFT}.get(domain, {}).get(op_type)
