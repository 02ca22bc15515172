"""A model on disk: opened by its skeleton, its tensors memory-mapped, saved by streaming."""

from sn_graph.model.storage import Model, Storage

__all__ = ["Model", "Storage"]
