"""Insertion: the power iteration of each weight, and its state, as nodes of the graph."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.rewrite.insertion.iteration import bytes_read
    from sn_graph.rewrite.insertion.state import StateLayout, StateMode
    from sn_graph.rewrite.insertion.writer import Insertion

__all__ = [
    "Insertion",
    "StateLayout",
    "StateMode",
    "bytes_read",
]
