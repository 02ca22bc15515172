"""Same elements: operators beside Transpose and Reshape that give a tensor's elements as they are.

Those that would cut a part out, repeat or join are no part of a chain, unless they do so with nothing: Slice of the
whole, Concat of one, Expand, Tile and Pad that add no element.
"""

from collections.abc import Sequence

from sn_graph.model import Graph, Model, Node
from sn_graph.sites.layout import Layout


def same_elements(model: Model, graph: Graph, node: Node, layout: Layout) -> Layout | str | None:
    """Return the layout of what a node makes of a tensor of `layout` at input 0.

    Returns:
        The layout; why it can't be told; or None where the node is of another kind, or takes, adds or repeats some.
    """
    shape = layout.shape
    rank = len(shape)
    if node.op_type == "Flatten":
        axis = node.integer("axis", 1)
        return _reshaped(layout, node, _flat(shape, axis) if -rank <= axis <= rank else None)
    if node.op_type == "Concat":
        return layout if len(node.proto.input) == 1 else None
    if node.op_type not in _READS:
        return None
    attribute, index = _READS[node.op_type]
    given = given_integers(model, graph, node, attribute, index)
    if node.op_type == "Squeeze" and given is None and not _has_input(node, 1):
        return _reshaped(layout, node, [size for size in shape if size != 1])
    if given is None:
        return not_stored(node, attribute)
    if node.op_type == "Unsqueeze":
        return _reshaped(layout, node, _with_ones(shape, given))
    if node.op_type == "Squeeze":
        return _reshaped(layout, node, _without_ones(shape, given))
    if node.op_type == "Slice":
        return _whole_slice(model, graph, node, layout, given)
    if node.op_type == "Expand":
        wider = len(given) - rank
        own = (*(1,) * wider, *shape)
        same = all(size in (1, mine) for size, mine in zip(given[::-1], own[::-1], strict=False))
        return _reshaped(layout, node, own) if same else None
    neutral = 1 if node.op_type == "Tile" else 0
    return layout if all(number == neutral for number in given) else None


_READS = {
    "Squeeze": ("axes", 1),
    "Unsqueeze": ("axes", 1),
    "Slice": ("starts", 1),
    "Expand": ("shape", 1),
    "Tile": ("repeats", 1),
    "Pad": ("pads", 1),
}
"""For each operator what decides its result: the attribute that older opsets have, and the input of newer ones."""


def given_integers(model: Model, graph: Graph, node: Node, attribute: str, index: int) -> Sequence[int] | None:
    """Return the integers that a node is given by an attribute or a stored input; None where they are not stored."""
    given = node.integers(attribute)
    if given is not None or not _has_input(node, index):
        return given
    name = node.proto.input[index]
    maker = graph.producer(node.scope, name)
    if maker is not None and maker.is_standard and maker.op_type == "Constant" and maker.integers("value_ints"):
        return maker.integers("value_ints")
    tensor = graph.constant(node.scope, name)
    if tensor is None or model.payload(tensor) is None:
        return None
    array = model.array(tensor)
    return array.reshape(-1).tolist() if array.dtype.kind in "iu" else None


def not_stored(node: Node, what: str) -> str:
    """Return the reason where a node's shape, axes or the like are computed or fed."""
    verb = "is" if what == "shape" else "are"
    return f"the {what} that its {node.op_type} takes {verb} not stored as a constant; simplify the model first"


def _has_input(node: Node, index: int) -> bool:
    return len(node.proto.input) > index and node.proto.input[index] != ""


def _reshaped(layout: Layout, node: Node, shape: Sequence[int] | None) -> Layout | str:
    if shape is None:
        return f"its {node.op_type} does not fit its shape"
    cuts = f"its {node.op_type} cuts across the axes of a Transpose, which no matrix view can follow"
    return layout.reshape(shape) or cuts


def _flat(shape: Sequence[int], axis: int) -> Sequence[int]:
    before = after = 1
    at = axis + len(shape) if axis < 0 else axis
    for place, size in enumerate(shape):
        if place < at:
            before *= size
        else:
            after *= size
    return before, after


def _with_ones(shape: Sequence[int], axes: Sequence[int]) -> Sequence[int] | None:
    rank = len(shape) + len(axes)
    places = {axis % rank for axis in axes if -rank <= axis < rank}
    if len(places) != len(axes):
        return None
    sizes = iter(shape)
    return [1 if place in places else next(sizes) for place in range(rank)]


def _without_ones(shape: Sequence[int], axes: Sequence[int]) -> Sequence[int] | None:
    rank = len(shape)
    if any(not -rank <= axis < rank or shape[axis] != 1 for axis in axes):
        return None
    places = {axis % rank for axis in axes}
    return [size for place, size in enumerate(shape) if place not in places]


def _whole_slice(model: Model, graph: Graph, node: Node, layout: Layout, starts: Sequence[int]) -> Layout | str | None:
    ends = given_integers(model, graph, node, "ends", 2)
    axes = given_integers(model, graph, node, "axes", 3)
    steps = given_integers(model, graph, node, "steps", 4)
    for what, index, given in (("ends", 2, ends), ("axes", 3, axes), ("steps", 4, steps)):
        if given is None and (index == 2 or _has_input(node, index)):
            return not_stored(node, what)
    rank = len(layout.shape)
    bounds = list(zip(starts, ends or (), axes or range(len(starts)), steps or [1] * len(starts), strict=False))
    if any(not -rank <= axis < rank for _, _, axis, _ in bounds):
        return "its Slice does not fit its shape"
    sizes = layout.shape
    whole = all(
        step == 1 and (start == 0 or start <= -sizes[axis]) and end >= sizes[axis] for start, end, axis, step in bounds
    )
    return layout if whole and len(bounds) == len(starts) else None
