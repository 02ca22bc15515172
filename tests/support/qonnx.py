"""QONNX's quantizers for onnx's reference evaluator, written from their published tables and not from our readers.

https://github.com/fastmachinelearning/qonnx/blob/main/docs/qonnx-custom-ops/intquant_v1.md and bipolarquant_v1.md.
"""

from __future__ import annotations

import decimal
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from tests.support.builders import Array

DOMAIN = "qonnx.custom_op.general"
_MODES = {
    "ROUND": decimal.ROUND_HALF_EVEN,
    "HALF_EVEN": decimal.ROUND_HALF_EVEN,
    "CEIL": decimal.ROUND_CEILING,
    "FLOOR": decimal.ROUND_FLOOR,
    "UP": decimal.ROUND_UP,
    "DOWN": decimal.ROUND_DOWN,
    "HALF_UP": decimal.ROUND_HALF_UP,
    "HALF_DOWN": decimal.ROUND_HALF_DOWN,
}
MODES = tuple(_MODES)


def rounded(steps: Array, mode: str) -> Array:
    """Round by the decimal module, whose modes are those of the table, one element at a time."""
    whole = [int(decimal.Decimal(float(step)).to_integral_value(_MODES[mode.upper()])) for step in steps.flat]
    return np.array(whole, steps.dtype).reshape(steps.shape)


def quant(x: Array, scale: Array, zero: Array, bits: float, *, signed: int, narrow: int, mode: str) -> Array:
    """Quantize and dequantize: by sign where there is one bit for it, as QONNX's implementation does."""
    steps = x / scale + zero
    if signed and bits == 1:
        whole = np.where(steps >= 0, 1, -1).astype(steps.dtype)
    else:
        least, most = (
            (-(2 ** (bits - 1)) + bool(narrow), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1 - bool(narrow))
        )
        whole = rounded(np.minimum(np.maximum(steps, least), most).astype(steps.dtype), mode)
    found: Array = (whole - zero) * scale
    return found


class Quant(OpRun):
    """Quant, as it was named first."""

    op_domain = DOMAIN

    def _run(self, x: Array, scale: Array, zero: Array, bits: Array, **given: Any) -> tuple[Array]:
        mode = given.get("rounding_mode") or "ROUND"
        signed, narrow = (given.get(name, default) for name, default in (("signed", 1), ("narrow", 0)))
        return (quant(x, scale, zero, float(bits), signed=signed, narrow=narrow, mode=mode).astype(x.dtype),)


class IntQuant(Quant):
    """Quant, as it is named now."""

    op_domain = DOMAIN


class BipolarQuant(OpRun):
    """The sign, times the scale."""

    op_domain = DOMAIN

    def _run(self, x: Array, scale: Array) -> tuple[Array]:
        return ((np.where(x >= 0, 1, -1) * scale).astype(x.dtype),)


def evaluate(proto: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Run a model that may hold QONNX's quantizers."""
    return list(ReferenceEvaluator(proto, new_ops=[Quant, IntQuant, BipolarQuant]).run(None, feeds))
