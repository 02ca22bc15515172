"""The table of rules: for each operator the function that makes its steps."""

from collections.abc import Callable

from sn_graph.certify.rules import (
    activations,
    arithmetic,
    batch_normalization,
    convolutions,
    layout,
    pools,
    products,
)
from sn_graph.certify.steps import Call, Made

Rule = Callable[[Call], Made]

STANDARD: dict[str, Rule] = {
    **activations.RULES,
    **arithmetic.RULES,
    **batch_normalization.RULES,
    **convolutions.RULES,
    **layout.RULES,
    **pools.RULES,
    **products.RULES,
}
"""The rules of ONNX's own operators."""

MICROSOFT: dict[str, Rule] = {
    **activations.FUSED,
    **convolutions.FUSED,
    **products.FUSED,
}
"""The rules of com.microsoft."""


def rule_of(domain: str, op_type: str) -> Rule | None:
    """Return the rule of an operator; None where there is none."""
    return {"": STANDARD, "com.microsoft": MICROSOFT}.get(domain, {}).get(op_type)
