"""The nodes that insert and fold write, against the table of the CUDA provider's kernels."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import sn_graph as sn
from tests.support.builders import DTYPES, Weights, drawn, initializer, node, value
from tools.cuda_check import kernels
from tools.cuda_kernels import probe
from tools.cuda_kernels.__main__ import rendered
from tools.cuda_kernels.build import PROVIDER, build

OLDEST, NEWEST = kernels.table()
NEWEST_OPSET = {OLDEST: 23, NEWEST: 25}  # that the onnxruntime of this version runs
OPSETS = range(7, 26)
# The first opset of a type that the operators of the model have on any provider.
FIRST_OPSET = {"float16": 7, "float32": 7, "float64": 7, "bfloat16": 13}
LARGE = (130, 140)  # beyond the length from which a norm is summed row by row


def whole(op: str, opset: int, dtype: str, *, size: tuple[int, ...] = (12, 20), **attributes: Any) -> onnx.ModelProto:
    """Two nodes of an operator, each with a weight, so that the state has to be split."""
    element = int(helper.np_dtype_to_tensor_dtype(DTYPES[dtype]))
    weights, nodes, shape, read, kind = [], [], [4, size[0]], "x", element
    for number in range(2):
        w, y = f"w{number}", f"y{number}"
        if op in ("Conv", "ConvTranspose"):
            weights.append(initializer(w, drawn(4, 4, 3, 3, seed=number, dtype=DTYPES[dtype])))
            inputs, shape = [read, w], [1, 4, 9, 9]
        elif op == "Gather":
            weights.append(initializer(w, drawn(*size, seed=number, dtype=DTYPES[dtype])))
            inputs, shape, kind = [w, "x"], [5], TensorProto.INT64
        else:
            rows, cols = size if number == 0 else (size[1], size[0])
            weights.append(initializer(w, drawn(rows, cols, seed=number, dtype=DTYPES[dtype])))
            inputs = [read, w]
            if op == "Gemm" and opset < 11:
                weights.append(initializer(f"c{number}", np.zeros(cols, DTYPES[dtype])))
                inputs.append(f"c{number}")
        nodes.append(node(op, inputs, [y], name=f"n{number}", **attributes))
        read = y
    outputs = [value(f"y{number}", None, element) for number in range(2)]
    graph = helper.make_graph(nodes, "g", [value("x", shape, kind)], outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def quantized(opset: int) -> onnx.ModelProto:
    """A product with a weight behind DequantizeLinear."""
    weights: Weights = {"q": drawn(12, 20).astype(np.int8), "scale": np.float32(0.1), "zero": np.int8(0)}
    nodes = [node("DequantizeLinear", ["q", "scale", "zero"], ["w"]), node("MatMul", ["x", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "g", [value("x", (4, 12))], [value("y")], [initializer(*one) for one in weights.items()]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def options() -> Iterator[dict[str, Any]]:
    """What changes the nodes that insert writes."""
    yield {}
    yield {"state_layout": "per-weight", "state_mode": "required", "power_iterations": 2}
    yield {"scale": "weight", "bound": 2.0, "clip": True}
    yield {"norm": "operator"}


def written(before: onnx.ModelProto, after: onnx.ModelProto) -> frozenset[str]:
    """The names of the nodes that a pass added."""
    known = {node.name for node in kernels.walk(before.graph)}
    return frozenset(node.name for node in kernels.walk(after.graph)) - known


def lacking(before: onnx.ModelProto, after: onnx.ModelProto, version: str) -> list[kernels.Missing]:
    names = written(before, after)
    assert names
    return kernels.missing(after, version, names)


# ConvTranspose of opset 22 got a CUDA kernel between these two; `--norm operator` of a convolution needs it. Up to
# opset 21 there is nothing that either lacks.
KNOWN = {(OLDEST, "ConvTranspose", 22)}


@pytest.mark.parametrize("opset", OPSETS)
def test_cuda_has_a_kernel_for_every_node_that_insert_writes(opset: int) -> None:
    found = []
    for number, (op, dtype) in enumerate(
        (op, dtype) for op in ("Conv", "ConvTranspose", "Gemm", "MatMul", "Gather") for dtype in DTYPES
    ):
        if opset < FIRST_OPSET[dtype]:
            continue
        chosen = [*options()]
        for kind in chosen if op in ("Conv", "MatMul") and dtype == "float64" else [chosen[(opset + number) % 4]]:
            size = LARGE if number % 2 else (20, 12)
            before = whole(op, opset, dtype, size=size)
            after = sn.insert(before, **kind).to_proto()
            for version, newest in NEWEST_OPSET.items():
                if opset <= newest:
                    found += [(version, kind, one) for one in lacking(before, after, version)]
    unknown = [one for one in found if (one[0], one[2].op, one[2].since) not in KNOWN]
    assert unknown == []


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_pads_that_differ_at_the_two_ends_do_not_send_what_insert_writes_to_the_cpu(op: str) -> None:
    """As TensorFlow's SAME makes them. Seen on a GPU: three nodes of models/keras_dcgan_discriminator.onnx."""
    before = whole(op, 17, "float32", strides=[2, 2], pads=[0, 0, 1, 1])
    assert lacking(before, sn.insert(before, norm="operator").to_proto(), NEWEST) == []


def test_a_transposed_convolution_that_cuda_leaves_to_the_cpu_is_found() -> None:
    model = whole("ConvTranspose", 17, "float32", pads=[0, 0, 1, 1])
    assert [one.op for one in kernels.missing(model, NEWEST)] == ["ConvTranspose"] * 2


@pytest.mark.parametrize("opset", [10, 13, 19, 21, 23, 25])
def test_cuda_has_a_kernel_for_what_insert_writes_of_a_quantized_weight(opset: int) -> None:
    before = quantized(opset)
    assert lacking(before, sn.insert(before).to_proto(), NEWEST) == []


@pytest.mark.parametrize("opset", [7, 13, 21, 25])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_fold_writes_no_node_that_the_model_had_no_like_of(opset: int, dtype: str) -> None:
    # One weight with two readers, of which one is to keep the original: fold copies the way to it.
    before = whole("MatMul", opset, dtype)
    element = before.graph.input[0].type.tensor_type.elem_type
    before.graph.node.insert(0, node("Transpose", ["w0"], ["turned"], name="turn", perm=[1, 0]))
    before.graph.node.insert(1, node("MatMul", ["turned", "z"], ["other"], name="other"))
    before.graph.input.append(value("z", (12, 3), element))
    before.graph.output.append(value("other", None, element))
    after = sn.fold(before, include=["^w"]).to_proto()
    assert kernels.missing(after, NEWEST) == []
    assert {one.op_type for one in after.graph.node} == {one.op_type for one in before.graph.node}


def test_an_operator_that_cuda_lacks_is_found() -> None:
    model = whole("MatMul", 17, "float32")
    model.graph.node.append(node("LpNormalization", ["y1"], ["n"], name="lacking"))
    model.graph.output.append(value("n"))
    assert kernels.missing(model, NEWEST) == [kernels.Missing("lacking", "LpNormalization", 1, "T=float")]
    model.graph.node[-1].op_type = "Relu"
    assert kernels.missing(model, NEWEST) == []


def test_a_branch_is_looked_at_too() -> None:
    body = helper.make_graph([node("Celu", ["x"], ["a"], name="inside")], "body", [], [value("a", None)])
    nodes = [node("If", ["flag"], ["y"], name="if", then_branch=body, else_branch=body)]
    graph = helper.make_graph(nodes, "g", [value("x", (2,)), value("flag", (), TensorProto.BOOL)], [value("y")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    assert {one.node for one in kernels.missing(model, NEWEST)} == {"if", "inside"}


def test_a_value_of_unknown_type_is_an_error() -> None:
    graph = helper.make_graph([node("Own", ["x"], ["h"], domain="own"), node("Relu", ["h"])], "g", [value("x")], [])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model.graph.node[1].name = "relu"
    with pytest.raises(LookupError, match="the type of 'h' is not known"):
        kernels.missing(model, NEWEST, frozenset({"relu"}))


def test_the_two_tables_agree() -> None:
    # onnxruntime writes ReduceL2 of bfloat16 out, as ReduceSum and Sqrt, where it has no kernel.
    written_out = {("ReduceL2", 18, "bfloat16")}
    floats = {"float", "double", "float16", "bfloat16"}
    for op, versions in kernels.table()[OLDEST].items():
        for since, rows in versions.items():
            asked = {dict(part.split("=") for part in row.split())["T"] for row in rows if " T=" in f" {row}"}
            asked |= {row.removeprefix("V=") for row in rows if row.startswith("V=")}
            asked &= floats
            declared = kernels.published(op, int(since)) & floats
            # bfloat16 is in onnx's own schemas later than in onnxruntime's kernels.
            differing = {(op, int(since), one) for one in asked ^ declared if asked} - written_out
            assert all(one == "bfloat16" and int(since) < 13 for _, _, one in differing), differing


# How the table is made


def test_every_operator_that_is_asked_for_is_in_the_table() -> None:
    for op in probe.OPERATORS:
        known = {str(since) for since in probe.versions(op) if since in OPSETS or since < OPSETS.start}
        assert set(kernels.table()[NEWEST][op]) == known, op
        for since in probe.versions(op):
            for one in probe.nodes(op, since):
                proto = probe.model(one, max(7, since))
                assert [node.op_type for node in proto.graph.node] == [op]


def test_a_provider_that_does_not_start_takes_nothing() -> None:
    (one, *_) = probe.nodes("Gemm", 13)
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        assert not probe.taken(probe.model(one, 13))


def test_the_table_is_rendered_with_a_line_for_each_version() -> None:
    text = kernels.TABLE.read_text(encoding="utf-8")
    assert rendered(kernels.table()) == text
    assert '"13": [ "T=float", "T=double", "T=float16", "T=bfloat16" ]' in text


@pytest.mark.skipif(
    any(shutil.which(tool) is None for tool in ("gcc", "nm", "readelf")), reason="needs gcc and binutils"
)
def test_a_library_that_wants_cuda_loads_over_the_pretended_one(tmp_path: Path) -> None:
    def compiled(source: str, library: Path, *more: str) -> None:
        library.with_suffix(".c").write_text(source, encoding="utf-8")
        command = ["gcc", "-shared", "-fPIC", "-w", "-o", str(library), str(library.with_suffix(".c")), *more]
        subprocess.run(command, check=True)

    # What to link against, with symbol versions as CUDA's; the provider is then loaded over others of the same names.
    real, wheel, fake = (tmp_path / name for name in ("real", "wheel", "fake"))
    for folder in (real, (wheel / PROVIDER).parent, fake):
        folder.mkdir(parents=True)
    for library, name in (("libcudart.so.13", "cudaMalloc"), ("libcublas.so.13", "cublasCreate_v2")):
        versions = real / f"{library}.map"
        versions.write_text(f"{library} {{ global: *; }};", encoding="utf-8")
        own = f"-Wl,-soname,{library}", f"-Wl,--version-script={versions}"
        compiled(f"int {name}(void) {{ return 99; }}", real / library, *own)
    compiled("int cuInit(void) { return 99; }", real / "libcuda.so.1", "-Wl,-soname,libcuda.so.1")
    wants = "int cudaMalloc(); int cublasCreate_v2(); int cuInit(); int *p, *q;\n"
    wants += "int works(void) { return cudaMalloc(&p, 8L) + cublasCreate_v2(&q) + cuInit() == 0 && p && q && *p == 0; }"
    compiled(wants, wheel / PROVIDER, *map(str, real.glob("lib*.so.*[0-9]")), "-Wl,--no-as-needed", "-Wl,-z,now")
    build(wheel, fake)
    script = f"import ctypes; print(ctypes.CDLL({str(wheel / PROVIDER)!r}).works())"
    environment = {**os.environ, "LD_LIBRARY_PATH": str(fake)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"
