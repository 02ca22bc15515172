"""Shapes of a model's values, as far as ONNX's shape inference knows them."""

import onnx
from onnx import shape_inference

from sn_graph.model.graph import Graph, Scope
from sn_graph.model.storage import Model

Dims = tuple[int | None, ...]


class Shapes:
    """The shapes of the values in every scope of a model.

    >>> from onnx.parser import parse_model
    >>> text = '<ir_version: 8, opset_import: ["": 17]> g (float[n, 2] x) => (float[n, 2] y) {h = Abs(x)  y = Abs(h)}'
    >>> model = Model.open(parse_model(text))
    >>> Shapes(model).of(Graph(model.proto).main, "h")
    (None, 2)
    """

    def __init__(self, model: Model) -> None:
        try:
            inferred = shape_inference.infer_shapes(model.proto, data_prop=True)
        except (shape_inference.InferenceError, ValueError, RuntimeError):  # then what the model itself declares
            inferred = model.proto
        self._known = {scope.id: _declared(scope) for scope in Graph(inferred).scopes}

    def of(self, scope: Scope, name: str) -> Dims | None:
        """Return the shape of a value that `scope` reads, None for each unknown dimension; None where it is unknown."""
        at: Scope | None = scope
        while at is not None:
            if name in self._known[at.id]:
                return self._known[at.id][name]
            if at.defines(name):
                return None
            at = at.parent
        return None


def _declared(scope: Scope) -> dict[str, Dims]:
    if isinstance(scope.proto, onnx.FunctionProto):
        return {}
    found = {name: tuple(tensor.dims) for name, tensor in scope.initializers.items()}
    known: dict[str, Dims] = dict(found)
    for value in (*scope.proto.input, *scope.proto.value_info, *scope.proto.output):
        if value.type.tensor_type.HasField("shape"):
            dims = value.type.tensor_type.shape.dim
            known[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None for dim in dims)
    return known
