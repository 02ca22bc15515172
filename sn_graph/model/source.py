"""Graphs of onnx-graphsurgeon, which every function of the API takes for a model."""

import sys

import onnx


def proto_of_graph(source: object) -> onnx.ModelProto | None:
    """Return the model of an onnx_graphsurgeon.Graph, with the metadata that `interop` keeps beside it; else None."""
    surgeon = sys.modules.get("onnx_graphsurgeon")  # or nobody could have made one
    if surgeon is None or not isinstance(source, surgeon.Graph):
        return None
    proto: onnx.ModelProto = surgeon.export_onnx(source)
    for key, value in getattr(source, "sn_graph_metadata", {}).items():
        proto.metadata_props.add(key=key, value=value)
    return proto
