"""Stored tensors: one tensor of a checkpoint, where its bytes are, and how they become values."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.errors import ModelError
from sn_graph.model import FLOAT_TYPES, Payload, element_type
from sn_graph.model.checkpoint.quantized import dequantize
from sn_graph.model.checkpoint.scratch import scratch

# Elements from which float16, and any narrower type, is converted once into a scratch array: σ reads a matrix some 40
# times, and each conversion costs as much as two and a half readings.
_WIDEN = 1 << 24
_STEP = 1 << 20  # elements converted at a time


@dataclass(frozen=True, eq=False)
class StoredTensor:
    """One tensor of a checkpoint.

    Attributes:
        name: Its name; it is unique in the checkpoint.
        dtype: The type that is stored: numpy's name ("float32", "bfloat16"), or that of a quantization ("Q4_K").
        shape: As stored, the slowest dimension first.
        payload: The bytes.
        quantization: The number that GGML gives the quantization; None where the elements stand there one by one.
        refusal: Why it has no values that a norm can be taken of; None where it has.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    payload: Payload
    quantization: int | None = None
    refusal: str | None = None

    @property
    def elements(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, columns) of its matrix: as stored, or (O, everything else) of a higher rank."""
        rows = self.shape[0]
        return rows, math.prod(self.shape[1:])

    def matrix(self) -> NDArray[Any]:
        """Return its matrix [rows, columns], read-only: float16, bfloat16, float32 or float64.

        A view of the file where the elements stand there in one of these types; large float16 ones, smaller types and
        quantized values are converted to float32, exactly, in scratch space.

        Raises:
            ModelError: The bytes are not what the type says.
            EnvironmentUnavailable: The package gguf, which knows quantizations, is not installed, or no space is left.
        """
        return self.values().reshape(self.matrix_shape)

    def values(self) -> NDArray[Any]:
        """Return its values in its own shape; see `matrix`."""
        if self.refusal is not None:
            raise ModelError(f"tensor '{self.name}' has no values", self.refusal)
        if self.quantization is not None:
            return dequantize(self.payload.data, self.quantization, self.shape)
        stored = self.payload.elements(self.shape)
        narrow = self.payload.data_type not in FLOAT_TYPES
        if narrow or (stored.dtype == np.float16 and stored.size > _WIDEN):
            return _widened(stored)
        return stored

    @property
    def is_stored_as_read(self) -> bool:
        """Whether the bytes are the values, in a type that can be scaled where it stands."""
        return self.quantization is None and self.refusal is None and self.payload.data_type in FLOAT_TYPES


def _widened(stored: NDArray[Any]) -> NDArray[Any]:
    flat, wide = stored.reshape(-1), scratch((stored.size,), np.float32)
    for start in range(0, flat.size, _STEP):
        wide[start : start + _STEP] = flat[start : start + _STEP].astype(np.float32)
    wide.flags.writeable = False
    return wide.reshape(stored.shape)


def onnx_type(dtype: str) -> int:
    """Return the ONNX element type of a numpy name. Raises KeyError where there is none."""
    return _ONNX[dtype]


_ONNX = {
    "float64": onnx.TensorProto.DOUBLE,
    "float32": onnx.TensorProto.FLOAT,
    "float16": onnx.TensorProto.FLOAT16,
    "bfloat16": onnx.TensorProto.BFLOAT16,
    "float8_e4m3fn": onnx.TensorProto.FLOAT8E4M3FN,
    "float8_e5m2": onnx.TensorProto.FLOAT8E5M2,
    "int64": onnx.TensorProto.INT64,
    "int32": onnx.TensorProto.INT32,
    "int16": onnx.TensorProto.INT16,
    "int8": onnx.TensorProto.INT8,
    "uint64": onnx.TensorProto.UINT64,
    "uint32": onnx.TensorProto.UINT32,
    "uint16": onnx.TensorProto.UINT16,
    "uint8": onnx.TensorProto.UINT8,
    "bool": onnx.TensorProto.BOOL,
}


def item_size(dtype: str) -> int:
    """Return the bytes of an element of a numpy name."""
    return element_type(onnx_type(dtype)).itemsize
