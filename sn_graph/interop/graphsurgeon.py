"""onnx-graphsurgeon graphs: spectral normalization inside a graphsurgeon pipeline, a gs.Graph in, a gs.Graph out.

A graph goes through ONNX on the way, so what graphsurgeon itself can't export is lost as it is at any export.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import onnx

from sn_graph import api
from sn_graph.errors import EnvironmentUnavailable, UsageError
from sn_graph.report import Report
from sn_graph.state import KEY

if TYPE_CHECKING:
    import onnx_graphsurgeon


def fold(
    graph: onnx_graphsurgeon.Graph, *, report: Callable[[Report], None] | None = None, **options: Any
) -> onnx_graphsurgeon.Graph:
    """Return a graph with each weight W replaced by bound · W / σ(W); the one given is not changed.

    Args:
        graph: Any onnx_graphsurgeon.Graph that exports.
        report: Called with what was done to each weight.
        **options: Those of `sn_graph.fold`.

    Raises:
        UsageError: `graph` is not a gs.Graph, or an option is not valid.
        ModelError: A weight holds NaN or infinite values.
        EnvironmentUnavailable: onnx-graphsurgeon is not installed.

    >>> import onnx, onnx_graphsurgeon as gs
    >>> graph = gs.import_onnx(onnx.load("models/keras_dcgan_discriminator.onnx"))
    >>> folded = fold(graph, report=lambda report: print(len(report.sites), "weights"))
    4 weights
    """
    surgeon = _surgeon(graph)
    result = api.fold(surgeon.export_onnx(graph), **options)
    if report is not None:
        report(result.report)
    return surgeon.import_onnx(result.to_proto())


def insert(
    graph: onnx_graphsurgeon.Graph, *, report: Callable[[Report], None] | None = None, **options: Any
) -> onnx_graphsurgeon.Graph:
    """Return a graph with the power iteration of its weights in it; the one given is not changed.

    The state input has no default (`state_mode="required"`): graphsurgeon would take one for a constant. graphsurgeon
    drops a model's metadata too, so export the result with `export_onnx` of this module, which puts them back.

    Args:
        graph: Any onnx_graphsurgeon.Graph that exports.
        report: Called with what was done to each weight.
        **options: Those of `sn_graph.insert`, but for `state_mode`.

    Raises:
        UsageError: `graph` is not a gs.Graph, or an option is not valid.
        ModelError: A weight holds NaN or infinite values, or the opset is below 7.
        EnvironmentUnavailable: onnx-graphsurgeon is not installed.
    """
    if options.get("state_mode", "required") != "required":
        raise UsageError(
            "onnx-graphsurgeon takes a state input with a default for a constant", do="leave state_mode out"
        )
    surgeon = _surgeon(graph)
    result = api.insert(surgeon.export_onnx(graph), **{**options, "state_mode": "required"})
    if report is not None:
        report(result.report)
    proto = result.to_proto()
    inserted = surgeon.import_onnx(proto)
    inserted.sn_graph_metadata = {entry.key: entry.value for entry in proto.metadata_props if entry.key == KEY}
    return inserted


def export_onnx(graph: onnx_graphsurgeon.Graph, **options: Any) -> onnx.ModelProto:
    """Export a graph that `insert` returned, with the metadata that StatefulSession and verify read.

    Args:
        graph: The graph, as it is now; the names of its state inputs and outputs must be as they were.
        **options: Those of `onnx_graphsurgeon.export_onnx`.
    """
    proto: onnx.ModelProto = _surgeon(graph).export_onnx(graph, **options)
    metadata = getattr(graph, "sn_graph_metadata", None)
    if metadata is None:
        raise UsageError("this graph did not come from sn_graph.interop.graphsurgeon.insert, or is a copy of it")
    for key, value in metadata.items():  # none where no weight was eligible
        proto.metadata_props.add(key=key, value=value)
    return proto


def _surgeon(graph: object) -> ModuleType:
    try:
        import onnx_graphsurgeon
    except ImportError:
        raise EnvironmentUnavailable(
            "onnx-graphsurgeon is not installed", do="pip install 'sn-graph[graphsurgeon]'"
        ) from None
    if not isinstance(graph, onnx_graphsurgeon.Graph):
        raise UsageError(
            f"a {type(graph).__name__} is not an onnx_graphsurgeon.Graph",
            do="give a path or ModelProto to sn_graph itself",
        )
    module: ModuleType = onnx_graphsurgeon
    return module
