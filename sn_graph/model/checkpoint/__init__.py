"""Checkpoints: the weights of safetensors and GGUF files, by name, memory-mapped, one in memory at a time."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.model.checkpoint.bounded import HEADER_LIMIT
    from sn_graph.model.checkpoint.checkpoint import Checkpoint
    from sn_graph.model.checkpoint.heads import Heads
    from sn_graph.model.checkpoint.names import is_checkpoint
    from sn_graph.model.checkpoint.roles import role_of
    from sn_graph.model.checkpoint.safetensors import LENGTH_BYTES
    from sn_graph.model.checkpoint.scaling import stage_scaled
    from sn_graph.model.checkpoint.scratch import scratch
    from sn_graph.model.checkpoint.sharded import shards_of
    from sn_graph.model.checkpoint.stored import StoredTensor

__all__ = [
    "HEADER_LIMIT",
    "LENGTH_BYTES",
    "Checkpoint",
    "Heads",
    "StoredTensor",
    "is_checkpoint",
    "role_of",
    "scratch",
    "shards_of",
    "stage_scaled",
]
