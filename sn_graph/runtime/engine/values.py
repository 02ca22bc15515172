"""Values: arrays to and from onnxruntime, in the element types that numpy lacks too."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from sn_graph.errors import EnvironmentUnavailable, ModelError

if TYPE_CHECKING:
    from onnxruntime import OrtValue

# Element types that live in the package ml_dtypes; numpy and onnxruntime's own bridge know none of them.
EXTENDED: dict[int, str] = {
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.FLOAT8E4M3FN: "float8_e4m3fn",
    TensorProto.FLOAT8E4M3FNUZ: "float8_e4m3fnuz",
    TensorProto.FLOAT8E5M2: "float8_e5m2",
    TensorProto.FLOAT8E5M2FNUZ: "float8_e5m2fnuz",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "uint4",
}
_PACKED = {"int4", "uint4"}  # two in a byte
_PLAIN: dict[int, str] = {
    TensorProto.FLOAT: "float32",
    TensorProto.DOUBLE: "float64",
    TensorProto.STRING: "object",
    TensorProto.FLOAT16: "float16",
    TensorProto.BOOL: "bool",
    TensorProto.INT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.INT32: "int32",
    TensorProto.INT64: "int64",
    TensorProto.UINT8: "uint8",
    TensorProto.UINT16: "uint16",
    TensorProto.UINT32: "uint32",
    TensorProto.UINT64: "uint64",
    TensorProto.COMPLEX64: "complex64",
    TensorProto.COMPLEX128: "complex128",
}


def element_dtype(element_type: int) -> np.dtype[Any]:
    """Return the numpy dtype of an ONNX element type; that of strings is `object`.

    Raises:
        ModelError: The type is undefined, or newer than sn-graph.
        EnvironmentUnavailable: The type needs ml_dtypes, which is not installed.
    """
    if element_type in _PLAIN:
        return np.dtype(_PLAIN[element_type])
    if element_type not in EXTENDED:
        raise ModelError(f"element type {element_type} is not supported", do="give the model a type that numpy has")
    try:
        import ml_dtypes
    except ImportError as error:
        name = EXTENDED[element_type]
        raise EnvironmentUnavailable(f"{name} needs the package ml_dtypes", do="pip install ml_dtypes") from error
    dtype: np.dtype[Any] = np.dtype(getattr(ml_dtypes, EXTENDED[element_type]))
    return dtype


def to_ort_value(array: NDArray[Any]) -> OrtValue:
    """Return an OrtValue of an array, on the CPU; it may share the array's memory.

    Raises:
        ModelError: The element type is packed.
    """
    from onnxruntime import OrtValue

    array = np.ascontiguousarray(array) if array.ndim else array
    for element_type, name in EXTENDED.items():
        if array.dtype.name == name:
            if name in _PACKED:
                raise ModelError(f"inputs of type {name} can't be fed through onnxruntime's Python API", do="use int8")
            raw = array.view(np.uint16 if array.dtype.itemsize == 2 else np.uint8)
            return OrtValue.ortvalue_from_numpy_with_onnx_type(raw, element_type)
    return OrtValue.ortvalue_from_numpy(array)


def is_extended(type_name: str) -> bool:
    """Say whether a type, such as "tensor(bfloat16)" in onnxruntime's words, has elements that numpy lacks."""
    element = type_name.rpartition("(")[2].rstrip(")")
    return element in {name.replace("_", "") for name in EXTENDED.values()}


def from_ort_value(value: OrtValue) -> NDArray[Any]:
    """Return a copy of a tensor that onnxruntime holds on the CPU.

    Raises:
        ModelError: It is not a dense tensor, or packs two elements in a byte.
    """
    if not value.is_tensor():
        raise ModelError(
            f"an output of type {value.data_type()} can't be read in a model of this kind",
            do="make it a tensor",
        )
    if value.element_type() not in EXTENDED:
        array: NDArray[Any] = value.numpy().copy()  # numpy() may be a view that the next run overwrites
        return array
    dtype, shape = element_dtype(value.element_type()), tuple(value.shape())
    size = value.tensor_size_in_bytes()
    if dtype.name in _PACKED:
        raise ModelError(f"an output of packed type {dtype.name} can't be read", do="cast it to int8 in the graph")
    data = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(data, dtype=dtype).reshape(shape)


def flatten(name: str, value: object, type_name: str = "") -> Iterator[tuple[str, NDArray[Any]]]:
    """Yield pairs of a name and an array from what a session returned for the output `name`.

    A sequence `y` gives `y[0]`, `y[1]`, …; a map gives `y.keys` (sorted) and `y.values`; an optional without a value
    gives nothing.

    Args:
        name: The output's name.
        value: What the session returned.
        type_name: The output's type in onnxruntime's words, such as "seq(map(int64,tensor(float)))": what a map holds
            comes as Python's floats, whatever it is.

    Raises:
        ModelError: There is something else in it, such as a sparse tensor.
    """
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from flatten(f"{name}[{index}]", item, type_name)
    elif isinstance(value, dict):
        keys = sorted(value)
        yield f"{name}.keys", np.array(keys)
        values = np.array([value[key] for key in keys])
        single = values.dtype == np.float64 and "tensor(double)" not in type_name
        yield f"{name}.values", values.astype(np.float32) if single else values
    elif isinstance(value, np.ndarray | np.generic):
        yield name, np.asarray(value)
    elif value is not None:
        raise ModelError(
            f"output {name!r} is a {type(value).__name__}, not a dense tensor", do="compare another output"
        )
