"""Passes: what can be done to a model by a plan."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.passes.base import Pass, PassResult, load_pass, make_pass
    from sn_graph.passes.checkpoint import CheckpointOptions, CheckpointResult, fold_checkpoint
    from sn_graph.passes.fold import Fold, FoldOptions
    from sn_graph.passes.insert import Insert, InsertOptions, InsertResult, Scale
    from sn_graph.passes.lift import Lift, LiftedSigma, LiftedTo, LiftOptions, LiftResult
    from sn_graph.passes.strip import Strip

__all__ = [
    "CheckpointOptions",
    "CheckpointResult",
    "Fold",
    "FoldOptions",
    "Insert",
    "InsertOptions",
    "InsertResult",
    "Lift",
    "LiftOptions",
    "LiftResult",
    "LiftedSigma",
    "LiftedTo",
    "Pass",
    "PassResult",
    "Scale",
    "Strip",
    "fold_checkpoint",
    "load_pass",
    "make_pass",
]
