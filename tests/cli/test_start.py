"""Starting and ending: signals at every moment, streams that are closed or full, inputs that change under us."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from sn_graph.model import Model, Storage
from tests.support.command_line import Cli, one_line, usage_line

START = "import sys; sys.argv[0] = 'sn-graph'; from sn_graph.cli import main; main()"
SLOW = """
import time
from sn_graph.model.files import StagedFiles
write = StagedFiles.write_model
def slow(self, chunks, tick):
    write(self, chunks, tick)
    print('written', flush=True)
    time.sleep(60)
StagedFiles.write_model = slow
"""
LATE = """
import time
import sn_graph.cli.conclusion as conclusion
def late(*arguments, **named):
    print('written', flush=True)
    time.sleep(60)
conclusion.conclude = late
"""


def started(*arguments: object, before: str = "", ignored: bool = False) -> subprocess.Popen[str]:
    def as_from_a_terminal() -> None:
        """Undo what nohup or a background job of a shell has set, which a child inherits."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-c", f"{before}\n{START}", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=as_from_a_terminal,
    )


@pytest.mark.parametrize(
    ("number", "code", "line"),
    [
        (signal.SIGINT, 130, "sn-graph: interrupted"),
        (signal.SIGTERM, 143, "sn-graph: stopped by SIGTERM"),
        (signal.SIGHUP, 129, "sn-graph: stopped by SIGHUP"),
    ],
)
def test_a_signal_while_writing_leaves_no_file_and_one_line(number: int, code: int, line: str, model: Path) -> None:
    with started("fold", model, "-o", model.with_name("out.onnx"), before=SLOW) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        assert len(os.listdir(model.parent)) == 2
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, f"{line}\n")
    assert os.listdir(model.parent) == ["model.onnx"]


def test_two_signals_at_once_are_one(model: Path) -> None:
    with started("fold", model, "-o", model.with_name("out.onnx"), before=SLOW) as process:
        assert process.stdout is not None
        process.stdout.readline()
        for _ in range(5):
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "sn-graph: interrupted\n")
    assert os.listdir(model.parent) == ["model.onnx"]


def test_an_interruption_behind_the_commit_says_that_the_output_was_written(model: Path, out: Path) -> None:
    with started("fold", model, "-o", out, "--no-verify", before=LATE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "written\n"
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, f"sn-graph: interrupted; {out} was written\n")
    onnx.checker.check_model(onnx.load(out))


IMPORTING = """
import builtins, os, signal
real = builtins.__import__
def interrupting(name, *rest, **named):
    if name == {module!r}:
        builtins.__import__ = real
        os.kill(os.getpid(), signal.SIGINT)
    return real(name, *rest, **named)
builtins.__import__ = interrupting
"""


@pytest.mark.parametrize(
    "module", ["ctypes", "click", "onnx", "numpy", "sn_graph.cli.render", "onnxruntime", "safetensors"]
)
def test_an_interruption_while_importing_is_one_line(module: str, model: Path) -> None:
    late = module == "sn_graph.cli.render"  # when a table is printed
    arguments = ["inspect", model] if late else ["fold", model, "-o", model.with_name("out.onnx")]
    with started(*arguments, before=IMPORTING.format(module=module)) as process:
        out, err = process.communicate(timeout=60)
    if module == "safetensors" and process.returncode == 0:
        return  # needed for state files only
    assert (process.returncode, out, err) == (130, "", "sn-graph: interrupted\n")
    assert os.listdir(model.parent) == ["model.onnx"]


def test_what_is_set_to_start_quickly_is_no_more_than_a_default(program: Cli, model: Path) -> None:
    tell = "print(gc.get_threshold()[0], os.environ['OPENBLAS_THREAD_TIMEOUT'], file=sys.stderr)"
    before = f"import atexit, gc, os, sys; atexit.register(lambda: {tell})"
    assert program("inspect", model, before=before).err.splitlines()[-1] == "100000 22"
    own = f"import os; os.environ['OPENBLAS_THREAD_TIMEOUT'] = '10'; {before}"
    assert program("inspect", model, before=own).err.splitlines()[-1] == "100000 10"


def test_nohup_is_obeyed(model: Path) -> None:
    slow = SLOW.replace("60", "1")
    with started("fold", model, "-o", model.with_name("out.onnx"), before=slow, ignored=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.skipif(sys.platform != "linux", reason="the second process is of Linux")
def test_the_work_dies_with_the_process_that_was_started(model: Path, out: Path) -> None:
    with started("fold", model, "-o", out, before=SLOW) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.kill()
        process.stdout.read()  # ends with the last who could write to it
    assert not out.exists()
    with started("fold", model, "-o", out) as process:
        process.communicate()
    assert sorted(os.listdir(model.parent)) == ["model.onnx", "out.onnx"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no full device to write to")
@pytest.mark.parametrize("redirection", [">/dev/full", ">&-"])
@pytest.mark.parametrize("form", ["", "--json"])
def test_a_report_that_cannot_be_printed_says_that_the_output_was_written(
    redirection: str, form: str, model: Path, out: Path
) -> None:
    command = f'"{sys.executable}" -m sn_graph.cli fold "{model}" -o "{out}" -q --no-verify {form} {redirection}'
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 4, done
    assert done.stderr.startswith("sn-graph: error: output can't be written: ")
    assert f"({out} was written all the same)" in done.stderr
    assert done.stderr.count("\n") == 1
    onnx.checker.check_model(onnx.load(out))


@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "0<&- 2>&-"])
def test_a_message_that_nobody_can_read_changes_nothing(redirection: str, model: Path, out: Path) -> None:
    command = f'"{sys.executable}" -m sn_graph.cli fold "{model}" -o "{out}" --no-verify --json {redirection}'
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 0
    assert done.stdout.startswith("{")
    assert done.stdout.endswith("}\n")
    onnx.checker.check_model(onnx.load(out))


def test_of_two_outputs_the_one_that_was_written_is_told(
    cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sn_graph.pages.write_page", full)
    plan = model.with_name("plan.json")
    line = one_line(cli("inspect", model, "--plan", plan, "--html", model.with_name("a.html")), 4)
    assert f"({plan} was written all the same)" in line


def test_nothing_is_imported_before_an_interruption_is_caught() -> None:
    """What runs before `sn_graph.cli` is there to catch Ctrl-C would answer it with a traceback."""
    asked = "import sys; before = {*sys.modules}; import sn_graph; print(*sorted({*sys.modules} - before))"
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-S", "-c", asked], env={"PYTHONPATH": root}, stdout=subprocess.PIPE, text=True, check=True
    )
    assert set(done.stdout.split()) <= {"sn_graph", "sn_graph.lazy", "sn_graph.version", "types"}


def large_model(path: Path) -> Path:
    """Write a model whose weights, 3 × 64 kB, are in a data file."""
    rng = np.random.default_rng(0)
    weights = [numpy_helper.from_array(rng.standard_normal((128, 128), np.float32), f"w{i}") for i in range(3)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(3)]
    ends = [helper.make_tensor_value_info(f"x{i}", onnx.TensorProto.FLOAT, [1, 128]) for i in (0, 3)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    Model.open(proto).save(path, Storage.EXTERNAL)
    return path


CHANGED = """
import os
from sn_graph.model import Model
opened = Model.open.__func__
def change_behind(cls, source):
    model = opened(cls, source)
    Model.open = classmethod(opened)
    {change}
    return model
Model.open = classmethod(change_behind)
"""
CHANGES = {
    "cut": "os.truncate({path!r}, 4096)",
    "deleted": "os.unlink({path!r})",
    "replaced": "open({path!r} + '.x', 'wb').write(bytes(9)); os.replace({path!r} + '.x', {path!r})",
    "written to": "open({path!r}, 'r+b').write(b'12345678'); os.utime({path!r}, (1, 1))",
}


@pytest.mark.skipif(sys.platform != "linux", reason="who maps a file that is cut off is killed elsewhere")
@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect"],
        ["fold", "-o"],
        ["fold", "--no-verify", "-o"],
        ["insert", "-o"],
        ["lift", "-o"],
        ["verify"],
    ],
)
@pytest.mark.parametrize("change", CHANGES)
def test_an_input_that_changes_while_it_is_read_is_named(
    change: str, arguments: list[str], program: Cli, tmp_path: Path
) -> None:
    source = large_model(tmp_path / "large.onnx")
    data = source.with_name("large.onnx.data")
    before = CHANGED.format(change=CHANGES[change].format(path=str(data)))
    output = [source.with_name("out.onnx")] if "-o" in arguments else []
    line = one_line(program(arguments[0], source, *arguments[1:], *output, before=before), 4)
    assert str(data) in line
    left = set(os.listdir(tmp_path))
    assert left == ({"large.onnx"} if change == "deleted" else {"large.onnx", "large.onnx.data"})


@pytest.mark.parametrize("arguments", [["fold", "-o"], ["insert", "-o"], ["run", "fold", "-o"], ["strip", "-o"]])
@pytest.mark.parametrize("how", ["itself", "link", "hard link"])
def test_no_output_takes_the_place_of_the_weights(arguments: list[str], how: str, cli: Cli, tmp_path: Path) -> None:
    source = large_model(tmp_path / "source.onnx")
    data = source.with_name("source.onnx.data")
    content, place = data.read_bytes(), data
    if how != "itself":
        place = tmp_path / "other"
        place.symlink_to(data) if how == "link" else place.hardlink_to(data)
    *words, flag = arguments
    assert "would overwrite the weights that are read" in usage_line(cli(*words, source, flag, place))
    if words == ["fold"]:
        for flag in ("--plan", "--html"):
            assert "would overwrite the weights that are read" in usage_line(cli("inspect", source, flag, place))
    assert data.read_bytes() == content
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]


def test_a_plan_and_a_page_are_two_files(cli: Cli, model: Path) -> None:
    place = model.with_name("x")
    assert "--plan and --html are one file" in usage_line(cli("inspect", model, "--plan", place, "--html", place))


BROKEN_OFF = """
import os, signal, sys, time
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'onnxruntime':
            try:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(10)
            except SystemExit:
                raise ImportError('initialization failed') from None
sys.meta_path.insert(0, Finder())
"""
ENDING = """
import atexit, time
atexit.register(lambda: (print('ending', flush=True), time.sleep(1)))
"""


def test_what_a_library_makes_of_the_signal_is_not_told(model: Path) -> None:
    """An extension module turns the exception in its import into one of its own."""
    with started("fold", model, "-o", model.with_name("out.onnx"), before=BROKEN_OFF) as process:
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (143, "sn-graph: stopped by SIGTERM\n")


def test_a_library_that_dies_of_being_stopped_is_not_told(model: Path) -> None:
    """An exception in the start of a C++ library can end the process."""
    dying = "import sn_graph.cli.start as start, os; start._Stop.__call__ = lambda *_: os.abort()"
    with started("fold", model, "-o", model.with_name("out.onnx"), before=f"{dying}\n{SLOW}") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "sn-graph: interrupted\n")
    assert [path.name for path in model.parent.iterdir()] == [model.name]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_when_all_is_done_changes_nothing(number: signal.Signals, model: Path) -> None:
    """Python takes its handlers down before it ends, and the process would die of the signal."""
    with started("fold", model, "-o", model.with_name("out.onnx"), "--no-verify", before=ENDING) as process:
        assert process.stdout is not None
        while "ending" not in process.stdout.readline():
            pass
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err.count("\n")) == (0, 1), err
    assert model.with_name("out.onnx").exists()


def test_the_first_milliseconds(model: Path) -> None:
    """From when Python itself has started, an interruption is told last, without a traceback, whenever it comes.

    Before it may stand how far the command had come: what was written.
    """
    for delay in (0.15, 0.25, 0.4):
        with started("fold", model, "-o", model.with_name("out.onnx"), before="print('up', flush=True)") as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        if process.returncode:
            assert process.returncode == 130, err
            assert err.splitlines()[-1].startswith("sn-graph: interrupted")
            assert "Traceback" not in err
            assert "sn-graph: error" not in err
