"""Canonical form: one order and numbering for tf2onnx's graphs, so that an export does not change from run to run.

tf2onnx numbers what it makes (`const_fold_opt__172`) by one counter and walks sets, whose order changes with the hash
seed: of two runs each has other numbers, and may keep the other one of two equal constants.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence

import onnx

from sn_graph.model import subgraphs

Rename = Callable[[str], str]
_COUNTER = re.compile(r"__(\d+)(?=:\d+$|/input_\d+$|$)")  # /input_N: constants, by `_name_constants`


def make_canonical(graph: onnx.GraphProto, first: Sequence[str], kept: Collection[str]) -> Rename:
    """Sort a graph's nodes and initializers and renumber its names, in place; what nothing needs is left out.

    Args:
        graph: The graph.
        first: Values whose nodes come in this order, each behind what it needs and little else.
        kept: Names that stay, besides those of inputs and outputs.

    Returns:
        What became of a name.
    """
    _sort_nodes(graph, first)
    _drop_unread(graph)
    _name_constants(graph, kept)
    fixed = {*kept, *(value.name for value in (*graph.input, *graph.output))}
    numbers: dict[str, int] = {}
    for name in _names(graph):
        for number in _COUNTER.findall(name) if name not in fixed else ():
            numbers.setdefault(number, len(numbers) + 1)

    def renamed(name: str) -> str:
        if name in fixed:
            return name
        return _COUNTER.sub(lambda match: f"__{numbers.get(match[1], match[1])}", name)

    _rename(graph, renamed)
    order = {name: place for place, name in reversed(list(enumerate(_names(graph))))}
    graph.initializer.sort(key=lambda tensor: order[tensor.name])
    _name_dimensions(graph)
    return renamed


def key(node: onnx.NodeProto) -> str:
    """Return what tells a node from the others, in copies of the graph too: its first output."""
    return next(name for name in node.output if name)


def captured(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the names that a node's subgraphs read, whoever defines them."""
    for _, graph in subgraphs(node):
        for inner in graph.node:
            yield from inner.input
            yield from captured(inner)
        yield from (value.name for value in graph.output)


def _sort_nodes(graph: onnx.GraphProto, first: Sequence[str]) -> None:
    makers = {name: node for node in graph.node for name in node.output if name}
    ordered: dict[str, onnx.NodeProto] = {}
    for target in (*first, *(value.name for value in graph.output)):
        waiting = [makers[target]] if target in makers else []
        while waiting:
            node = waiting[-1]
            needed = (makers[name] for name in (*node.input, *captured(node)) if name in makers)
            missing = [maker for maker in needed if key(maker) not in ordered and maker is not node]
            if missing:
                waiting += reversed(missing)
            else:
                ordered[key(waiting.pop())] = node
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in ordered.values()]
    del graph.node[:]
    graph.node.extend(copies)


def _drop_unread(graph: onnx.GraphProto) -> None:
    needed = {value.name for value in graph.output}
    for node in graph.node:
        needed.update(node.input, captured(node))
    for tensor in [tensor for tensor in graph.initializer if tensor.name not in needed]:
        graph.initializer.remove(tensor)
    del graph.value_info[:]


def _name_constants(graph: onnx.GraphProto, kept: Collection[str]) -> None:
    """Name constants by their first reader: of two equal ones, tf2onnx keeps the one or the other."""
    inner = {name for node in graph.node for name in captured(node)}
    own = {tensor.name: tensor for tensor in graph.initializer if tensor.name not in inner and tensor.name not in kept}
    named: dict[str, str] = {value.name: value.name for value in graph.output}
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in own:
                node.input[index] = named.setdefault(name, f"{node.name}/input_{index}")
                own[name].name = node.input[index]


def _names(graph: onnx.GraphProto) -> Iterator[str]:
    """Yield every name of a value or node, in the order of the graph."""
    yield from (value.name for value in graph.input)
    for node in graph.node:
        yield from (*node.input, *node.output, node.name)
        for _, body in subgraphs(node):
            yield from _names(body)
    yield from (value.name for value in graph.output)
    yield from (tensor.name for tensor in graph.initializer)


def _rename(graph: onnx.GraphProto, renamed: Rename) -> None:
    for node in graph.node:
        node.name = renamed(node.name)
        node.input[:] = map(renamed, node.input)
        node.output[:] = map(renamed, node.output)
        for _, body in subgraphs(node):
            _rename(body, renamed)
            del body.value_info[:]
    for value in (*graph.input, *graph.output):
        value.name = renamed(value.name)
    for tensor in graph.initializer:
        tensor.name = renamed(tensor.name)


def _name_dimensions(graph: onnx.GraphProto) -> None:
    """Name dynamic dimensions: an input's first is the batch, as Keras has it; the others by their tensor."""
    inputs = {value.name for value in graph.input}
    for value in (*graph.input, *graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = "batch" if axis == 0 and value.name in inputs else f"{value.name}_{axis}"
