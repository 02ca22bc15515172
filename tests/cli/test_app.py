"""The command line as a whole: exit codes, one-line errors, usage, signals, pipes, what it imports."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sn_graph import __version__
from tests.support.command_line import Cli, one_line

USAGE = [
    ["nosuch"],
    ["--nosuch"],
    ["fold"],
    ["fold", "{model}"],
    ["fold", "-o", "{out}"],
    ["strip", "{model}", "more", "-o", "{out}"],
    ["fold", "{model}", "-o", "{out}", "--nosuch"],
    ["fold", "{model}", "-o", "{out}", "--sigma", "guess"],
    ["fold", "{model}", "-o", "{out}", "--power-iterations", "0"],
    ["fold", "{model}", "-o", "{out}", "--power-iterations", "x"],
    ["fold", "{model}", "-o", "{out}", "--seed", "-1"],
    ["fold", "{model}", "-o", "{out}", "--bound", "0"],
    ["fold", "{model}", "-o", "{out}", "--bound", "nan"],
    ["fold", "{model}", "-o", "{out}", "--convention", "jax"],
    ["fold", "{model}", "-o", "{out}", "--include", "("],
    ["fold", "{model}", "-o", "{out}", "--exclude", "["],
    ["fold", "{model}", "-o", "{out}", "--op-type", "Relu"],
    ["fold", "{model}", "-o", "{out}", "--rtol", "-1"],
    ["inspect"],
    ["inspect", "{model}", "--op-type", "relu"],
    ["inspect", "{model}", "--convention", ""],
    ["verify"],
    ["verify", "{model}", "--providers", "tpu"],
    ["verify", "{model}", "--providers", ","],
    ["verify", "{model}", "--steps", "0"],
    ["verify", "{model}", "--dim", "batch"],
    ["verify", "{model}", "--dim", "batch=0"],
    ["verify", "{model}", "--dim", "nosuch=2"],
    ["doctor", "more"],
]


@pytest.mark.parametrize("arguments", USAGE, ids=lambda arguments: " ".join(arguments))
def test_usage_errors_end_with_2_and_show_the_usage(arguments: list[str], cli: Cli, model: Path) -> None:
    out = model.with_name("out.onnx")
    ended = cli(*(argument.format(model=model, out=out) for argument in arguments))
    assert ended.code == 2
    assert ended.out == ""
    assert ended.err.startswith("Usage: sn-graph")
    assert "\nError: " in ended.err
    assert "Traceback" not in ended.err
    assert os.listdir(model.parent) == ["model.onnx"]


def spoil(path: Path, how: str) -> None:
    content = path.read_bytes()
    proto = onnx.load(path)
    if how == "missing":
        path.unlink()
    elif how == "folder":
        path.unlink()
        path.mkdir()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "text":
        path.write_text("<html>not found</html>")
    elif how == "noise":
        path.write_bytes(np.random.default_rng(0).bytes(500))
    elif how == "external":
        tensor = proto.graph.initializer[0]
        onnx.external_data_helper.set_external_data(tensor, "../../etc/passwd", 0, len(tensor.raw_data))
        tensor.ClearField("raw_data")
        path.write_bytes(proto.SerializeToString())
    elif how == "gone":
        tensor = proto.graph.initializer[0]
        onnx.external_data_helper.set_external_data(tensor, "nowhere.data", 0, len(tensor.raw_data))
        tensor.ClearField("raw_data")
        path.write_bytes(proto.SerializeToString())
    elif how == "nan":
        array = numpy_helper.to_array(proto.graph.initializer[0]).copy()
        array.reshape(-1)[:3] = np.nan
        proto.graph.initializer[0].raw_data = array.tobytes()
        path.write_bytes(proto.SerializeToString())


@pytest.mark.parametrize("how", ["missing", "folder", "empty", "cut", "text", "noise", "external", "gone", "nan"])
@pytest.mark.parametrize("command", ["inspect", "fold", "verify"])
def test_models_that_cannot_be_used_end_with_3_in_one_line(how: str, command: str, cli: Cli, model: Path) -> None:
    if how == "nan" and command == "verify":
        pytest.skip("a model with NaN runs")
    spoil(model, how)
    before = sorted(os.listdir(model.parent))
    output = ["-o", model.with_name("out.onnx")] if command == "fold" else []
    line = one_line(cli(command, model, *output), 3)
    assert "model.onnx" in line or ("weight 'conv.weight' holds 3 NaN values" in line and "--exclude" in line)
    assert sorted(os.listdir(model.parent)) == before


WRITERS = [["fold"], ["insert"], ["run", "fold"], ["run", "insert"]]


@pytest.mark.parametrize("where", ["nosuch/out.onnx", "."])
@pytest.mark.parametrize("command", WRITERS, ids=" ".join)
def test_a_place_that_cannot_be_written_ends_with_4(where: str, command: list[str], cli: Cli, model: Path) -> None:
    assert "choose another place" in one_line(cli(*command, model, "-o", model.parent / where), 4)
    assert os.listdir(model.parent) == ["model.onnx"]


@pytest.mark.parametrize("command", WRITERS, ids=" ".join)
def test_a_model_that_cannot_be_run_is_written_and_said_to_be_so(
    command: list[str], cli: Cli, model: Path, out: Path
) -> None:
    proto = onnx.load(model)
    proto.graph.node[3].domain = "odd"
    proto.opset_import.add(domain="odd", version=1)
    onnx.save(proto, model)
    ended = cli(*command, model, "-o", out, "--json")
    assert (ended.code, ended.json["verified"]) == (0, "structure")
    first, *more = ended.err.splitlines()
    assert first.startswith("verified by structure only: the original can't be run")
    assert len(more) == 1  # what of the model is skipped


@pytest.mark.parametrize("debug", [["--debug", "inspect"], ["inspect", "--debug"]])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(debug: list[str], cli: Cli, tmp_path: Path) -> None:
    ended = cli(*debug, tmp_path / "nosuch.onnx")
    assert ended.code == 3
    assert "Traceback (most recent call last)" in ended.err
    assert ended.err.splitlines()[-1].startswith("sn-graph: error: ")
    assert cli(*debug, tmp_path / "nosuch.onnx", "--op-type", "Relu").code in (2, 3)


def test_a_fault_of_our_own_is_one_line_too(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise IndexError("a\nb")

    monkeypatch.setattr("sn_graph.norms.inspect", fail)
    assert "internal error: IndexError: a b; run again with --debug and report it" in one_line(
        cli("inspect", model), 70
    )
    monkeypatch.setattr("sn_graph.norms.inspect", lambda *_, **__: (_ for _ in ()).throw(MemoryError()))
    assert "not enough memory" in one_line(cli("inspect", model), 4)


def test_version_wherever_it_stands(program: Cli, cli: Cli) -> None:
    assert program("--version").out == f"sn-graph {__version__}\n"
    assert cli("-v", "--version").out == f"sn-graph {__version__}\n"
    assert cli("--version", "fold").code == 0


def test_help_of_every_command_teaches(cli: Cli) -> None:
    root = cli("--help")
    assert root.code == 0
    for command in ("inspect", "fold", "verify", "doctor"):
        assert f"\n  {command}" in root.out
        ended = cli(command, "--help")
        assert ended.code == 0
        assert ended.err == ""
        assert "Usage: sn-graph" in ended.out
        assert cli(command, "-h").out == ended.out
    assert "Exit codes: 0 done" in root.out
    fold = " ".join(cli("fold", "--help").out.split())
    defaults = ("exact]", "auto, by the model's origin]", "1]", "1.0]", "as in MODEL]", "by type]", "random u]")
    for default in defaults:
        assert f"[default: {default}" in fold, default
    assert "sn-graph fold disc.onnx -o folded.onnx" in fold
    assert "[default: cpu]" in cli("verify", "--help").out
    assert cli().code == 2


@pytest.mark.parametrize("place", ["before", "after"])
def test_quiet_and_verbose_are_taken_on_both_sides_of_the_command(place: str, cli: Cli, model: Path) -> None:
    def call(flag: str) -> str:
        flags = [flag, "inspect", model] if place == "before" else ["inspect", model, flag]
        ended = cli(*flags)
        assert ended.code == 0
        assert "conv.weight" in ended.out
        return ended.err

    assert call("-q") == call("--quiet") == ""
    assert "computed in the graph" in call("-v")
    assert call("-v") == call("--verbose")


def test_importing_the_package_imports_no_framework(program: Cli, model: Path) -> None:
    check = "import sys; assert not {'onnxruntime', 'tensorflow', 'torch', 'scipy', 'rich'} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", f"import sn_graph; {check}"], check=False)
    assert done.returncode == 0
    assert program("fold", model, "-o", model.with_name("o.onnx"), "--no-verify", before=BLOCK).code == 0


BLOCK = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition('.')[0] in ('onnxruntime', 'tensorflow', 'torch'):
            raise ImportError(f'{name} is blocked')
sys.meta_path.insert(0, Block())
"""


def test_without_onnxruntime(program: Cli, model: Path) -> None:
    out = model.with_name("out.onnx")
    line = one_line(program("fold", model, "-o", out, before=BLOCK), 4)
    assert "onnxruntime" in line
    assert "pip install 'sn-graph[cpu]'" in line
    assert not out.exists()
    assert one_line(program("verify", model, before=BLOCK), 4)
    done = program("fold", model, "-o", out, "--no-verify", "--json", before=BLOCK)
    assert (done.code, done.json["verified"]) == (0, "no")
    assert program("inspect", model, before=BLOCK).code == 0


@pytest.mark.parametrize(("spoiled", "code"), [(False, 0), (True, 1)])
def test_a_reader_that_leaves_changes_nothing(spoiled: bool, code: int, model: Path) -> None:
    """`sn-graph verify … | true` ends as it would have, and without a complaint."""
    other = model.with_name("other.onnx")
    proto = onnx.load(model)
    if spoiled:
        proto.graph.initializer[0].raw_data = bytes(len(proto.graph.initializer[0].raw_data))
    onnx.save(proto, other)
    reader, writer = os.pipe()
    os.close(reader)
    start = "from sn_graph.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", start, "verify", model, other],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writer)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_where_sigma_cannot_be_encoded(model: Path) -> None:
    start = "from sn_graph.cli import main; main()"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-c", start, "inspect", model], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert b"conv.weight" in done.stdout


def test_starting_is_cheap(program: Cli) -> None:
    """Not a time, but what costs it: nothing but the standard library is imported for --version."""
    check = "import atexit, sys; atexit.register(lambda: print(sorted({'onnx', 'numpy', 'click'} & set(sys.modules))))"
    started = time.monotonic()
    assert program("--version", before=check).out.endswith("\n[]\n")
    assert time.monotonic() - started < 30


NEVER = {"pydantic", "typer", "rich", "onnxruntime", "tensorflow", "torch", "onnx.reference", "asyncio", "scipy"}
LIBRARIES = {"onnx", "numpy", "safetensors", "google.protobuf", "ml_dtypes", "logging"}
# Rooms, or what of a room brings the rest of it, that a plain model's norms and weights do not need.
ROOMS = {
    *("sn_graph.runtime", "sn_graph.certify", "sn_graph.fleet", "sn_graph.frontends", "sn_graph.pages"),
    *(
        "sn_graph.passes.insert",
        "sn_graph.passes.lift",
        "sn_graph.passes.checkpoint",
        "sn_graph.rewrite.insertion.writer",
    ),
    *("sn_graph.proofs.proving", "sn_graph.proofs.fold", "sn_graph.recognise.recognise", "sn_graph.report.page"),
    *("sn_graph.model.checkpoint.checkpoint", "sn_graph.model.remote.fetch", "sn_graph.spectral.lmi"),
    "sn_graph.spectral.convolution.convolution",
}
TELL = """
import atexit, sys
def tell():
    print('imported', sorted({unwanted!r} & set(sys.modules)), file=sys.stderr)
    print(sum(name.startswith('sn_graph') for name in sys.modules), file=sys.stderr)
atexit.register(tell)
"""


@pytest.mark.parametrize(
    ("arguments", "unwanted", "own"),
    [
        (["--help"], NEVER | LIBRARIES | ROOMS, 15),
        (["fold", "--help"], NEVER | LIBRARIES | ROOMS, 20),
        (["inspect", "{model}", "--json"], NEVER | ROOMS | {"safetensors", "sn_graph.passes.fold"}, 115),
        (["inspect", "{model}"], NEVER | ROOMS | {"safetensors", "sn_graph.passes.fold"}, 115),
        (["fold", "{model}", "-o", "{out}", "--no-verify"], NEVER | ROOMS | {"safetensors"}, 125),
    ],
    ids=["help", "help of a command", "inspect as data", "inspect", "fold"],
)
def test_what_is_not_used_is_not_imported(
    arguments: list[str], unwanted: set[str], own: int, program: Cli, out: Path
) -> None:
    """Modules are counted, and not seconds: a machine that is busy makes any time too long.

    `tools.bench.start` measures. A module of ours costs about a third of a millisecond, its dataclasses above all.
    """
    model = Path(__file__).parents[2] / "models" / "keras_dcgan_discriminator.onnx"
    given = [one.format(model=model, out=out) for one in arguments]
    ended = program(*given, before=TELL.format(unwanted=unwanted))
    *_, imported, count = ended.err.splitlines()
    assert all(importlib.util.find_spec(name) for name in ROOMS)
    assert (ended.code, imported) == (0, "imported []")
    assert int(count) <= own
