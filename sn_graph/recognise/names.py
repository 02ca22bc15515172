"""Names: what a framework calls a weight whose file holds its parts, or an anonymous rearrangement of it."""

import ast
import re
from typing import TYPE_CHECKING

from sn_graph.model import Graph, Node
from sn_graph.sites import Site

if TYPE_CHECKING:
    from sn_graph.recognise.explanation import Explanation

_PARTS = (
    re.compile(r"^(?P<module>.*?)parametrizations\.(?P<weight>\w+)\.original[01]?$"),
    re.compile(r"^(?P<module>.*?)(?P<weight>[^.]+)_(?:orig|bar)$"),
)
_DIRECTION = re.compile(r"^(?P<module>.*?)(?P<weight>[^.]*weight[^.]*)_v$")
_VECTORS = (
    re.compile(r"^(?P<module>.*?)parametrizations\.(?P<weight>\w+)\.\d+\._[uv]$"),
    re.compile(r"^(?P<module>.*?)(?P<weight>[^.]*weight[^.]*)_[uv]$"),
)
ANONYMOUS = re.compile(
    r"^(onnx::.*|\d+|(val|div|mul|t|clone|detach|_to_copy|transpose|view)(_\d+)?|/.*|.*_output_\d+)$"
)
"""What exporters call values that no module names."""
_BIAS = re.compile(r"^(?P<module>.*\.)?bias$")
SCOPES = "pkg.torch.onnx.name_scopes"


def framework_name(graph: Graph, site: Site, found: "Explanation") -> str:
    """Return the name that a weight has in its module's state dict, as far as the file tells; else its present one."""
    original = "" if found.original is None else found.original.name
    patterns = (*_PARTS, _DIRECTION) if found.form == "weight-norm" else _PARTS
    for pattern in patterns:
        named = pattern.match(original)
        if named:
            return f"{named['module']}{named['weight']}"
    if original and not ANONYMOUS.match(original):
        return original
    for vector in found.u or ():
        for pattern in _VECTORS:
            named = pattern.match(vector)
            if named:
                return f"{named['module']}{named['weight']}"
    return _by_consumer(graph, site) or original or site.weight


def _by_consumer(graph: Graph, site: Site) -> str | None:
    """Return a name by the consumer: its bias's, the module in its metadata, or its own path."""
    for use in site.uses:
        bias = _bias(graph, use.node)
        if bias is not None:
            return f"{bias}weight"
    for use in site.uses:
        module = _module(use.node)
        if module:
            return f"{module}.weight"
    return None


def _bias(graph: Graph, node: Node) -> str | None:
    """Return the module whose bias a node adds, or the Add behind it, with its dot."""
    names = list(node.proto.input[2:3])
    for use in graph.uses(node.scope, node.proto.output[0]) if node.op_type == "MatMul" else ():
        if use.node is not None and use.node.op_type == "Add":
            names += use.node.proto.input
    for name in names:
        named = _BIAS.match(name)
        if named:
            return named["module"] or ""
    return None


def _module(node: Node) -> str:
    for entry in node.proto.metadata_props:
        if entry.key == SCOPES:
            try:
                scopes = ast.literal_eval(entry.value)
            except (ValueError, SyntaxError):
                break
            if isinstance(scopes, list) and len(scopes) > 1:
                return str(scopes[-2])
    parts = node.proto.name.strip("/").split("/")
    return ".".join(parts[:-1]) if node.proto.name.startswith("/") else ""
