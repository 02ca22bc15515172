"""The plan of an exported Keras model: each wrapped kernel with Keras's matrix, as a view of the stored tensor.

Keras takes M = K.reshape(-1, L) of its kernel K with L = K.shape[-1], and u [L] on the last axis. The stored tensor's
axes are runs of K's elements (`Layout`); a view is right where its side of u walks K's elements 0 … L-1.
"""

from collections.abc import Sequence
from dataclasses import replace

import onnx

from sn_graph.errors import ModelError
from sn_graph.frontends.keras.placing import Placed
from sn_graph.model import Model
from sn_graph.plan import Plan, PlannedSite, decide
from sn_graph.sites import Atom, Convention, Layout, MatrixView, Site, find_sites


def keras_plan(model: Model, placed: Sequence[Placed]) -> Plan:
    """Return the plan of a model whose wrapped kernels are these: they are eligible, and nothing else.

    Raises:
        ModelError: A kernel is read by an operator that sn-graph can't normalize.
    """
    wrapped = {one.kernel.name: one for one in placed}
    sites = find_sites(model)
    missing = [one for name, one in wrapped.items() if name not in {site.id for site in sites}]
    if missing:
        raise ModelError(f"{_wrapper(missing[0])} is read by {_readers(model, missing[0])}", *_NO_MATRIX)
    iterations = sorted(one.wrapper.power_iterations for one in placed)
    common = max(iterations, key=iterations.count, default=1)  # so that --power-iterations has something to override
    return Plan(
        model=model.path.name if model.path else "",
        convention=Convention.KERAS,
        convention_reason="the model is Keras's own",
        sites=tuple(_planned(site, wrapped.get(site.id), common) for site in sites),
        power_iterations=common,
    )


_NO_MATRIX = ("which is not a product with a weight that sn-graph knows", "take the wrapper off it")


def _planned(site: Site, placed: Placed | None, common: int) -> PlannedSite:
    planned = decide(site, Convention.KERAS, ())
    if placed is None:
        reason = site.refusal or "in no SpectralNormalization layer of the Keras model"
        return replace(planned, status="skipped", reason=reason)
    if site.refusal is not None or site.shape is None:
        raise ModelError(f"{_wrapper(placed)} can't be normalized", str(site.refusal), "take the wrapper off it")
    if site.other_uses or len(site.uses) != len(placed.readers):
        others = ", ".join(use.node.path for use in site.other_uses if use.node is not None)
        raise ModelError(f"{_wrapper(placed)} is read by {others or 'something else'}", *_NO_MATRIX)
    found = tuple(use.node.proto.output[0] for use in site.uses)
    assert placed.calls == 1 or found == placed.readers, "the graph's order is not the calls'"
    own = placed.wrapper.power_iterations
    return replace(
        planned,
        view=_view(placed, planned.view),
        status="eligible",
        reason=None,
        uses=site.uses,
        power_iterations=None if own == common else own,
        per_use=placed.calls > 1,
    )


def _view(placed: Placed, usual: MatrixView | None) -> MatrixView:
    """Return the view of Keras's matrix: the usual one of the operator where it is that, else one made for it."""
    length = int(placed.kernel.variable.shape[-1])
    views = [usual] if usual is not None else []
    made = view_of(placed.layout, length)
    views += [made] if made is not None else []
    for view in views:
        if is_keras_view(view, placed.layout, length):
            return view
    raise ModelError(f"{_wrapper(placed)} is stored in an order of which no matrix view can be taken", do="report this")


def is_keras_view(view: MatrixView, layout: Layout, length: int) -> bool:
    """Say whether a view of a stored tensor is Keras's matrix, up to transposition and the order of the other side.

    Args:
        view: Of the stored tensor.
        layout: The stored tensor's axes, as runs of the kernel's elements in Keras's order.
        length: The kernel's last size, L.
    """
    split = layout if view.split is None else layout.reshape(view.split)
    moved = split if split is None or view.perm is None else split.transpose(view.perm)
    matrix = None if moved is None else moved.reshape((view.rows, view.cols))
    if matrix is None or view.state_length != length:
        return False
    side = matrix.dims[0 if view.side == "rows" else 1]
    steps = [atom for atom in side if atom.size > 1]
    size = 1
    for atom in reversed(steps):
        if atom.stride != size:
            return False
        size *= atom.size
    return size == length


def view_of(layout: Layout, length: int) -> MatrixView | None:
    """Return Keras's matrix as a view of a stored tensor; arguments as for `is_keras_view`.

    None where the axes cut across the kernel's last one.
    """
    atoms: list[Atom] = []
    for atom in (atom for dim in layout.dims for atom in dim):
        if atom.stride < length < atom.stride * atom.size:  # it walks the last axis and others: cut it there
            if length % atom.stride or (atom.stride * atom.size) % length:
                return None
            atoms += [Atom(length, atom.stride * atom.size // length), Atom(atom.stride, length // atom.stride)]
        else:
            atoms.append(atom)
    last = sorted((place for place, atom in enumerate(atoms) if atom.stride < length), key=lambda p: -atoms[p].stride)
    rest = [place for place in range(len(atoms)) if place not in last]
    rows = 1
    for place in rest:
        rows *= atoms[place].size
    if [*rest, *last] == list(range(len(atoms))):
        return MatrixView(None, None, rows, length, "cols")
    if [*last, *rest] == list(range(len(atoms))):
        return MatrixView(None, None, length, rows, "rows")
    return MatrixView(tuple(atom.size for atom in atoms), (*last, *rest), length, rows, "rows")


def _wrapper(placed: Placed) -> str:
    return f"the kernel of SpectralNormalization layer '{placed.wrapper.path}'"


def _readers(model: Model, placed: Placed) -> str:
    return ", ".join(_label(node) for node in model.proto.graph.node if placed.kernel.name in node.input) or "nothing"


def _label(node: onnx.NodeProto) -> str:
    return f"{node.op_type} '{node.name}'"
