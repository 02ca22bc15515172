"""Which tools take the default of an inserted state for a constant, and so freeze it?

    pip install '.[cpu,graphsurgeon]' onnxslim onnxsim onnxoptimizer onnxscript onnx-ir onnxconverter-common \
        openvino sympy
    npm install onnxruntime-node onnxruntime-web
    python -m tools.frozen_state --output docs/frozen-state.md

Inserts into a model of models/ in every state mode and layout, hands it to every tool that is installed, and runs what
it made with u, with -u and with another u: u.next must move. Ends with exit code 1 where a tool does not do what
`sn_graph.proofs.liveness.TOOLS` says of it.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, get_args

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from sn_graph.api import insert
from sn_graph.choices import StateLayoutChoice, StateModeChoice
from sn_graph.proofs import TOOLS, Tool

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "models" / "keras_dcgan_discriminator.onnx"
X = "image"
MODES: tuple[StateModeChoice, ...] = get_args(StateModeChoice)
LAYOUTS: tuple[StateLayoutChoice, ...] = get_args(StateLayoutChoice)

Arrays = dict[str, NDArray[Any]]
Feeds = Sequence[Mapping[str, NDArray[Any]]]


class InputGone(Exception):
    """The state can't be fed."""


@dataclass(frozen=True)
class Outcome:
    """What a tool did with a model: "alive", "frozen", "refused" or "absent"; `error` is max|Δ u.next|."""

    word: str
    detail: str = ""
    error: float | None = None


# Runtimes: u.next of each feed, by the name of u


def states(feeds: Feeds) -> list[str]:
    """Return the names of the vectors u."""
    return [name for name in feeds[0] if name != X]


def require_inputs(feeds: Feeds, known: set[str]) -> None:
    """Raise InputGone where a u is not among the inputs `known`."""
    gone = [name for name in states(feeds) if name not in known]
    if gone:
        some = "" if len(gone) == len(states(feeds)) else f"{len(gone)} of {len(states(feeds))} u are "
        raise InputGone(f"{some}no input any more")


def run_onnxruntime(model: Path, feeds: Feeds) -> list[Arrays]:
    """Run onnxruntime on each feed."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    known = {value.name for value in [*session.get_inputs(), *session.get_overridable_initializers()]}
    require_inputs(feeds, known)
    names = [f"{name}.next" for name in states(feeds)]
    return [dict(zip(states(feeds), session.run(names, dict(feed)), strict=True)) for feed in feeds]


def run_openvino(model: Path, feeds: Feeds) -> list[Arrays]:
    """Run OpenVINO on each feed."""
    openvino = importlib.import_module("openvino")
    compiled = openvino.Core().compile_model(openvino.Core().read_model(model), "CPU")
    require_inputs(feeds, {name for port in compiled.inputs for name in port.get_names()})
    results = [compiled(dict(feed)) for feed in feeds]
    return [{name: np.array(result[f"{name}.next"]) for name in states(feeds)} for result in results]


SCRIPT = """
const require = (await import("node:module")).createRequire(process.argv[2] + "/");
const [name, model, feeds] = process.argv.slice(3);
const fs = require("fs");
const ort = require(name);
ort.env.logLevel = "fatal";
if (name.endsWith("web")) ort.env.wasm.numThreads = 1;
const source = name.endsWith("web") ? new Uint8Array(fs.readFileSync(model)) : model;
const session = await ort.InferenceSession.create(source);
const results = [];
for (const feed of JSON.parse(fs.readFileSync(feeds))) {
  const tensors = {};
  for (const [key, [shape, data]] of Object.entries(feed)) tensors[key] = new ort.Tensor("float32", data, shape);
  try {
    const outputs = await session.run(tensors);
    results.push(Object.keys(feed).filter((key) => key + ".next" in outputs)
      .map((key) => [key, outputs[key + ".next"].dims, Array.from(outputs[key + ".next"].data)]));
  } catch (error) {
    if (Object.keys(feed).every((key) => session.inputNames.includes(key))) throw error;
    console.log(JSON.stringify({ gone: error.message }));
    process.exit(0);
  }
}
console.log(JSON.stringify({ results }));
"""


def run_node(package: str, modules: Path, model: Path, feeds: Feeds) -> list[Arrays]:
    """Run an npm package of onnxruntime on each feed."""
    with tempfile.TemporaryDirectory() as name:
        script, file = Path(name) / "run.mjs", Path(name) / "feeds.json"
        script.write_text(SCRIPT, encoding="utf-8")
        lists = [{key: [array.shape, array.reshape(-1).tolist()] for key, array in feed.items()} for feed in feeds]
        file.write_text(json.dumps(lists), encoding="utf-8")
        command = ["node", *map(str, (script, modules, package, model, file))]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    answer = json.loads(done.stdout.splitlines()[-1])
    if "gone" in answer:
        raise InputGone("no input: to feed it is an error")
    return [
        {name: np.array(data, np.float32).reshape(shape) for name, shape, data in result}
        for result in answer["results"]
    ]


# Converters: from file to file


def save_optimized(level: str, source: Path, target: Path) -> None:
    """Let onnxruntime save the model as it optimizes it."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    options.optimized_model_filepath = str(target)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])


def quantize(source: Path, target: Path) -> None:
    """Quantize the weights."""
    importlib.import_module("onnxruntime.quantization").quantize_dynamic(source, target)


def preprocess(source: Path, target: Path) -> None:
    """Prepare for static quantization."""
    importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process(source, target)


def graphsurgeon(source: Path, target: Path) -> None:
    """Import and export."""
    surgeon = importlib.import_module("onnx_graphsurgeon")
    onnx.save(surgeon.export_onnx(surgeon.import_onnx(onnx.load(source))), target)


def slim(source: Path, target: Path) -> None:
    """Run onnxslim."""
    onnx.save(importlib.import_module("onnxslim").slim(onnx.load(source)), target)


def simplify(source: Path, target: Path) -> None:
    """Run onnxsim."""
    onnx.save(importlib.import_module("onnxsim").simplify(onnx.load(source))[0], target)


def optimize(module: str, source: Path, target: Path) -> None:
    """Run the optimizer of a module."""
    onnx.save(importlib.import_module(module).optimize(onnx.load(source)), target)


def remove_initializers(source: Path, target: Path) -> None:
    """Take initializers out of the inputs."""
    ir = importlib.import_module("onnx_ir")
    passes = importlib.import_module("onnx_ir.passes.common")
    ir.save(passes.RemoveInitializersFromInputsPass()(ir.load(source)).model, target)


def convert_version(source: Path, target: Path) -> None:
    """Convert to opset 21."""
    onnx.save(importlib.import_module("onnx.version_converter").convert_version(onnx.load(source), 21), target)


def halve(source: Path, target: Path) -> None:
    """Convert to float16."""
    common = importlib.import_module("onnxconverter_common")
    onnx.save(common.float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def converted(convert: Callable[[Path, Path], None], model: Path, feeds: Feeds) -> list[Arrays]:
    """Run onnxruntime on what a converter makes."""
    with tempfile.TemporaryDirectory() as name:
        convert(model, Path(name) / "converted.onnx")
        return run_onnxruntime(Path(name) / "converted.onnx", feeds)


def ways(modules: Path) -> dict[str, Callable[[Path, Feeds], list[Arrays]]]:
    """Return how each tool of TOOLS is used."""
    converters: dict[str, Callable[[Path, Path], None]] = {
        "onnxruntime, saved at level basic": partial(save_optimized, "BASIC"),
        "onnxruntime, saved at level extended": partial(save_optimized, "EXTENDED"),
        "onnxruntime, saved at level all": partial(save_optimized, "ALL"),
        "onnxruntime quantize_dynamic": quantize,
        "onnxruntime quant_pre_process": preprocess,
        "onnx-graphsurgeon, import and export": graphsurgeon,
        "onnxslim": slim,
        "onnxsim": simplify,
        "onnxoptimizer": partial(optimize, "onnxoptimizer"),
        "onnxscript optimizer": partial(optimize, "onnxscript.optimizer"),
        "onnx-ir RemoveInitializersFromInputs": remove_initializers,
        "onnx version_converter": convert_version,
        "onnxconverter-common float16": halve,
    }
    return {
        "onnxruntime": run_onnxruntime,
        **{name: partial(converted, convert) for name, convert in converters.items()},
        "OpenVINO": run_openvino,
        "onnxruntime-node": partial(run_node, "onnxruntime-node", modules),
        "onnxruntime-web": partial(run_node, "onnxruntime-web", modules),
    }


# The measurement


def make_models(folder: Path) -> dict[tuple[StateModeChoice, StateLayoutChoice], Path]:
    """Write the inserted model in every mode and layout."""
    paths = {(mode, layout): folder / f"{mode}-{layout}.onnx" for mode in MODES for layout in LAYOUTS}
    for (mode, layout), path in paths.items():
        insert(MODEL, state_mode=mode, state_layout=layout).save(path)
    return paths


def make_feeds(model: Path) -> list[Arrays]:
    """Return three feeds of the same x: with u, with -u, and with another u."""
    inputs = {value.name: value.type.tensor_type.shape.dim for value in onnx.load(model).graph.input}
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 32, 32, 3), np.float32)
    u, other = (
        {name: rng.standard_normal((dims[0].dim_value, 1), np.float32) for name, dims in inputs.items() if name != X}
        for _ in range(2)
    )
    return [{X: x, **state} for state in (u, {name: -value for name, value in u.items()}, other)]


def judge(run: Callable[[Path, Feeds], list[Arrays]], model: Path) -> Outcome:
    """Hand a model to a tool, and say whether the state lives in what came of it."""
    feeds = make_feeds(model)
    try:
        results = run(model, feeds)
    except InputGone as gone:
        return Outcome("frozen", str(gone))
    except ImportError as error:  # of something that the tool needs itself
        return Outcome("absent", str(error))
    except Exception as error:  # whatever a tool raises
        text = re.sub(r"\S*/(?=\w+\.onnx)|^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", " ".join(str(error).split()))
        return Outcome("refused", re.sub(r" '[^']*sn_u'", " of the state", text))
    first, flipped, other = results
    still = [name for name in states(feeds) if name not in first or np.array_equal(first[name], flipped[name])]
    if still:
        return Outcome("frozen", "what is fed is ignored")
    expected = run_onnxruntime(model, feeds)[2]
    return Outcome("alive", "", max(float(np.max(np.abs(other[name] - expected[name]))) for name in states(feeds)))


def worse(packed: Outcome, per_weight: Outcome) -> Outcome:
    """Return one outcome for both layouts: the worse, with the layout where they differ."""
    if packed.word == per_weight.word:
        return packed
    order = ("absent", "alive", "frozen", "refused")
    worst, layout = max((packed, LAYOUTS[0]), (per_weight, LAYOUTS[1]), key=lambda one: order.index(one[0].word))
    return Outcome(worst.word, f"only {layout}: {worst.detail}", worst.error)


def version(tool: Tool, modules: Path) -> str | None:
    """Return the installed version of a tool, None where it is absent."""
    if tool.registry == "npm":
        manifest = modules / "node_modules" / tool.package / "package.json"
        if shutil.which("node") is None or not manifest.exists():
            return None
        return str(json.loads(manifest.read_text(encoding="utf-8"))["version"])
    try:
        return importlib.metadata.version(tool.package)
    except importlib.metadata.PackageNotFoundError:
        return None


def measure(modules: Path, only: Sequence[str] | None = None) -> dict[str, dict[StateModeChoice, Outcome]]:
    """Return what each tool does with each mode."""
    found: dict[str, dict[StateModeChoice, Outcome]] = {}
    with tempfile.TemporaryDirectory() as name:
        models = make_models(Path(name))
        runs = ways(modules)
        for tool in TOOLS:
            if only is not None and tool.name not in only:
                continue
            absent = version(tool, modules) is None
            found[tool.name] = {
                mode: Outcome("absent")
                if absent
                else worse(*(judge(runs[tool.name], models[mode, layout]) for layout in LAYOUTS))
                for mode in MODES
            }
            print(tool.name, found[tool.name], file=sys.stderr)
    return found


def disagreements(found: Mapping[str, Mapping[StateModeChoice, Outcome]]) -> list[str]:
    """Return a line for each tool that did not do what TOOLS says."""
    return [
        f"{tool.name}, {mode}: TOOLS says {getattr(tool, mode)}, found {outcome.word} {outcome.detail}".rstrip()
        for tool in TOOLS
        for mode, outcome in found.get(tool.name, {}).items()
        if outcome.word not in ("absent", getattr(tool, mode))
    ]


# The record

INTRODUCTION = """# Tools that freeze the state

A model that `insert` wrote takes its vectors u as an input. With `--state-mode default` the input has an initializer of
the same name as its default. Some tools take that for a constant: the model that they write still runs, but never
iterates again. With `--state-mode required` there is no default that could be mistaken.

- **alive**: u.next follows the u that is fed;
- **frozen**: it does not, because u is not an input any more, or because what is fed is ignored;
- **refused**: the tool fails, or what it writes can't be loaded.

`sn-graph verify MODEL --state` tells whether the state of any model is alive; `sn-graph doctor` lists this table with
what is installed. Insert after optimizing and converting, or with `--state-mode required`.
"""


def render(found: Mapping[str, Mapping[StateModeChoice, Outcome]], modules: Path, command: str) -> str:
    """Return the record."""
    lines = [
        INTRODUCTION,
        f"Found on {date.today().isoformat()} with `{command}`, Python {platform.python_version()}, "
        f"onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__}, on `models/{MODEL.name}` in both layouts. "
        "The last column is how far u.next, of length 1, is from onnxruntime's with the state required (OpenVINO "
        "computes in bfloat16 where the processor can).",
        "",
        "| tool | version | default | required | error |",
        "|---|---|---|---|---|",
    ]
    for tool in TOOLS:
        outcomes = found[tool.name]
        cells = [f"{one.word} ({one.detail})" if one.detail else one.word for one in outcomes.values()]
        error = outcomes["required"].error
        row = [tool.name, version(tool, modules) or "not installed", *cells, "" if error is None else f"{error:.0e}"]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try every tool and write the record; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--node", type=Path, default=ROOT, help="the folder that holds node_modules")
    parser.add_argument("--output", type=Path, help="write the record to this file")
    options = parser.parse_args(arguments)
    modules = options.node.resolve()
    found = measure(modules)
    text = render(found, modules, "python -m tools.frozen_state")
    if options.output is None:
        print(text)
    else:
        options.output.write_text(text, encoding="utf-8")
    wrong = disagreements(found)
    for line in wrong:
        print(f"frozen_state: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
