"""Keras: a model with SpectralNormalization layers brought to ONNX, with its plan and its own u."""

from importlib import import_module
from typing import Any

from sn_graph.frontends.exported import sidecars
from sn_graph.frontends.keras.export import DEFAULT_OPSET, KerasExport, export
from sn_graph.frontends.keras.files import is_keras_file, load
from sn_graph.frontends.keras.frameworks import require, said
from sn_graph.frontends.keras.inference import Inference, inference
from sn_graph.frontends.keras.state import load_state, save_state
from sn_graph.frontends.keras.wrappers import Wrapper, read, wrappers

__all__ = [
    "DEFAULT_OPSET",
    "Inference",
    "KerasExport",
    "Wrapper",
    "assert_parity",
    "export",
    "inference",
    "is_keras_file",
    "load",
    "load_state",
    "parity",
    "read",
    "require",
    "said",
    "save_state",
    "sidecars",
    "wrappers",
]


def __getattr__(name: str) -> Any:
    if name not in ("assert_parity", "parity"):  # they stand above this room, in proofs, and are imported when used
        raise AttributeError(f"module 'sn_graph.frontends.keras' has no attribute '{name}'")
    return getattr(import_module("sn_graph.proofs.keras"), name)
