"""Transfer: a site as it stands in a copy of its model, found by its place instead of by another search."""

from dataclasses import replace

import onnx

from sn_graph.model import Graph, Node, Scope, constant_tensor
from sn_graph.sites.quantized import Quantization
from sn_graph.sites.site import Site, WeightUse
from sn_graph.sites.sparse import Sparse


class Transfer:
    """Carries sites into the index of a copy, whose scopes and nodes stand where the original's do."""

    def __init__(self, copy: Graph) -> None:
        self._graph = copy
        self._nodes = {node.order: node for scope in copy.scopes for node in scope.nodes}
        self._found: dict[Scope, Scope] = {}
        self._functions = {scope.id: scope for scope in copy.functions.values()}

    def site(self, site: Site) -> Site:
        """Return the site of the copy. Raises KeyError where the graph is not a copy of the one that holds it."""
        scope = self._scope(site.scope)
        tensor, sparse = site.tensor, site.sparse
        if tensor is not None:
            found, sparse = self._stored(scope, site)
            if found is None or (found.dims, found.data_type) != (tensor.dims, tensor.data_type):
                raise KeyError(site.id)
            tensor = found
        uses = tuple(map(self._use, site.uses))
        others = tuple(
            replace(use, scope=self._scope(use.scope), node=None if use.node is None else self._node(use.node))
            for use in site.other_uses
        )
        return replace(site, scope=scope, tensor=tensor, uses=uses, other_uses=others, sparse=sparse)

    def _stored(self, scope: Scope, site: Site) -> tuple[onnx.TensorProto | None, Sparse | None]:
        """Return the tensor of a site, and where its elements stand if it is sparse."""
        held = scope.producers.get(site.weight) if site.from_node else None
        if site.sparse is None:
            return (scope.initializers[site.weight] if held is None else constant_tensor(held)), None
        if held is None:
            found = scope.sparse_initializers[site.weight]
        else:
            found = next(one.sparse_tensor for one in held.proto.attribute if one.name == "sparse_value")
        return found.values, Sparse(found.indices, tuple(found.dims))

    def _use(self, use: WeightUse) -> WeightUse:
        return replace(
            use,
            node=self._node(use.node),
            steps=tuple(step._replace(node=self._node(step.node)) for step in use.steps),
            quantization=self._quantization(use.quantization),
            calls=tuple(map(self._node, use.calls)),
            handed=tuple(map(self._node, use.handed)),
        )

    def _quantization(self, read: Quantization | str | None) -> Quantization | str | None:
        if not isinstance(read, Quantization):
            return read
        node, owner = self._node(read.node), self._scope(read.scale_owner)
        zero_owner = None if read.zero_owner is None else self._scope(read.zero_owner)
        zero_point = None if zero_owner is None else self._graph.constant(zero_owner, read.zero_name)
        quantizer = read.quantizer
        if quantizer is not None:
            moved = self._quantization(quantizer.reading)
            assert isinstance(moved, Quantization)
            quantizer = replace(quantizer, reading=moved)
        scale = self._graph.constant(owner, read.scale_name)
        if scale is None or scale.dims != read.scale.dims:
            raise KeyError(read.scale_name)
        return replace(
            read,
            node=node,
            scale=scale,
            scale_owner=owner,
            zero_point=zero_point,
            zero_owner=zero_owner,
            quantizer=quantizer,
        )

    def _node(self, node: Node) -> Node:
        self._scope(node.scope)
        return self._nodes[node.order]

    def _scope(self, scope: Scope) -> Scope:
        if scope not in self._found:
            self._found[scope] = found = self._place(scope)
            if not _alike(scope, found):
                raise KeyError(scope.id)
        return self._found[scope]

    def _place(self, scope: Scope) -> Scope:
        if scope.owner is not None:
            return self._node(scope.owner).subgraphs[scope.owner.subgraphs.index(scope)]
        return self._functions[scope.id] if scope.is_function else self._graph.main


def _alike(scope: Scope, other: Scope) -> bool:
    """Say whether two scopes have the same nodes, as far as what they read and make and their plain attributes go."""
    return len(scope.nodes) == len(other.nodes) and all(map(_same_node, scope.nodes, other.nodes))


def _same_node(node: Node, other: Node) -> bool:
    left, right = node.proto, other.proto
    same = left.op_type == right.op_type and left.domain == right.domain
    return same and left.input == right.input and left.output == right.output and _plain(left) == _plain(right)


def _plain(node: onnx.NodeProto) -> list[onnx.AttributeProto]:
    """Return the attributes that hold neither a tensor, whose data may stand elsewhere, nor a graph."""
    return [one for one in node.attribute if not one.HasField("t") and not one.HasField("g")]
