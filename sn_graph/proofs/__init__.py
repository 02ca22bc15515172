"""Proofs: a written model is proved before it takes its place."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.proofs.checkpoint import save_checkpoint
    from sn_graph.proofs.liveness import TOOLS, Tool, verify_state
    from sn_graph.proofs.proof import Proof, Terms, save_proven
    from sn_graph.proofs.proving import prove
    from sn_graph.proofs.saving import save

__all__ = [
    "TOOLS",
    "Proof",
    "Terms",
    "Tool",
    "prove",
    "save",
    "save_checkpoint",
    "save_proven",
    "verify_state",
]
