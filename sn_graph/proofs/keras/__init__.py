"""Proofs against Keras: an export, and an inserted model call by call."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.proofs.keras.export import save_export
    from sn_graph.proofs.keras.parity import assert_parity, parity, verify_keras

__all__ = ["assert_parity", "parity", "save_export", "verify_keras"]
