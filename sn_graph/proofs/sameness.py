"""Sameness: are two models one, node by node and tensor by tensor, wherever their data are stored?"""

import onnx

from sn_graph.model import Model, Payload, is_external, walk_tensors, without_data


def first_difference(ours: Model, theirs: Model | onnx.ModelProto, stored: Model | None = None) -> str | None:
    """Return what tells two models apart, in words; None where nothing does.

    Args:
        ours: A model.
        theirs: Another, or a ModelProto.
        stored: The same model as `theirs`, where that is a ModelProto without the data of large tensors.
    """
    proto, holder = (theirs.proto, theirs) if isinstance(theirs, Model) else (theirs, stored or ours)
    if without_data(ours.proto) != without_data(proto):
        return "the graph is another"
    for (_, left), (_, right) in zip(walk_tensors(ours.proto), walk_tensors(proto), strict=True):
        if not _same_data(ours.payload(left), left, holder.payload(right), right):
            return f"tensor '{left.name}' is another"
        ours.let_go()
        holder.let_go()
    return None


def _same_data(
    left: Payload | None, left_tensor: onnx.TensorProto, right: Payload | None, right_tensor: onnx.TensorProto
) -> bool:
    if left is None or right is None:  # none, strings, or numbers that are not packed
        return left is right and left_tensor == right_tensor
    if left.field != right.field and not is_external(right_tensor):  # in a data file all are raw bytes
        return False
    place, data = 0, right.data
    for block in left.blocks(right.field):
        if data[place : place + len(block)] != block:
            return False
        place += len(block)
    return place == len(data)
