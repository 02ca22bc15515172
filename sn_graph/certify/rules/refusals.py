"""Refusals: operators that have no Lipschitz constant, or for which none is known, with the reason."""

from collections.abc import Callable

from sn_graph.certify.steps import Call, Made, NoBound

JUMPS = "is a step function of its input, whose value jumps"
TWO = "multiplies two values that depend on the input"
ATTENTION = "use L2 attention (Kim et al., 2021, 2006.04710) on a bounded domain, or certify the part before it"
FLOAT = "certify the model from before it was quantized, with its weights alone quantized if they must be"

_REASONS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            *("ArgMax", "ArgMin", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "IsNaN", "IsInf"),
            *("NonZero", "OneHot", "Not", "And", "Or", "Xor", "Mod", "BitShift"),
        ),
        (JUMPS, "leave it out, or certify the part of the network before it"),
    ),
    **dict.fromkeys(
        (
            *("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger"),
            *("MatMulInteger", "DequantizeLinear"),
        ),
        ("rounds activations to steps, so that its value jumps", FLOAT),
    ),
    **dict.fromkeys(("Attention", "RotaryEmbedding"), (TWO, ATTENTION)),
    **dict.fromkeys(
        ("LSTM", "GRU"),
        (f"{TWO}: its gates and its state", "certify a network without gates, or the part before it"),
    ),
    "RNN": ("adds up over steps of time, for which no rule is known", "unroll it, and certify the result"),
    **dict.fromkeys(
        ("Loop", "Scan"), ("repeats a body, for which no rule is known", "unroll it, and certify the result")
    ),
    "GridSample": ("reads at places that depend on an input, or by weights for which no rule is known", ""),
    "Det": ("is a product of elements", ""),
}
_MICROSOFT: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("Attention", "MultiHeadAttention", "GroupQueryAttention", "PackedAttention", "QAttention"), (TWO, ATTENTION)
    ),
    **dict.fromkeys(
        (
            *("QuantizeLinear", "DynamicQuantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QGemm"),
            *("QLinearAdd", "QLinearMul", "QLinearConv", "QLinearGlobalAveragePool", "DequantizeLinear"),
        ),
        ("rounds activations to steps, so that its value jumps", FLOAT),
    ),
}


def _refusal(why: str, do: str) -> Callable[[Call], Made]:
    def rule(call: Call) -> Made:
        raise NoBound(f"{call.node.op_type} {why}", do)

    return rule


RULES = {name: _refusal(*parts) for name, parts in _REASONS.items()}
FUSED = {name: _refusal(*parts) for name, parts in _MICROSOFT.items()}
