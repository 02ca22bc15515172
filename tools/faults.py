"""Faults: kills, full disks, closed folders, second writers and inputs that are cut off, on every command that writes.

    python -m tools.faults                       # 500 kills, some minutes
    python -m tools.faults --kills 20 --only kill full   # a taste
    python -m tools.faults --models FOLDER       # on the models of a folder besides the two made here

Each trial runs a command of `sn-graph` in a folder of its own, over an output that is there, and lets something go
wrong. Then the output must load in onnx and be the old model or the new one, byte by byte of its tensors; what a
command writes beside it (a page, a plan, the lines and the JUnit file of many files) must be absent or whole; every
other file must be as it was; and once the command has run through, no file may be left that was not there before, but
the output's own. Prints a table of verdicts, the first of each kind of violation, and ends with 1 where there is one.

A signal that stops a command politely (INT, TERM, HUP) must end it with 130, 143 or 129 in one line, and without a
temporary file, or find it done. A kill comes at a random moment, or at the n-th call of os.replace, os.link, os.unlink,
os.fsync or os.open: a wrapper in the process counts its calls, and sends SIGKILL to itself. A full disk is a limit on
the size of files (RLIMIT_FSIZE).
"""

import argparse
import contextlib
import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import onnx
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from sn_graph.model import Model, Storage
from tools.bench.common import markdown_table

CALLS = ("replace", "link", "unlink", "fsync", "open")
COMMANDS = {
    "fold": ["fold", "{model}", "-o", "{out}", "--no-verify", "--sigma", "power"],
    "fold, proved": ["fold", "{model}", "-o", "{out}"],
    "fold, external": ["fold", "{model}", "-o", "{out}", "--no-verify", "--save-as-external-data"],
    "insert": ["insert", "{model}", "-o", "{out}", "--no-verify"],
    "strip": ["strip", "{inserted}", "-o", "{out}"],
    "run fold": ["run", "fold", "{model}", "-o", "{out}", "--no-verify"],
    "lift": ["lift", "{exported}", "-o", "{out}"],
    "inspect, plan": ["inspect", "{model}", "--plan", "{out}"],
    "inspect, page": ["inspect", "{model}", "--html", "{out}"],
    "insert, required": ["insert", "{model}", "-o", "{out}", "--state-mode", "required", "--no-verify"],
    "lift, insert": ["lift", "{exported}", "-o", "{out}", "--to", "insert", "--no-verify"],
    "fold, baked": ["fold", "{inserted}", "-o", "{out}", "--no-verify"],
    "fold, page": ["fold", "{model}", "-o", "{out}", "--no-verify", "--sigma", "power", "--html", "{folder}/page.html"],
    "fold, checkpoint": ["fold", "{checkpoint}", "-o", "{out}", "--no-verify"],
    "fold, many": [
        "fold",
        "{many}",
        "-o",
        "{folder}",
        "--jobs",
        "2",
        "--no-verify",
        "--sigma",
        "power",
        "--jsonl",
        "{folder}/done.jsonl",
        "--junit",
        "{folder}/junit.xml",
    ],
    "inspect, everything": [
        "inspect",
        "{model}",
        "--plan",
        "{out}",
        "--html",
        "{folder}/page.html",
        "--junit",
        "{folder}/junit.xml",
    ],
    "certify": ["certify", "{small}", "--budget", "1", "--html", "{folder}/page.html", "--witness", "{out}"],
    "session, bake": ["bake", "{inserted}", "{out}"],
    "session, state": ["save_state", "{inserted}", "{out}"],
}
BESIDE = {
    "fold, page": ("page.html",),
    "fold, many": ("second.onnx", "second.onnx.data", "done.jsonl", "junit.xml"),
    "inspect, everything": ("page.html", "junit.xml"),
    "certify": ("page.html",),
}
"""What a command writes beside its output."""
TEXTS = frozenset(
    {"inspect, plan", "inspect, page", "inspect, everything", "session, state", "certify", "fold, checkpoint"}
)
"""The commands whose output is no model, and a file by itself."""
SESSION = """
import sys, numpy as np, sn_graph as sn
method, model, out = sys.argv[1:]
session = sn.StatefulSession(model, providers=["CPUExecutionProvider"])
session.run(None, {name.name: np.ones([1, 384], np.float32) for name in session.get_inputs()})
try:
    getattr(session, method)(out)
except sn.errors.SnGraphError as error:
    sys.exit(print(f"sn-graph: error: {error}", file=sys.stderr) or error.exit_code)
"""
START = "import sys; sys.argv[0] = 'sn-graph'; from sn_graph.cli import main; main()"
KILL = """
import os, signal
real, left = os.{call}, [{turn}]
def deadly(*arguments, **named):
    left[0] -= 1
    if left[0] < 0 and "sn_graph.model" in __import__("sys").modules:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*arguments, **named)
os.{call} = deadly
"""
CUT = """
import os
from sn_graph.model import Model
from sn_graph.model.checkpoint import Checkpoint
def cut_behind(kind):
    opened = kind.open.__func__
    def first(cls, source):
        found = opened(cls, source)
        kind.open = classmethod(opened)
        os.truncate({path!r}, {size})
        return found
    kind.open = classmethod(first)
cut_behind(Model)
cut_behind(Checkpoint)
"""
PATIENCE = 120.0  # seconds for a command
ENVIRONMENT = {**os.environ, "SOURCE_DATE_EPOCH": "0"}  # pages tell the minute that they were made in


@dataclass
class Verdicts:
    """What came of the trials: counts by fault, command and verdict, and what was wrong."""

    counts: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def add(self, fault: str, command: str, verdict: str, violation: str | None = None) -> None:
        """Count a trial; a violation is kept in words."""
        self.counts[fault, command, verdict if violation is None else "VIOLATION"] += 1
        if violation is not None:
            self.wrong.append(f"{fault}, {command}: {violation}")
            print(self.wrong[-1], file=sys.stderr, flush=True)


@dataclass(frozen=True)
class Place:
    """A folder to try in: an output, and files that are somebody else's; and the folder of what is read.

    There are a model, the same inserted, one to lift, a small one, a checkpoint, and a folder of two models.
    """

    folder: Path
    inputs: Path

    @property
    def model(self) -> Path:
        """The model that most commands read."""
        return self.inputs / "model.onnx"

    @property
    def out(self) -> Path:
        """The output, which every trial writes anew."""
        return self.folder / "out.onnx"

    def arguments(self, command: str) -> list[str]:
        """Return the arguments of a command here."""
        names = ("model", "inserted", "exported", "small")
        named = {name: self.inputs / f"{name}.onnx" for name in names} | {"out": self.out, "folder": self.folder}
        named |= {"checkpoint": self.inputs / "weights.safetensors", "many": self.inputs / "many"}
        return [part.format(**named) for part in COMMANDS[command]]

    def beside(self, command: str) -> list[Path]:
        """Return what a command writes beside its output."""
        return [self.folder / name for name in BESIDE.get(command, ())]

    def source(self, command: str) -> Path:
        """Return the model that a command reads."""
        found = Path(next(path for path in self.arguments(command)[1:] if Path(path) != self.out and "/" in path))
        return found / "out.onnx" if found.is_dir() else found


def make_model(path: Path, width: int, count: int, seed: int, storage: Storage) -> None:
    """Write a chain of MatMuls with `count` weights [width, width]."""
    rng = np.random.default_rng(seed)
    weights = [numpy_helper.from_array(rng.standard_normal((width, width), np.float32), f"w{i}") for i in range(count)]
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(count)]
    ends = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, [1, width]) for i in (0, count)]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    Model.open(proto).save(path, storage, sync=False)


def make_exported(path: Path, width: int, count: int, seed: int, storage: Storage) -> None:
    """Write the same chain with each weight divided by uᵀ(W v), as PyTorch's exporter leaves a spectral norm."""
    make_model(path, width, count, seed, Storage.INLINE)
    proto = onnx.load(path)
    graph = proto.graph
    nodes = list(graph.node)
    del graph.node[:]
    for place, product in enumerate(nodes):
        weight = numpy_helper.to_array(graph.initializer[place])
        u, _, v = np.linalg.svd(weight)
        names = [f"c{place}.weight_{part}" for part in ("orig", "u", "v")]
        graph.initializer[place].name = product.input[1] = names[0]
        graph.initializer.extend(
            numpy_helper.from_array(*each) for each in zip((u[:, 0], v[0]), names[1:], strict=True)
        )
        graph.node.extend(
            [
                helper.make_node("MatMul", [names[0], names[2]], [f"mv{place}"]),
                helper.make_node("MatMul", [names[1], f"mv{place}"], [f"sigma{place}"]),
                helper.make_node("Div", [names[0], f"sigma{place}"], [f"normal{place}"]),
                helper.make_node("MatMul", [product.input[0], f"normal{place}"], product.output),
            ]
        )
    Model.open(proto).save(path, storage, sync=False)


def places(root: Path, models: Path | None) -> Iterator[Place]:
    """Yield a place for each model: one inline, one external, and those of a folder."""
    sources: list[Storage | Path] = [Storage.INLINE, Storage.EXTERNAL]
    sources += sorted(models.glob("**/*.onnx")) if models else ()
    for number, source in enumerate(sources):
        folder = root / str(number)
        place = Place(folder / "o", folder / "in")
        (place.inputs / "many").mkdir(parents=True)
        place.folder.mkdir()
        if isinstance(source, Storage):
            make_model(place.model, 384, 6, number, source)
            make_exported(place.inputs / "exported.onnx", 384, 6, number, source)
        else:
            Model.open(source).save(place.model, sync=False)
            make_exported(place.inputs / "exported.onnx", 64, 2, number, Storage.INLINE)
        make_model(place.inputs / "small.onnx", 16, 2, number, Storage.INLINE)
        for file, width in (("out.onnx", 256), ("second.onnx", 320)):
            make_model(place.inputs / "many" / file, width, 4, number, Storage.EXTERNAL)
        rng = np.random.default_rng(number)
        weights = {f"layer{i}.weight": rng.standard_normal((257, 130), np.float32) for i in range(9)}
        safetensors.numpy.save_file(weights, place.inputs / "weights.safetensors")
        done = run(["insert", str(place.model), "-o", str(place.inputs / "inserted.onnx"), "--no-verify", "--force"])
        if done.returncode:
            print(f"left out: {done.stderr.strip()}", file=sys.stderr)
            continue
        yield place


def command_line(arguments: list[str], before: str = "") -> list[str]:
    """Return the command of a process; `before` is Python that is run in it first."""
    start = SESSION if arguments[0] in ("bake", "save_state") else START
    return [sys.executable, "-c", f"{before}\n{start}", *arguments]


def run(arguments: list[str], before: str = "", limit: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command, with files limited to `limit` bytes."""

    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return subprocess.run(
        command_line(arguments, before),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        timeout=PATIENCE,
        preexec_fn=limited,
        env=ENVIRONMENT,
    )


def content(output: Path) -> str:
    """Return the hash of a model and all its tensors, or of another output. Raises something where it is torn."""
    if (content := _text(output)) is not None:
        return hashlib.sha256(content.encode()).hexdigest()
    proto = onnx.load(output)
    for tensor in proto.graph.initializer:
        del tensor.external_data[:]  # where the data stand is another matter
        tensor.ClearField("data_location")
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def _text(output: Path) -> str | None:
    """Return what a plan, a page or a state says, None of a model; raise something where it is torn."""
    data = output.read_bytes()
    if output.suffix == ".jsonl":
        return json.dumps([json.loads(line) for line in data.splitlines()])
    if output.suffix == ".xml":
        return ElementTree.fromstring(data).tag
    if data[:2] == b"PK":  # a pair of inputs, which a search of a limited time finds
        return repr(sorted(np.load(output)))
    if data[:1] == b"{":
        return json.dumps(json.loads(data))
    if data[:1] == b"<":
        if not data.rstrip().endswith(b"</html>"):
            raise ValueError("a page without its end")
        return data.decode()
    if data[8:9] == b"{":  # the order of its header differs from one time to the next
        return repr(sorted((name, array.tobytes()) for name, array in safetensors.numpy.load(data).items()))
    return None


def old_output(place: Place, command: str = "fold") -> str:
    """Put an output and somebody's files into an empty folder, and return the output's content."""
    shutil.rmtree(place.folder)
    place.folder.mkdir()
    if command in TEXTS:
        place.out.write_text("{}")
    else:
        make_model(place.out, 64, 3, 9, Storage.EXTERNAL)
    for name in ("thesis.docx", "other.data", "out.onnx.fedcba98.data"):
        (place.folder / name).write_text(name)
    return content(place.out)


def violation(place: Place, allowed: set[str], before: dict[Path, str], command: str = "fold") -> str | None:
    """Return what is wrong with an output or with anybody else's file, None where nothing is."""
    for path in place.beside(command):
        try:
            if path.exists() and path.suffix not in (".data", ".jsonl"):  # the lines may end in a torn one after a kill
                content(path)
        except Exception as error:
            return f"{path.name} is torn: {type(error).__name__}: {str(error)[:200]}"
    try:
        there = content(place.out)
    except Exception as error:
        return f"the output is torn: {type(error).__name__}: {str(error)[:200]}"
    if there not in allowed:
        return "the output is neither the old model nor the new one"
    for path, digest in before.items():
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            return f"{path.name} was lost or changed"
    return None


def strangers(place: Place) -> dict[Path, str]:
    """Return the hashes of all files that no command may touch."""
    own = {place.out, place.out.with_name("out.onnx.data")}
    files = [*place.folder.iterdir(), *filter(Path.is_file, place.inputs.rglob("*"))]
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files if path not in own}


def leftovers(place: Place, kept: set[Path], command: str = "fold") -> str | None:
    """Return what is in the folder beside the outputs, their data files and what was there before."""
    used = {place.out.with_name(entry.value) for entry in _locations(place.out)} | {*place.beside(command)}
    left = set(place.folder.iterdir()) - kept - used - {place.out}
    return f"left behind: {', '.join(sorted(path.name for path in left))}" if left else None


def _locations(model: Path) -> Iterator[onnx.StringStringEntryProto]:
    if _text(model) is not None:
        return
    for tensor in onnx.load(model, load_external_data=False).graph.initializer:
        yield from (entry for entry in tensor.external_data if entry.key == "location")


def torn(place: Place, command: str) -> str | None:
    """Return which file beside the output is torn, or not there, behind a command that ran through."""
    for path in place.beside(command):
        if path.suffix == ".data":
            continue
        try:
            content(path)
        except Exception as error:
            return f"{path.name} is torn: {type(error).__name__}: {str(error)[:200]}"
    return None


# The trials


def expected(place: Place, command: str) -> tuple[str, float, Counter[str]]:
    """Run a command undisturbed; return the new content, its seconds, and how often it makes each call."""
    old_output(place, command)
    counted = "; ".join(f"real_{call} = os.{call}" for call in CALLS)
    report = place.folder.parent / "calls"
    wrappers = "".join(
        f"\ndef counting_{call}(*a, **n):\n    seen.append({call!r})\n    return real_{call}(*a, **n)\n"
        f"os.{call} = counting_{call}"
        for call in CALLS
    )
    before = f"import os, atexit; seen = []; {counted}{wrappers}\n" + (
        f"atexit.register(lambda: open({str(report)!r}, 'w').write(' '.join(seen)))"
    )
    started = time.monotonic()
    done = run(place.arguments(command), before)
    if done.returncode:
        raise RuntimeError(f"{command} of {place.model} ends with {done.returncode}: {done.stderr}")
    return content(place.out), time.monotonic() - started, Counter(report.read_text().split())


def after(place: Place, command: str, new: str, strange: dict[Path, str]) -> str | None:
    """Run the command through; return what is wrong then."""
    done = run(place.arguments(command))
    if done.returncode:
        return f"the next run ends with {done.returncode}: {done.stderr.strip()}"
    wrong = violation(place, {new}, strange, command) or leftovers(place, set(strange), command)
    return wrong or torn(place, command)


def kill(place: Place, command: str, verdicts: Verdicts, rng: random.Random, trials: int) -> None:
    """Kill a command at each call in turn, and at random moments."""
    new, seconds, calls = expected(place, command)
    points = [(call, turn) for call in CALLS for turn in range(calls[call])]
    for number in range(trials):
        old = old_output(place, command)
        strange = strangers(place)
        if number % 2 and points:
            call, turn = points[rng.randrange(len(points))]
            run(place.arguments(command), KILL.format(call=call, turn=turn))
            fault = f"kill at os.{call}"
        else:
            with subprocess.Popen(
                command_line(place.arguments(command)),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=ENVIRONMENT,
            ) as process:
                time.sleep(rng.uniform(0.2, 1.0) * seconds)
                process.send_signal(signal.SIGKILL)
            fault = "kill at a random moment"
        wrong = violation(place, {old, new}, strange, command)
        verdict = "old" if wrong is None and content(place.out) == old else "new"
        verdicts.add(fault, command, verdict, wrong or after(place, command, new, strange))


def stop(place: Place, command: str, verdicts: Verdicts, rng: random.Random, trials: int) -> None:
    """Stop a command politely at random moments: one line, its code, and nothing left, or it is done."""
    new, seconds, _ = expected(place, command)
    for number in range(trials):
        old = old_output(place, command)
        strange = strangers(place)
        sent, told = [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP")][
            number % 3
        ]
        line = command_line(place.arguments(command))
        with subprocess.Popen(
            line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
        ) as process:
            time.sleep(rng.uniform(0.1, 1.0) * seconds)
            process.send_signal(sent)
            said = process.communicate(timeout=PATIENCE)[1]
        wrong = violation(place, {old, new}, strange, command)
        if wrong is None and process.returncode and not command.startswith("session"):
            wrong = leftovers(place, {*strange, place.out.with_name("out.onnx.data")}, command)
            lines = [one for one in said.splitlines() if one.startswith("sn-graph: ")]
            if wrong is None and (process.returncode != 128 + sent or len(lines) != 1 or told not in lines[0]):
                wrong = f"ends with {process.returncode} of {sent.name}: {said}"
        verdict = "done" if not process.returncode else "stopped"
        verdicts.add(f"stop by {sent.name}", command, verdict, wrong or after(place, command, new, strange))


def full(place: Place, command: str, verdicts: Verdicts, rng: random.Random, trials: int) -> None:
    """Let the disk be full at some byte of the output."""
    new, _, _ = expected(place, command)
    largest = max(path.stat().st_size for path in place.folder.iterdir())
    for _ in range(trials):
        old = old_output(place, command)
        strange = strangers(place)
        done = run(place.arguments(command), limit=rng.randrange(1, largest))
        allowed = {old, new} if command in BESIDE else {old}
        kept = {*strange, place.out.with_name("out.onnx.data")}
        wrong = violation(place, allowed, strange, command) or leftovers(place, kept, command)
        lines = [one for one in done.stderr.splitlines() if one.startswith("sn-graph: error: ")]
        if wrong is None and (done.returncode != 4 or len(lines) != 1) and command != "fold, many":
            wrong = f"ends with {done.returncode}: {done.stderr}"
        for path in place.beside(command):
            if path.suffix in (".jsonl", ".xml"):  # they name the data file that could not be written, so that it stays
                path.unlink(missing_ok=True)
        verdicts.add("disk full", command, "old, 4", wrong or after(place, command, new, strange))


def closed(place: Place, command: str, verdicts: Verdicts, _rng: random.Random, _trials: int) -> None:
    """Let the folder be read-only; root may write there all the same, and then nothing is shown."""
    new, _, _ = expected(place, command)
    old = old_output(place, command)
    strange = strangers(place)
    place.folder.chmod(0o500)
    try:
        done = run(place.arguments(command))
    finally:
        place.folder.chmod(0o700)
    if done.returncode == 0 and os.geteuid() == 0:
        verdicts.add(
            "read-only folder", command, "not shown: root may write", violation(place, {new}, strange, command)
        )
        return
    wrong = violation(place, {old}, strange, command)
    verdicts.add("read-only folder", command, "old, 4", wrong or (None if done.returncode == 4 else done.stderr))


def two(place: Place, command: str, verdicts: Verdicts, rng: random.Random, trials: int) -> None:
    """Let two processes write one output at the same time."""
    new, seconds, _ = expected(place, command)
    for _ in range(max(1, trials // 2)):
        old_output(place, command)
        strange = strangers(place)
        line = command_line(place.arguments(command))
        first = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        time.sleep(rng.uniform(0.0, 0.2) * seconds)
        second = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        said = [process.communicate()[1] for process in (first, second)]
        wrong = violation(place, {new}, strange, command) or leftovers(place, set(strange), command)
        locked = command == "fold, many" and any("another run writes to it" in one for one in said)  # its lines
        if wrong is None and {first.returncode, second.returncode} != ({0, 4} if locked else {0}):
            wrong = f"they end with {first.returncode} and {second.returncode}: {said}"
        verdicts.add("two writers", command, "new, one data file", wrong)


def cut(place: Place, command: str, verdicts: Verdicts, rng: random.Random, trials: int) -> None:
    """Cut the input off while it is read."""
    new, _, _ = expected(place, command)
    if command.startswith("session"):
        return  # SIGBUS ends a process of the Python API: docs/security.md
    if command == "fold, many":
        verdicts.add("input cut off", command, "not tried: other processes read it, which can't be told when")
        return
    source = place.source(command)
    data = next((source.with_name(entry.value) for entry in _locations(source)), source)
    whole = data.read_bytes()
    for _ in range(trials):
        old = old_output(place, command)
        strange = strangers(place)
        size = rng.randrange(0, len(whole) // 2)
        done = run(place.arguments(command), CUT.format(path=str(data), size=size))
        data.write_bytes(whole)
        wrong = violation(place, {old}, strange, command) or leftovers(
            place, {*strange, place.out.with_name("out.onnx.data")}, command
        )
        if wrong is None and (done.returncode != 4 or done.stderr.count("\n") != 1 or str(data) not in done.stderr):
            wrong = f"ends with {done.returncode}: {done.stderr}"
        verdicts.add("input cut off", command, "old, 4, named", wrong or after(place, command, new, strange))


FAULTS = {"kill": kill, "stop": stop, "full": full, "closed": closed, "two": two, "cut": cut}


def main() -> None:
    """Try what the command line asks for, print the verdicts, and end with 1 where one is a violation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500, help="of all commands together")
    parser.add_argument("--trials", type=int, default=4, help="of each other fault, for each command and model")
    parser.add_argument("--only", nargs="*", choices=FAULTS, default=[*FAULTS])
    parser.add_argument("--commands", nargs="*", choices=COMMANDS, default=[*COMMANDS])
    parser.add_argument("--models", type=Path, help="a folder of models to try besides")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="where to work")
    options = parser.parse_args()
    verdicts, rng = Verdicts(), random.Random(options.seed)
    with tempfile.TemporaryDirectory(dir=options.folder) as root:
        tried = list(places(Path(root), options.models))
        kills = -(-options.kills // (len(tried) * len(options.commands)))
        with contextlib.suppress(KeyboardInterrupt):  # what was tried until then is told
            for place in tried:
                for command in options.commands:
                    for name in options.only:
                        trials = kills if name == "kill" else options.trials
                        FAULTS[name](place, command, verdicts, rng, trials)
    rows = [(*key, str(count)) for key, count in sorted(verdicts.counts.items())]
    print(markdown_table(("fault", "command", "verdict", "trials"), rows))
    print(f"\n{sum(verdicts.counts.values())} trials, {len(verdicts.wrong)} violations")
    sys.exit(1 if verdicts.wrong else 0)


if __name__ == "__main__":
    main()
