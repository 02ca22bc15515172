"""PyTorch: a module with spectral normalization brought to ONNX, with its plan and its own state; and the way back."""

from importlib import import_module
from typing import Any

from sn_graph.frontends.torch.copying import copied
from sn_graph.frontends.torch.exporting import TorchExport, export_module
from sn_graph.frontends.torch.finding import normalized_layers
from sn_graph.frontends.torch.framework import require_torch
from sn_graph.frontends.torch.layers import Normalized
from sn_graph.frontends.torch.state import load_state, save_state

__all__ = [
    "Normalized",
    "TorchExport",
    "assert_parity",
    "copied",
    "export",
    "export_module",
    "load_state",
    "normalized_layers",
    "parity",
    "require_torch",
    "save_state",
]


def __getattr__(name: str) -> Any:
    if name not in ("assert_parity", "export", "parity"):  # they stand above this room, in proofs
        raise AttributeError(f"module 'sn_graph.frontends.torch' has no attribute '{name}'")
    return getattr(import_module("sn_graph.proofs.torch"), name)
