"""Run models on the CPU and on CUDA, and write down how far they agree and which node ran where.

    python -m tools.cuda_parity                              # from the checkout; writes docs/parity-cuda.md
    python -m tools.cuda_parity --right cpu --output t.md    # the same without a GPU, to try this tool

Every model of models/ and a generated one per kind of weight-bearing op: outputs with TF32 off (compared by the
tolerances of `sn-graph verify`) and on (reported: TF32 keeps 10 bits), and the providers that onnxruntime's own
profile names. Ends with 0, with 1 where outputs differ or a generated op ran elsewhere, with 4 without the provider.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import math
import platform
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from sn_graph.errors import ModelError, SnGraphError
from sn_graph.model import Model
from sn_graph.runtime import ParityResult, Side, compare_sides, make_feeds, run_named
from sn_graph.runtime.providers import PROVIDERS, require_provider

ROOT = Path(__file__).resolve().parents[1]
SHORT = {full: short for short, full in PROVIDERS.items()}


@dataclass(frozen=True)
class Case:
    """A model to run `steps` times; `op` must run on the right provider where it is given."""

    name: str
    model: Model
    op: str | None = None
    steps: int = 1


@dataclass(frozen=True)
class Row:
    """What came of a case: TF32 off and on, and how many nodes of which op ran on which provider."""

    case: Case
    off: ParityResult
    on: ParityResult
    placement: Counter[tuple[str, str]]
    placed: bool

    @property
    def ok(self) -> bool:
        return self.off.ok and self.placed


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    try:
        for provider in (options.left, options.right):
            require_provider(provider)
        rows, failures = measure(cases(options.models), options.left, options.right, options.seed)
    except SnGraphError as error:
        print(f"cuda_parity: {error}", file=sys.stderr)
        return error.exit_code
    command = shlex.join(["python", "-m", "tools.cuda_parity", *(sys.argv[1:] if arguments is None else arguments)])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(render(rows, failures, options.left, options.right, command), encoding="utf-8")
    bad = [row.case.name for row in rows if not row.ok] + [name for name, _ in failures]
    print(f"{len(rows) + len(failures) - len(bad)} of {len(rows) + len(failures)} models agree; wrote {options.output}")
    return 1 if bad else 0


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="cuda_parity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--left", choices=PROVIDERS, default="cpu", help="the provider to compare with")
    parser.add_argument("--right", choices=PROVIDERS, default="cuda", help="the provider under test")
    parser.add_argument("--models", type=Path, default=ROOT / "models", help="folder of .onnx files")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "parity-cuda.md")
    parser.add_argument("--seed", type=int, default=0, help="of the inputs")
    return parser.parse_args(arguments)


def cases(models: Path) -> Iterator[Case]:
    """All there is to run; a later feature adds its cases here."""
    for path in sorted(models.glob("*.onnx")):
        yield Case(f"models/{path.name}", Model.open(path))
    yield from op_cases()


def measure(todo: Iterator[Case], left: str, right: str, seed: int) -> tuple[list[Row], list[tuple[str, str]]]:
    """A row for each case, and name and reason of those that would not run."""
    rows, failures = [], []
    for case in todo:
        try:
            rows.append(measure_one(case, left, right, seed))
        except ModelError as error:
            failures.append((case.name, str(error)))
    return rows, failures


def measure_one(case: Case, left: str, right: str, seed: int) -> Row:
    feeds = make_feeds(case.model, seed=seed, steps=case.steps)
    reference = Side(case.model, f"{case.name} ({left})", left)
    tested = Side(case.model, f"{case.name} ({right})", right)
    with tempfile.TemporaryDirectory() as folder:
        session = tested.open(profile_prefix=Path(folder) / "profile")
        for feed in feeds:
            run_named(session, feed)
        placement = count_nodes(json.loads(Path(session.end_profiling()).read_text(encoding="utf-8")))
    return Row(
        case,
        off=compare_sides(reference, tested, feeds),
        on=compare_sides(reference, replace(tested, tf32=True), feeds),
        placement=placement,
        placed=case.op is None or {p for p, op in placement if op == case.op} == {right},
    )


def count_nodes(profile: Sequence[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """(provider, op) of each node in an onnxruntime profile, counted once however often it ran."""
    seen = {
        (event["name"], args.get("node_index"), SHORT.get(args["provider"], args["provider"]), args["op_name"])
        for event in profile
        if event.get("cat") == "Node" and (args := event.get("args", {})).get("provider")
    }
    return Counter((provider, op) for _, _, provider, op in seen)


# A model per kind of op


def op_cases() -> Iterator[Case]:
    rng = np.random.default_rng(0)

    def weight(*shape: int) -> NDArray[np.float32]:
        return (rng.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))).astype(np.float32)

    image = [2, 32, 24, 24]
    kinds: list[tuple[str, str, list[int], NDArray[Any], dict[str, Any]]] = [
        ("Conv 1-D", "Conv", [2, 32, 64], weight(48, 32, 5), {}),
        ("Conv 2-D, stride 2", "Conv", image, weight(48, 32, 4, 4), {"strides": [2, 2], "pads": [1] * 4}),
        ("Conv 3-D", "Conv", [2, 16, 8, 12, 12], weight(24, 16, 3, 3, 3), {}),
        ("Conv 2-D, 4 groups", "Conv", image, weight(48, 8, 3, 3), {"group": 4}),
        ("Conv 2-D, depthwise", "Conv", image, weight(64, 1, 3, 3), {"group": 32}),
        ("Conv 2-D, dilation 2", "Conv", image, weight(48, 32, 3, 3), {"dilations": [2, 2]}),
        ("ConvTranspose 1-D", "ConvTranspose", [2, 32, 64], weight(32, 16, 4), {"strides": [2]}),
        ("ConvTranspose 2-D", "ConvTranspose", image, weight(32, 16, 4, 4), {"strides": [2, 2], "pads": [1] * 4}),
        ("ConvTranspose 2-D, 2 groups", "ConvTranspose", image, weight(32, 16, 4, 4), {"group": 2}),
        *(
            (
                f"Gemm, transA={a}, transB={b}",
                "Gemm",
                [256, 16] if a else [16, 256],
                weight(128, 256) if b else weight(256, 128),
                {"transA": a, "transB": b},
            )
            for a in (0, 1)
            for b in (0, 1)
        ),
        ("MatMul, weight right", "MatMul", [4, 16, 256], weight(256, 128), {}),
        ("MatMul, weight left", "MatMul", [4, 256, 16], weight(128, 256), {"left": True}),
        ("MatMul, weight of rank 3", "MatMul", [4, 16, 256], weight(4, 256, 128), {}),
        ("Gather", "Gather", [2, 50], weight(1000, 64), {"left": True}),
    ]
    for name, op, shape, array, attributes in kinds:
        yield Case(name, Model.open(op_model(op, shape, array, **attributes)), op)
    for name, op, shape, array, attributes in kinds:
        if name in ("Conv 2-D, stride 2", "ConvTranspose 2-D", "MatMul, weight right", "Gather") or op == "Gemm":
            half = Model.open(op_model(op, shape, array.astype(np.float16), **attributes))
            yield Case(f"{name}, float16", half, op)
    for flag in (True, False):
        model = Model.open(if_model(weight(256, 128), taken=flag))
        yield Case(f"If, captured weight, {'then' if flag else 'else'}", model, "MatMul")


def op_model(
    op: str, shape: Sequence[int], weight: NDArray[Any], *, left: bool = False, **attributes: Any
) -> onnx.ModelProto:
    """One node of `op` with `weight` as its second input, or its first (`left`)."""
    element = helper.np_dtype_to_tensor_dtype(weight.dtype)
    node = helper.make_node(op, ["w", "x"] if left else ["x", "w"], ["y"], name=op, **attributes)
    graph = helper.make_graph(
        [node],
        op,
        [helper.make_tensor_value_info("x", TensorProto.INT64 if op == "Gather" else element, shape)],
        [helper.make_tensor_value_info("y", element, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def if_model(weight: NDArray[np.float32], *, taken: bool) -> onnx.ModelProto:
    """Both branches multiply by the outer graph's weight; which one runs depends on the input, not on a constant."""

    def branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)])

    then = branch("a", [helper.make_node("MatMul", ["x", "w"], ["a"], name="then")])
    other = branch(
        "b", [helper.make_node("MatMul", ["x", "w"], ["c"], name="else"), helper.make_node("Neg", ["c"], ["b"])]
    )
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("ReduceMax", ["squares"], ["most"], keepdims=0),
        helper.make_node("Greater" if taken else "Less", ["most", "zero"], ["flag"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=then, else_branch=other, name="If"),
    ]
    graph = helper.make_graph(
        nodes,
        "If",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [16, 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.array(0, np.float32), "zero")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


# The record


def render(rows: Sequence[Row], failures: Sequence[tuple[str, str]], left: str, right: str, command: str) -> str:
    agreeing = f"{sum(row.ok for row in rows)} of {len(rows) + len(failures)}"
    lines = [
        f"# {left.upper()} against {right.upper()}",
        "",
        f"Written by `{command}` on {date.today().isoformat()}; `tools/cuda_parity.py` says how.",
        "",
        f"- GPU: {gpu_name() if 'cuda' in (left, right) else 'none used'}",
        f"- {versions()}",
        f"- {agreeing} models agree within the tolerances of `sn-graph verify`, TF32 off",
        f"- worst max|a−b| / max|b|: {worst(rows, 'off')} with TF32 off, {worst(rows, 'on')} with TF32 on",
        "",
        f"| model | steps | ok | max abs | rel | max abs, TF32 | rel, TF32 | nodes on {right} | nodes elsewhere |",
        "|---|---|---|---|---|---|---|---|---|",
        *(render_row(row, right) for row in rows),
    ]
    if failures:
        lines += ["", "Not run:", "", *(f"- {name}: {reason}" for name, reason in failures)]
    return "\n".join(lines) + "\n"


def render_row(row: Row, right: str) -> str:
    verdict = "yes" if row.ok else "no: outputs" if row.placed else f"no: {row.case.op} ran elsewhere"
    here = [(op, count) for (provider, op), count in sorted(row.placement.items()) if provider == right]
    there = [(f"{op} ({p})", count) for (p, op), count in sorted(row.placement.items()) if p != right]
    figures = [figure for result in (row.off, row.on) for figure in (largest(result, "max_abs"), largest(result))]
    cells = [row.case.name, str(row.case.steps), verdict, *(f"{figure:.1e}" for figure in figures)]
    return "| " + " | ".join([*cells, listing(here), listing(there)]) + " |"


def listing(counts: Sequence[tuple[str, int]]) -> str:
    return ", ".join(name if count == 1 else f"{count} {name}" for name, count in counts) or "–"


def largest(result: ParityResult, field: str = "max_rel_norm") -> float:
    """The largest figure of all outputs and steps; NaN, where no number can tell, beats any."""
    return float(np.max([getattr(one, field) for one in result.comparisons], initial=0.0))


def worst(rows: Sequence[Row], field: str) -> str:
    if not rows:
        return "–"
    row = max(rows, key=lambda row: np.nan_to_num(largest(getattr(row, field)), nan=np.inf))
    return f"{largest(getattr(row, field)):.1e} ({row.case.name})"


def gpu_name() -> str:
    query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown (nvidia-smi gives no answer)"
    return ", driver ".join(part.strip() for part in answer.splitlines()[0].split(","))


def versions() -> str:
    wanted = ("onnxruntime-gpu", "onnxruntime", "onnx", "numpy")
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions() if dist.name}
    packages = [f"{name} {installed[name]}" for name in wanted if name in installed]
    return ", ".join([*packages, f"Python {platform.python_version()}", platform.system()])


if __name__ == "__main__":
    sys.exit(main())
