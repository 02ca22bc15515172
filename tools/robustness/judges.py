"""Judges of what the commands wrote: onnx's reader, float64 SVD and onnxruntime's own outputs, none of sn-graph's code.

A judge returns what is wrong, in words, or None; `Unjudged` is raised where it can't tell, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

Array = NDArray[Any]
Site = Mapping[str, Any]

# Outputs, of their largest value: what rounding of the type may do in a deep network.
_OUTPUTS = {"float64": 1e-8, "float32": 1e-3, "float16": 3e-2, "bfloat16": 1e-1}
_SIGMA = {"float64": 2e-6, "float32": 3e-6, "float16": 4e-3, "bfloat16": 3e-2}


class Unjudged(Exception):
    """A judge can't tell, and why."""


def judge_fold(source: Path, written: Path, sites: list[Site], plan: Mapping[str, Any]) -> str | None:
    """Judge a folded file: each weight the original's times one number, with norm 1; all else as it was; outputs."""
    before, after = _read(source), _read(written)
    old, new = dict(_constants(before)), dict(_constants(after))
    views = {view["id"]: view for view in plan["sites"]}
    for site in (site for site in sites if site["status"] == "folded"):
        name = site["weight"]
        if name not in old or name not in new or old[name].dtype.name not in _SIGMA:
            continue  # a name that several scopes have, or a quantized weight, whose scale was divided
        if _is_rounded(site):
            continue  # not the stored tensor has norm 1, but what the graph rounds it to
        weight, folded = (array.astype(np.float64) for array in (old[name], new[name]))
        if np.array_equal(weight, folded):
            continue  # another reader keeps the original, and a copy was scaled
        factor = float((weight * folded).sum() / (weight * weight).sum())
        slack = _SIGMA[old[name].dtype.name]
        if np.abs(folded - weight * factor).max() > slack * np.abs(folded).max():
            return f"weight {name!r} is not a multiple of what it was"
        norm = _norm(folded, views[site["id"]])
        if abs(norm - 1.0) > slack:
            return f"weight {name!r} has norm {norm:.9g}"
    touched = {site["weight"] for site in sites if site["status"] == "folded"}
    for name, array in old.items():
        if (
            name in new
            and name not in touched
            and new[name].tobytes() != array.tobytes()
            and not _is_scale(before, name)
        ):
            return f"tensor {name!r} changed"
    if touched - old.keys():
        raise Unjudged("several scopes have a weight of one name")
    return judge_outputs(_replaced(before, after, touched), after)


def judge_insertion(source: Path, written: Path, sites: list[Site]) -> str | None:
    """Judge an inserted file: its σ is within the norm, and its outputs are those of the weights divided by it."""
    before, after = _read(source), _read(written)
    feeds = _feeds(before)
    outputs = _run(after, feeds, optimize=True)
    done = [site for site in sites if site["status"] == "inserted"]
    sigmas = outputs.get("sn_sigma")
    if sigmas is None:
        raise Unjudged("its σ goes out under another name")
    old = dict(_constants(before))
    for site, sigma in zip(done, sigmas.reshape(-1).tolist(), strict=True):
        weight = old.get(site["weight"])
        if not np.isfinite(sigma) or sigma <= 0:
            return f"σ of {site['weight']!r} is {sigma}"
        if weight is None or weight.dtype.name not in _SIGMA or len(site["consumers"]) != 1 or _is_rounded(site):
            raise Unjudged(f"weight {site['weight']!r} is quantized, or has several readers")
        if sigma > (1 + _SIGMA[weight.dtype.name] * 100) * np.linalg.norm(weight.astype(np.float64)):
            return f"σ of {site['weight']!r} is {sigma}, above Frobenius' norm"
        _replace(before, site["weight"], (weight.astype(np.float64) / sigma).astype(weight.dtype))
    return _difference(_run(before, feeds, optimize=False), outputs)


def judge_lift(source: Path, written: Path, sites: list[Site]) -> str | None:
    """Judge a lifted file: its outputs are the original's; where no weight was lifted, so is all of it."""
    if all(site["status"] != "lifted" for site in sites):
        same = written.read_bytes() == source.read_bytes() or onnx.load(written) == onnx.load(source)
        return None if same else "nothing was lifted, and the file changed"
    return judge_outputs(_read(source), _read(written))


def judge_certificate(source: Path, answer: Mapping[str, Any]) -> str | None:
    """Judge a certificate: no two inputs of onnxruntime's are further apart behind the network than it proves."""
    proven, attained = answer["proven"], answer["attained"]
    if proven is None:
        return None if answer["unbounded"] and answer["unbounded"]["reason"] else "no bound, and not a word why"
    if not np.isfinite(proven) or proven < (attained or 0.0):
        return f"the constant {proven} is proven, where {attained} is attained"
    model = _read(source)
    feeds, rng = _feeds(model), np.random.default_rng(1)
    names = [name for name in answer["input"].split(", ") if name in feeds]
    if not names or any(feeds[name].dtype != np.float32 for name in names):
        raise Unjudged("its input has no float32 array of its own")
    rounded = 0.0  # what the smallest change makes of the output, which is the rounding of what is on its way
    for step in (1e-6, 1e-2, 1e-1, 1.0):
        others = {name: feeds[name] + np.float32(step) * rng.standard_normal(feeds[name].shape).astype(np.float32)
                  for name in names}  # fmt: skip
        ends = [_run(model, {**feeds, **more}, optimize=False)[answer["output"]] for more in ({}, others)]
        a, b = (np.asarray(end, np.float64) for end in ends)
        if a.shape != b.shape or not np.isfinite(a - b).all():
            raise Unjudged("its outputs are not finite, or not of one shape")
        moved = np.sqrt(sum(np.square(others[name] - feeds[name].astype(np.float64)).sum() for name in names))
        apart, room = np.linalg.norm(a - b), 1e-5 * (np.linalg.norm(a) + np.linalg.norm(b))
        if step == 1e-6:
            rounded = float(2.0 * apart)
        elif apart - room - rounded > proven * moved:
            return f"the constant {proven} is proven, and {apart / moved:.6g} is attained"
    return None


def judge_strip(source: Path, written: Path) -> str | None:
    """Judge a stripped file: it is the one before the insertion, as a proto."""
    same = onnx.load(source) == onnx.load(written)
    return None if same else "strip does not give the original back"


def judge_outputs(expected: onnx.ModelProto, actual: onnx.ModelProto) -> str | None:
    """Judge outputs as runtimes give them: with their optimizations, unless those change the expected model's too."""
    feeds = _feeds(expected)
    wanted = _run(expected, feeds, optimize=False)
    wrong = _difference(wanted, _run(actual, feeds, optimize=False))
    if wrong is None:
        wrong = _difference(wanted, _run(actual, feeds, optimize=True))
        if wrong is None or _difference(wanted, _run(expected, feeds, optimize=True)) is not None:
            return None
        wrong = f"with onnxruntime's optimizations, {wrong}"
    steps = _STEPS & {node.op_type for node in _nodes(actual)}
    if steps:
        raise Unjudged(f"it takes steps ({', '.join(sorted(steps))}), which rounding alone may move: {wrong}")
    return wrong


# What may choose another place, truth or level for the last bit of what it reads.
_STEPS = {"ArgMax", "ArgMin", "BeamSearch", "GreedySearch", "NonMaxSuppression", "NonZero", "Sign", "TopK"}


def _difference(expected: Mapping[str, Any], actual: Mapping[str, Any]) -> str | None:
    worst, where = 0.0, ""
    for name, wanted in expected.items():
        given = actual[name]
        if not isinstance(wanted, np.ndarray) or wanted.dtype.name not in _OUTPUTS:
            continue
        if wanted.shape != given.shape:
            return f"output {name!r} has another shape"
        a, b = wanted.astype(np.float64), given.astype(np.float64)
        if not np.array_equal(np.isfinite(a), np.isfinite(b)):
            return f"output {name!r} is not finite where it should be"
        scale = float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) or 1.0
        apart = float(np.abs(a - b)[np.isfinite(a)].max(initial=0.0)) / scale / _OUTPUTS[wanted.dtype.name]
        if apart > worst:
            worst, where = apart, name
    return f"output {where!r} is off by {worst:.3g} times what rounding explains" if worst > 1.0 else None


def _is_rounded(site: Site) -> bool:
    """Say whether the graph quantizes a weight that is stored as floats."""
    return any(step.startswith(("Quant", "IntQuant", "BipolarQuant")) for step in site["via"])


def _read(path: Path) -> onnx.ModelProto:
    """Read a model, its sparse weights as the dense ones that they stand for."""
    model = onnx.load(path)
    for sparse in model.graph.sparse_initializer:
        values, places = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
        dense = np.zeros(tuple(sparse.dims), values.dtype)
        dense[np.unravel_index(places, dense.shape) if places.ndim == 1 else tuple(places.T)] = values
        model.graph.initializer.append(numpy_helper.from_array(dense, sparse.values.name))
    del model.graph.sparse_initializer[:]
    return model


def _constants(model: onnx.ModelProto) -> Iterator[tuple[str, Array]]:
    """Yield the tensors of all scopes; a name that several have is left out."""
    found: dict[str, onnx.TensorProto | None] = {}
    for name, tensor in _tensors(model):
        found[name] = None if name in found else tensor
    for name, held in found.items():
        if held is not None and held.data_type != TensorProto.STRING and held.ByteSize():
            yield name, numpy_helper.to_array(held)


def _tensors(model: onnx.ModelProto) -> Iterator[tuple[str, onnx.TensorProto]]:
    bodies: list[Any] = [model.graph, *model.functions]
    while bodies:
        body = bodies.pop()
        yield from ((tensor.name, tensor) for tensor in getattr(body, "initializer", ()))
        for node in body.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    yield node.output[0], attribute.t
                bodies += [attribute.g] if attribute.HasField("g") else []
                bodies += attribute.graphs


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    bodies: list[Any] = [model.graph, *model.functions]
    while bodies:
        for node in bodies.pop().node:
            yield node
            bodies += [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def _replace(model: onnx.ModelProto, name: str, array: Array) -> None:
    for other, tensor in _tensors(model):
        if other == name:
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def _replaced(before: onnx.ModelProto, after: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """Return the original with the weights divided by their own float64 factor; scales as the file has them."""
    old, new = dict(_constants(before)), dict(_constants(after))
    if set(new) != set(old):
        raise Unjudged("weights were split, so that the original with other weights is another graph")
    for name, array in old.items():
        if name in names or _is_scale(before, name):
            _replace(before, name, new[name])
        elif new[name].tobytes() != array.tobytes():
            raise Unjudged(f"tensor {name!r} changed")
    return before


# Where operators take the scale of a weight that they read as integers.
_SCALES = {
    "DequantizeLinear": 1,
    "MatMulNBits": 2,
    "DynamicQuantizeMatMul": 2,
    "MatMulIntegerToFloat": 3,
    "QLinearConv": 4,
    "QLinearMatMul": 4,
    "QGemm": 4,
    "Quant": 1,
    "GatherBlockQuantized": 2,
}


def _is_scale(model: onnx.ModelProto, name: str) -> bool:
    kinds = {node.op_type for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type in _SCALES and name in node.input[_SCALES[node.op_type] : _SCALES[node.op_type] + 1]:
            return True
        # Behind an integer product the scales of both sides are multiplied.
        if node.op_type == "Mul" and name in node.input and kinds & {"MatMulInteger", "ConvInteger"}:
            return True
    return False


def _norm(weight: Array, view: Mapping[str, Any]) -> float:
    split, perm = view["split"] or weight.shape, view["perm"]
    matrix = weight.reshape(split)
    matrix = matrix if perm is None else matrix.transpose(perm)
    return float(np.linalg.svd(matrix.reshape(view["rows"], view["cols"]), compute_uv=False)[0])


def _feeds(model: onnx.ModelProto) -> dict[str, Array]:
    given = {tensor.name for tensor in model.graph.initializer}
    rng = np.random.default_rng(0)
    feeds = {}
    for value in model.graph.input:
        kind = value.type.tensor_type
        if value.name in given:
            continue
        if not value.type.HasField("tensor_type") or not kind.HasField("shape"):
            raise Unjudged(f"input {value.name!r} has no shape")
        shape = [dim.dim_value if dim.dim_value > 0 else 2 for dim in kind.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        floating = dtype.kind == "f" or dtype == ml_dtypes.bfloat16
        feeds[value.name] = np.asarray(rng.standard_normal(shape) if floating else np.ones(shape)).astype(dtype)
    return feeds


def _run(model: onnx.ModelProto, feeds: Mapping[str, Array], *, optimize: bool) -> dict[str, Any]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimize:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feeds)), strict=True))
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        raise Unjudged(f"onnxruntime can't run it on made-up inputs: {' '.join(str(error).split())[:120]}") from None
