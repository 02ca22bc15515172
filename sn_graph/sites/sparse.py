"""Sparse weights: values and their places, all other elements 0. Multiplying the values multiplies the weight.

https://onnx.ai/onnx/api/classes.html#sparsetensorproto: the places are indices into the flat tensor [n], or along each
axis [n, rank], ascending and each once.
"""

import math
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from sn_graph.model import FLOAT_TYPES, Model

_SPARSEST = 64  # elements for each that is stored, so that a small file does not fill memory
_SMALL = 1 << 22  # elements that any file may ask for


@dataclass(frozen=True, eq=False)
class Sparse:
    """Where the values of a sparse tensor stand.

    Attributes:
        indices: The TensorProto of the places.
        shape: The shape of the whole.
    """

    indices: onnx.TensorProto
    shape: tuple[int, ...]

    def dense(self, model: Model, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Return the whole tensor, with these values [n] at their places; read-only."""
        whole = np.zeros(math.prod(self.shape), values.dtype)
        whole[self._places(model)] = values
        whole.flags.writeable = False
        return whole.reshape(self.shape)

    def _places(self, model: Model) -> NDArray[np.int64]:
        indices = model.array(self.indices).astype(np.int64, copy=False)
        if indices.ndim == 1:
            return indices
        strides = np.cumprod((1, *self.shape[:0:-1]), dtype=np.int64)[::-1]
        return np.asarray(indices @ strides)

    def refusal(self, model: Model, values: onnx.TensorProto) -> str | None:
        """Return why a weight with these values can't be normalized, or None."""
        if values.data_type not in FLOAT_TYPES:
            return "stored as a sparse tensor of integers; store it dense, with a DequantizeLinear behind it"
        return self.misfit(model, values)

    def misfit(self, model: Model, values: onnx.TensorProto) -> str | None:
        """Return why a tensor with these values can't be made dense, or None."""
        if not self.shape or min(self.shape) < 1:
            return "empty: its shape has a zero"
        count, size = math.prod(values.dims), math.prod(self.shape)
        if any(model.payload(part) is None for part in (values, self.indices)):
            return "no data stored; export the model with its weights"
        if size > max(_SMALL, _SPARSEST * count):
            return f"a sparse tensor of {size:,} elements of which {count:,} are stored; store it dense to normalize it"
        flat = len(values.dims) == 1 and tuple(self.indices.dims) in ((count,), (count, len(self.shape)))
        if not flat or not self._fit(model, count):
            return "stored as a sparse tensor whose places do not fit its shape; store it dense, or export it again"
        return None

    def _fit(self, model: Model, count: int) -> bool:
        indices = model.array(self.indices)
        if indices.dtype != np.int64:
            return False
        most = np.array(self.shape if indices.ndim == 2 else math.prod(self.shape))
        if count and (indices.min() < 0 or not (indices < most).all()):
            return False
        return bool((np.diff(self._places(model)) > 0).all())
