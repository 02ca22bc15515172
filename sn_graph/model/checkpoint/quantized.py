"""Quantized tensors of GGUF files: how many bytes they take, and their values by the package gguf.

The values are those of `gguf.quants.dequantize`, bit for bit: it is given some rows at a time, and they are kept in
scratch space.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import EnvironmentUnavailable, ModelError
from sn_graph.model import Buffer
from sn_graph.model.checkpoint.scratch import scratch


@dataclass(frozen=True)
class Quantization:
    """How a type of GGML stores numbers: `elements` of them in a block of `size` bytes."""

    name: str
    elements: int
    size: int


# By GGML's own number: gguf-py/gguf/constants.py.
QUANTIZATIONS = {
    2: Quantization("Q4_0", 32, 18),
    3: Quantization("Q4_1", 32, 20),
    6: Quantization("Q5_0", 32, 22),
    7: Quantization("Q5_1", 32, 24),
    8: Quantization("Q8_0", 32, 34),
    9: Quantization("Q8_1", 32, 40),
    10: Quantization("Q2_K", 256, 84),
    11: Quantization("Q3_K", 256, 110),
    12: Quantization("Q4_K", 256, 144),
    13: Quantization("Q5_K", 256, 176),
    14: Quantization("Q6_K", 256, 210),
    15: Quantization("Q8_K", 256, 292),
    16: Quantization("IQ2_XXS", 256, 66),
    17: Quantization("IQ2_XS", 256, 74),
    18: Quantization("IQ3_XXS", 256, 98),
    19: Quantization("IQ1_S", 256, 50),
    20: Quantization("IQ4_NL", 32, 18),
    21: Quantization("IQ3_S", 256, 110),
    22: Quantization("IQ2_S", 256, 82),
    23: Quantization("IQ4_XS", 256, 136),
    29: Quantization("IQ1_M", 256, 56),
    34: Quantization("TQ1_0", 256, 54),
    35: Quantization("TQ2_0", 256, 66),
    39: Quantization("MXFP4", 32, 17),
    40: Quantization("NVFP4", 64, 36),
    41: Quantization("Q1_0", 128, 18),
}
_STEP = 1 << 20  # values made at a time; the package takes some ten times their bytes meanwhile


def packed_size(quantization: int, shape: tuple[int, ...]) -> int:
    """Return the bytes of a quantized tensor. Raises ModelError where its rows are not whole blocks."""
    kind = QUANTIZATIONS[quantization]
    if not shape or shape[-1] % kind.elements:
        raise ModelError(
            f"a tensor of {kind.name} has rows of {shape[-1] if shape else 0}",
            f"which are not whole blocks of {kind.elements}",
        )
    return math.prod(shape) // kind.elements * kind.size


def dequantize(data: Buffer, quantization: int, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the values of a quantized tensor: float32 of `shape`, read-only.

    Raises:
        EnvironmentUnavailable: The package gguf is not installed, or there is no room for the values.
        ModelError: The package does not know the quantization.
    """
    name = QUANTIZATIONS[quantization].name
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise EnvironmentUnavailable(
            f"values of {name} can't be read", "because the package gguf is missing", "pip install 'sn-graph[gguf]'"
        ) from None
    row_elements = shape[-1]
    rows = math.prod(shape[:-1])
    packed = np.frombuffer(data, np.uint8).reshape(rows, -1)
    values = scratch((rows, row_elements), np.float32)
    step = max(1, _STEP // max(1, row_elements))
    try:
        kind = GGMLQuantizationType(quantization)
        for start in range(0, rows, step):
            values[start : start + step] = quants.dequantize(packed[start : start + step], kind)
    except (NotImplementedError, ValueError, KeyError) as error:
        raise ModelError(
            f"the installed gguf can't read {name}", str(error), "install a newer one, or leave the weight out"
        ) from None
    values.flags.writeable = False
    return values.reshape(shape)
