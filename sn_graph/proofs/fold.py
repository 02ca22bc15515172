"""Proving a folded model before it takes its place.

Three proofs, none through the code that wrote the file. Structure: read with onnx's own reader, every tensor is the
original's, or the original's times its factor, and the graph is the original's, once the copies made for weights that
were split are taken out again. Norms: each folded weight, as runtimes read it, has the norm that was promised. Run:
onnxruntime gives the same outputs for the folded file and for the original with its initializers overridden in memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sn_graph.errors import ModelError, VerificationFailed
from sn_graph.model import Graph, Key, Model, constants_by_key, random_ops, sparse_constants, without_data
from sn_graph.passes import PassResult
from sn_graph.proofs.integers import check_integers
from sn_graph.proofs.norms import check_norms
from sn_graph.proofs.outputs import prove_outputs
from sn_graph.proofs.proof import Proof, Terms
from sn_graph.proofs.readers import check_readers
from sn_graph.rewrite import Rescaled
from sn_graph.runtime import Side, lean_side, make_feeds, with_overrides


def prove_fold(result: PassResult, source: Model, written: Path, terms: Terms) -> Proof:
    """Prove that the file `written` is `source` with its tensors rescaled; raise VerificationFailed where it is not."""
    terms.progress("verifying", 0, _STEPS)
    original = _Loaded.of(Graph(_load(source)))
    folded = _Loaded.of(_named_alike(Graph(onnx.load(written)), original.graph))
    expected, originals = _expected(original, folded, result.rescaled), _originals(result)
    _check_structure(original, folded, expected, originals)
    if result.plan is not None:
        check_integers(result.plan, source, result.rescaled, folded.constants)
        reads = check_readers(result, result.plan, folded.graph, originals)
        terms.progress("verifying", 1, _STEPS)
        check_norms(result, source, reads, {key: numpy_helper.to_array(folded.constants[key]) for key in expected})
    terms.progress("verifying", 2, _STEPS)
    drawn = random_ops(source)
    if drawn:
        return Proof("structure", f"it draws random numbers ({', '.join(drawn)}), so no two runs agree")
    try:
        feeds = make_feeds(source, inputs=terms.inputs, dims=terms.dims)
        unscaled = lean_side(source, "the original")
        list(unscaled.run(feeds))
    except ModelError as error:
        return Proof("structure", f"the original can't be run, so there is nothing to compare with: {error.reason}")
    terms.progress("verifying", 3, _STEPS)
    reference = _reference(unscaled, original, folded, expected, result.rescaled)
    # Without optimizations both sides run the same kernels, so that only the weights can make a difference.
    side = lean_side(Model.open(written), "the folded model")
    proof = prove_outputs(source, result.plan, reference, side, feeds, terms, "the folded model")
    terms.progress("verifying", _STEPS, _STEPS)
    return proof.with_note(feeds.note)


_STEPS = 4  # structure, norms, the original's run, the comparison


@dataclass(frozen=True, eq=False)
class _Loaded:
    """A model as onnx's own reader gives it, and its constants."""

    proto: onnx.ModelProto
    graph: Graph
    constants: Mapping[Key, onnx.TensorProto]

    @classmethod
    def of(cls, graph: Graph) -> "_Loaded":
        sparse = {(scope.id, name): tensor.values for scope, name, tensor in sparse_constants(graph)}
        return cls(graph.model, graph, {**constants_by_key(graph), **sparse})


def _named_alike(folded: Graph, original: Graph) -> Graph:
    """Give the scopes of the folded model the ids of the original's: copies move the positions in those ids."""
    if len(folded.scopes) != len(original.scopes):
        raise VerificationFailed("the graph is not the original's", "because it has other subgraphs or functions")
    for ours, theirs in zip(folded.scopes, original.scopes, strict=True):
        ours.id = theirs.id
    return folded


def _load(source: Model) -> onnx.ModelProto:
    if source.path is not None and not source.modified:
        try:
            return onnx.load(source.path)
        except (onnx.checker.ValidationError, ValueError):
            # onnx refuses data files with several hard links, which copies of a folder often have, and an empty offset.
            pass
    return source.to_proto()


def _reference(
    unscaled: Side,
    original: _Loaded,
    folded: _Loaded,
    expected: Mapping[Key, NDArray[Any]],
    rescaled: Sequence[Rescaled],
) -> Side:
    """Return the original with its weights replaced in memory; `folded` may be changed for that."""
    label = "the original with its weights replaced"
    names = {entry.name for entry in rescaled}
    in_place = all(entry.scope == "" and entry.name == entry.original for entry in rescaled)
    if in_place and names <= {tensor.name for tensor in original.proto.graph.initializer}:
        arrays = {name: array for (_, name), array in expected.items()}
        return with_overrides(replace(unscaled, label=label), arrays)
    # No override reaches Constant nodes, functions and split weights: the folded structure, the original's data.
    for key, tensor in folded.constants.items():
        if key in expected:
            tensor.CopyFrom(numpy_helper.from_array(expected[key], tensor.name))
        else:
            tensor.CopyFrom(original.constants[key])
    return lean_side(Model.open(folded.proto), label)


def _expected(original: _Loaded, folded: _Loaded, rescaled: Sequence[Rescaled]) -> dict[Key, NDArray[Any]]:
    expected = {}
    for entry in rescaled:
        array = numpy_helper.to_array(original.constants[entry.scope, entry.original])
        if entry.by is not None:  # some elements were moved: `check_integers` judges it
            if (entry.scope, entry.name) in folded.constants:
                expected[entry.scope, entry.name] = numpy_helper.to_array(folded.constants[entry.scope, entry.name])
            continue
        expected[entry.scope, entry.name] = np.asarray(array.astype(np.float64) * entry.factor).astype(array.dtype)
    return expected


def _originals(result: PassResult) -> dict[str, str]:
    """Return, for the value of each copy that fold made, the value that it stands for."""
    originals = {copy.name: copy.original for copy in result.copies}
    for entry in result.rescaled:
        if originals.get(entry.name, entry.name) != entry.original:
            raise VerificationFailed(f"tensor '{entry.name}' is not a copy of the one that it was scaled from")
    return originals


def _check_structure(
    original: _Loaded, folded: _Loaded, expected: Mapping[Key, NDArray[Any]], originals: Mapping[str, str]
) -> None:
    before, after = original.constants, folded.constants
    for key, tensor in after.items():
        if key in expected:
            _check_scaled(key, numpy_helper.to_array(tensor), expected[key])
        elif key not in before or not _same_data(before[key], tensor):
            raise VerificationFailed(f"tensor '{key[1]}' is not the original's, though it was to stay")
    places = [{(s.id, n): one.indices for s, n, one in sparse_constants(side.graph)} for side in (original, folded)]
    moved = [key for key, indices in places[0].items() if key in places[1] and not _same_data(indices, places[1][key])]
    if moved:
        raise VerificationFailed(f"the elements of tensor '{moved[0][1]}' stand in other places than the original's")
    missing = [name for scope, name in (*before, *expected) if (scope, name) not in after]
    if missing:
        raise VerificationFailed(f"tensor '{missing[0]}' got lost")
    bare = without_data(folded.proto)
    if originals:
        _take_out(bare, originals)
    if bare != without_data(original.proto):
        raise VerificationFailed("the graph is not the original's, though only weights were to change")


def _take_out(folded: onnx.ModelProto, originals: Mapping[str, str]) -> None:
    """Take the copies that fold made out of a skeleton, and let their readers read what they are copies of.

    Args:
        folded: The skeleton, changed in place.
        originals: For the value of each copy, the value that it stands for.

    Raises:
        VerificationFailed: What was added is not a copy of what it is said to be.
    """
    lost = set(originals)
    for scope in Graph(folded).scopes:
        proto = scope.proto
        for node in proto.node:
            for index, name in enumerate(node.input):
                node.input[index] = originals.get(name, name)
        makers = {tuple(node.output): node for node in reversed(proto.node)}
        copies = [place for place, node in enumerate(proto.node) if not originals.keys().isdisjoint(node.output)]
        for place in reversed(copies):
            node = proto.node[place]
            twin = makers.get(tuple(originals.get(name, name) for name in node.output))
            if twin is None or not _is_copy(node, twin):
                raise VerificationFailed(f"a node that makes '{node.output[0]}' was added, and is not a copy")
            lost -= set(node.output)
            del proto.node[place]
        if isinstance(proto, onnx.GraphProto):
            held = [place for place, tensor in enumerate(proto.initializer) if tensor.name in originals]
            for place in reversed(held):
                lost.discard(proto.initializer[place].name)
                del proto.initializer[place]
            listed = {value.name for value in proto.input} if folded.ir_version < 4 else set()
            named = [place for place, value in enumerate(proto.input) if originals.get(value.name) in listed]
            for place in reversed(named):
                del proto.input[place]  # IR 3 wants every initializer among the inputs

    if lost:
        raise VerificationFailed(f"the copy '{min(lost)}' that fold made got lost")


def _is_copy(node: onnx.NodeProto, original: onnx.NodeProto) -> bool:
    """Say whether a node is another one, but for its name and what it makes."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = original.output
    copy.ClearField("name")
    if original.HasField("name"):
        copy.name = original.name
    return copy == original


def _check_scaled(key: Key, stored: NDArray[Any], expected: NDArray[Any]) -> None:
    if stored.shape != expected.shape or stored.dtype != expected.dtype:
        raise VerificationFailed(f"tensor '{key[1]}' has another shape or type than the original")
    # Twice the rounding of the type, because factor and product are both rounded.
    limits = ml_dtypes.finfo(expected.dtype)  # type: ignore[no-untyped-call]
    wanted = expected.astype(np.float64)
    allowed = 2 * (float(limits.eps) * np.abs(wanted) + float(limits.smallest_subnormal))
    if not (np.abs(stored.astype(np.float64) - wanted) <= allowed).all():
        raise VerificationFailed(f"tensor '{key[1]}' is not the original's divided by its norm")


def _same_data(left: onnx.TensorProto, right: onnx.TensorProto) -> bool:
    if left.data_type == onnx.TensorProto.STRING or not left.ByteSize():
        return left == right
    fields = ("raw_data", "float_data", "double_data", "int32_data", "int64_data", "uint64_data")
    if all(getattr(left, field) == getattr(right, field) for field in fields):
        return True
    return numpy_helper.to_array(left).tobytes() == numpy_helper.to_array(right).tobytes()
