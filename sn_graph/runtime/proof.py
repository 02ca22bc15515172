"""Proving a folded model before it takes its place.

Two proofs, neither through the code that wrote the file. Structure: read with onnx's own reader, every tensor is the
original's, or the original's times its factor, and the graph is the original's, once the copies made for weights that
were split are taken out again. Run: onnxruntime gives the same outputs for the folded file and for the original with
its initializers overridden in memory.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from sn_graph.errors import ModelError, VerificationFailed
from sn_graph.model import Model, Storage
from sn_graph.model.graph import Graph, Scope, constant_tensor
from sn_graph.model.tensors import without_data
from sn_graph.passes.base import PassResult, Rescaled
from sn_graph.progress import Progress, silent
from sn_graph.report import Verified
from sn_graph.runtime.parity import compare_sides, make_feeds, random_ops
from sn_graph.runtime.side import Side

Key = tuple[str, str]  # a scope's path and a tensor's name in it


@dataclass(frozen=True)
class Proof:
    """How a written model was verified.

    Attributes:
        verified: "run", "structure" or "no".
        note: Why no more than that.
        failed: Whether it was found wrong, and put in place all the same.
    """

    verified: Verified
    note: str | None = None
    failed: bool = False


def save_verified(
    source: Model,
    result: PassResult,
    path: str | os.PathLike[str],
    storage: Storage = Storage.KEEP,
    *,
    verify: bool = True,
    force: bool = False,
    rtol: float | None = None,
    atol: float | None = None,
    progress: Progress = silent,
) -> Proof:
    """Write a folded model beside `path`, prove it against the model it came from, and put it in place.

    Args:
        source: The model before the pass.
        result: What the pass made of it.
        path, storage: As for `Model.save`.
        verify: Whether to prove it at all.
        force: Put it in place even where the proof fails.
        rtol, atol: What outputs may differ by; by default they follow from the type.
        progress: Told the bytes written, then the steps of the proof.

    Raises:
        VerificationFailed: The written file differs from what it should be; nothing is put in place.
        EnvironmentUnavailable: The folder can't be written, or onnxruntime is missing.
    """
    prover = partial(prove, source, result.rescaled, rtol=rtol, atol=atol, progress=progress)
    return save_proven(result, path, storage, prover if verify else None, force, progress)


def save_proven(
    result: PassResult,
    path: str | os.PathLike[str],
    storage: Storage,
    prover: Callable[[Path], Proof] | None,
    force: bool,
    progress: Progress,
) -> Proof:
    """Write a model beside `path`, let `prover` look at the file, and put it in place.

    Raises:
        VerificationFailed: The prover raised it, and `force` is not given; nothing is put in place.
    """
    with result.model.stage(path, storage, progress) as staged:
        proof = Proof("no")
        try:
            if prover is not None:
                proof = prover(staged.model)
        except VerificationFailed as error:
            if not force:
                raise
            proof = Proof("no", str(error), failed=True)
        staged.commit()
    return proof


def prove(
    source: Model,
    rescaled: tuple[Rescaled, ...],
    written: Path,
    *,
    rtol: float | None = None,
    atol: float | None = None,
    dims: Mapping[str, int] | None = None,
    progress: Progress = silent,
) -> Proof:
    """Prove that the file `written` is `source` with its tensors rescaled; raise VerificationFailed where it is not.

    `dims` are sizes of dynamic dimensions by name, as in `make_feeds`.
    """
    progress("verifying", 0, _STEPS)
    original = _load(source)
    folded = onnx.load(written)
    expected = _expected(original, rescaled)
    _check_structure(original, folded, expected, rescaled)
    progress("verifying", 1, _STEPS)
    drawn = random_ops(source.proto.graph)
    if drawn:
        return Proof("structure", f"it draws random numbers ({', '.join(drawn)}), so no two runs agree")
    names = {entry.name for entry in rescaled}
    in_place = all(entry.scope == "" and entry.name == entry.original for entry in rescaled)
    if in_place and names <= {tensor.name for tensor in original.graph.initializer}:
        overrides = {name: array for (_, name), array in expected.items()}
        reference = Side(source, "the original with its weights replaced", optimize=False, overrides=overrides)
    else:
        # No override reaches Constant nodes, functions and split weights: the folded structure, the original's data.
        _fill(folded, original, expected)
        reference = Side(Model.open(folded), "the original with its weights replaced", optimize=False)
    try:
        feeds = make_feeds(source, dims=dims)
        list(Side(source, "the original", optimize=False).run(feeds))
    except ModelError as error:
        what = str(error).rpartition("; ")[0] or str(error)  # what to do about it is advice for other commands
        return Proof("structure", f"the original can't be run, so there is nothing to compare with: {what}")
    progress("verifying", 2, _STEPS)
    try:
        # Without optimizations both sides run the same kernels, so that only the weights can make a difference.
        parity = compare_sides(
            reference, Side(Model.open(written), "the folded model", optimize=False), feeds, rtol=rtol, atol=atol
        )
    except ModelError as error:
        raise VerificationFailed(f"the folded model does not run: {error}") from None
    parity.raise_if_different()
    progress("verifying", _STEPS, _STEPS)
    return Proof("run")


_STEPS = 3  # structure, the original's run, the comparison


def _load(source: Model) -> onnx.ModelProto:
    if source.path is not None and not source.modified:
        try:
            return onnx.load(source.path)
        except onnx.checker.ValidationError:
            pass  # onnx refuses data files with several hard links, which copies of a folder often have
    return source.to_proto()


def _constants(model: onnx.ModelProto) -> dict[Key, onnx.TensorProto]:
    found: dict[Key, onnx.TensorProto] = {}
    for scope in Graph(model).scopes:
        found |= {(scope.id, name): tensor for name, tensor in scope.initializers.items()}
        for node in scope.nodes:
            tensor = constant_tensor(node) if node.op_type == "Constant" and node.is_standard else None
            if tensor is not None:
                found[scope.id, node.proto.output[0]] = tensor
    return found


def _expected(original: onnx.ModelProto, rescaled: tuple[Rescaled, ...]) -> dict[Key, NDArray[Any]]:
    constants = _constants(original)
    expected = {}
    for entry in rescaled:
        array = numpy_helper.to_array(constants[entry.scope, entry.original])
        expected[entry.scope, entry.name] = np.asarray(array.astype(np.float64) * entry.factor).astype(array.dtype)
    return expected


def _check_structure(
    original: onnx.ModelProto,
    folded: onnx.ModelProto,
    expected: Mapping[Key, NDArray[Any]],
    rescaled: tuple[Rescaled, ...],
) -> None:
    before, after = _constants(original), _constants(folded)
    for key, tensor in after.items():
        if key in expected:
            _check_scaled(key, numpy_helper.to_array(tensor), expected[key])
        elif key not in before or not _same_data(before[key], tensor):
            raise VerificationFailed(f"tensor '{key[1]}' is not the original's, though it was to stay")
    missing = [name for scope, name in (*before, *expected) if (scope, name) not in after]
    if missing:
        raise VerificationFailed(f"tensor '{missing[0]}' got lost")
    bare = without_data(folded)
    _take_out_copies(bare, original, {entry.name: entry.original for entry in rescaled})
    if bare != without_data(original):
        raise VerificationFailed("the graph is not the original's, though only weights were to change")


def _take_out_copies(folded: onnx.ModelProto, original: onnx.ModelProto, twins: dict[str, str]) -> None:
    """Undo the splitting of weights in a skeleton: drop each copy of a constant or node, and let its readers read what
    it is a copy of. `twins` names the original of each tensor that was added.

    Raises VerificationFailed where something was added that is no copy.
    """
    known = {name for scope in Graph(original).scopes for name in _made_in(scope)}
    copies: list[tuple[onnx.NodeProto, onnx.NodeProto, Scope]] = []
    scopes = Graph(folded).scopes
    for scope in scopes:
        before = None
        for node in scope.proto.node:
            if not any(node.output) or not known.isdisjoint(node.output):
                before = node
            elif before is not None:  # a copy stands right behind its original
                copies.append((node, before, scope))
                twins.update(zip(node.output, before.output, strict=False))
    for scope in scopes:
        for node in scope.proto.node:
            for index, name in enumerate(node.input):
                if name not in known and name in twins:
                    node.input[index] = twins[name]
        if isinstance(scope.proto, onnx.GraphProto):
            for field in (scope.proto.initializer, scope.proto.input):
                for position in reversed(range(len(field))):
                    if field[position].name not in known and field[position].name in twins:
                        del field[position]
    for node, before, scope in copies:
        node.output[:] = before.output
        node.ClearField("name")
        if before.HasField("name"):
            node.name = before.name
        if node != before:
            raise VerificationFailed(f"a node was added behind '{before.name or before.op_type}' that is no copy of it")
        del scope.proto.node[next(i for i, other in enumerate(scope.proto.node) if other is node)]


def _made_in(scope: Scope) -> tuple[str, ...]:
    return (*scope.inputs, *scope.initializers, *scope.producers)


def _check_scaled(key: Key, stored: NDArray[Any], expected: NDArray[Any]) -> None:
    if stored.shape != expected.shape or stored.dtype != expected.dtype:
        raise VerificationFailed(f"tensor '{key[1]}' has another shape or type than the original")
    # Twice the rounding of the type, for factor and product are both rounded.
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


def _fill(folded: onnx.ModelProto, original: onnx.ModelProto, expected: Mapping[Key, NDArray[Any]]) -> None:
    before = _constants(original)
    for key, tensor in _constants(folded).items():
        name = tensor.name
        if key in expected:
            tensor.CopyFrom(numpy_helper.from_array(expected[key], name))
        else:
            tensor.CopyFrom(before[key])
