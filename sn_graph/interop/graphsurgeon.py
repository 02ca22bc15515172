"""onnx-graphsurgeon graphs: spectral normalization inside a graphsurgeon pipeline, a gs.Graph in, a gs.Graph out.

A graph goes through ONNX on the way, so what graphsurgeon itself can't export is lost as it is at any export.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sn_graph import api
from sn_graph.errors import EnvironmentUnavailable, UsageError
from sn_graph.report import Report

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
        UsageError: `graph` is no gs.Graph, or an option is not valid.
        ModelError: A weight holds NaN or infinite values.
        EnvironmentUnavailable: onnx-graphsurgeon is not installed.

    >>> import onnx, onnx_graphsurgeon as gs
    >>> graph = gs.import_onnx(onnx.load("models/keras_dcgan_discriminator.onnx"))
    >>> folded = fold(graph, report=lambda report: print(len(report.sites), "weights"))
    4 weights
    """
    try:
        import onnx_graphsurgeon
    except ImportError:
        raise EnvironmentUnavailable(
            "onnx-graphsurgeon is not installed; pip install 'sn-graph[graphsurgeon]'"
        ) from None
    if not isinstance(graph, onnx_graphsurgeon.Graph):
        raise UsageError(
            f"a {type(graph).__name__} is no onnx_graphsurgeon.Graph; give a path or ModelProto to sn_graph.fold"
        )
    result = api.fold(onnx_graphsurgeon.export_onnx(graph), **options)
    if report is not None:
        report(result.report)
    return onnx_graphsurgeon.import_onnx(result.to_proto())
