"""One numbering for a graph of tf2onnx, whatever its counter stood at."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

from sn_graph.frontends.keras.canonical import make_canonical


def graph_numbered_from(start: int) -> onnx.GraphProto:
    """Two nodes that read a constant each, named by tf2onnx's counter, the constants among the names."""
    first, second, constant, other = (f"{start + offset}" for offset in range(4))
    nodes = [
        helper.make_node("Mul", ["x", f"const_fold_opt__{constant}"], [f"Mul__{first}:0"], name=f"Mul__{first}"),
        helper.make_node("Add", [f"Mul__{first}:0", f"Const__{other}"], ["y"], name=f"Add__{second}"),
    ]
    values = [
        numpy_helper.from_array(np.array(2.0, np.float32), f"const_fold_opt__{constant}"),
        numpy_helper.from_array(np.array(3.0, np.float32), f"Const__{other}"),
    ]
    x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch"]) for name in "xy")
    return helper.make_graph(nodes, "g", [x], [y], values)


def test_the_counter_leaves_no_trace() -> None:
    graphs = [graph_numbered_from(start) for start in (3, 1310)]
    for graph in graphs:
        make_canonical(graph, (), ())
    assert graphs[0] == graphs[1]
    assert [tensor.name for tensor in graphs[0].initializer] == ["Mul__1/input_1", "Add__2/input_1"]
