"""Rewriting: edits of a graph that passes are made of."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.rewrite.bake import bake, insertion_plan
    from sn_graph.rewrite.edits import Edits
    from sn_graph.rewrite.emit import Emitter
    from sn_graph.rewrite.hoist import Hoist, inline
    from sn_graph.rewrite.original import pack_original, restore
    from sn_graph.rewrite.rewire import Copy, Rewiring
    from sn_graph.rewrite.scale import Rescaled, Scaling
    from sn_graph.rewrite.settle import Settled, Settling

__all__ = [
    "Copy",
    "Edits",
    "Emitter",
    "Hoist",
    "Rescaled",
    "Rewiring",
    "Scaling",
    "Settled",
    "Settling",
    "bake",
    "inline",
    "insertion_plan",
    "pack_original",
    "restore",
]
