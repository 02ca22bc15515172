"""Make the names and the order in a tf2onnx graph the same from run to run.

tf2onnx numbers what it makes (`const_fold_opt__172`) by one counter, and walks sets of objects whose order changes with
their addresses: two runs may swap two numbers, or keep the other one of two equal constants (`const_axes__7` or
`const_starts__7`). Here numbers follow the first appearance in the graph, and such constants are `const__7`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import onnx

COUNTER = re.compile(r"__(\d+)(?=:\d+$|$)")
SLICE_CONSTANT = re.compile(r"^const_(axes|ends|starts|steps)__")


def renumber(model: onnx.ModelProto) -> None:
    """Renumber the counters in all names, and put initializers and value infos in the order of first use."""
    graph = model.graph
    numbers: dict[str, int] = {}
    for name in _names(graph):
        for number in COUNTER.findall(name):
            numbers.setdefault(number, len(numbers) + 1)

    def renamed(name: str) -> str:
        return SLICE_CONSTANT.sub("const__", COUNTER.sub(lambda match: f"__{numbers[match[1]]}", name))

    for node in graph.node:
        node.name = renamed(node.name)
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
    values = [*graph.input, *graph.output, *graph.value_info]
    named: list[onnx.ValueInfoProto | onnx.TensorProto] = [*values, *graph.initializer]
    for item in named:
        item.name = renamed(item.name)
    for value in values:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = renamed(dim.dim_param)
    order = {name: place for place, name in reversed(list(enumerate(_names(graph))))}
    graph.initializer.sort(key=lambda tensor: order[tensor.name])
    graph.value_info.sort(key=lambda value: order[value.name])


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every name in the order of the graph: inputs, nodes, outputs, symbolic dimensions."""
    yield from (value.name for value in graph.input)
    for node in graph.node:
        yield from (*node.input, *node.output, node.name)
    for value in (*graph.input, *graph.output):
        yield value.name
        yield from (dim.dim_param for dim in value.type.tensor_type.shape.dim)
