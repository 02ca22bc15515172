"""Compare what two checkouts of sn-graph do, byte for byte: before and after a change that must change nothing.

    git clone . ../before && git -C ../before checkout COMMIT
    python -m tools.compare_checkouts ../before .                      # six minutes on one core
    python -m tools.compare_checkouts ../before . --limit 20           # only the smallest models: half a minute
    python -m tools.compare_checkouts ../before . --limit 0 --startup  # no models; the time of a command's start

Both run the same commands on the models of models/, on the public ones of ../shared/corpus where that folder is, and on
a small Keras model where the extra `keras` is installed. Exit code, stdout, stderr and every file that a command writes
must be equal; errors too. Ends with exit code 1 where something is not.

A process for each checkout imports sn_graph once and runs all commands, for most of them take less time than a start.
The two take turns, so one core is enough. Last digits can depend on the number of BLAS's threads, and names on the
order of sets, so both have one thread and the same hash seed: what varies with those is not found here.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import importlib
import io
import json
import multiprocessing
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = (ROOT / "models", ROOT.parent / "shared" / "corpus")
ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "COLUMNS": "120"}
# In the names of temporary files and folders, and in that of a data file whose plain name was taken.
RANDOM = re.compile(r"(?<=\.)[0-9a-f]{8}(?=\.(?:tmp|data)\b)|(?<=/tmp)[a-z0-9_]{8}\b")

# MODEL is the model's path. The other files lie in a folder that a model's commands share: some read what others wrote.
COMMANDS = """
inspect MODEL --json
inspect MODEL --json --sigma upper --plan plan.json
inspect MODEL --json --sigma upper --norm operator
inspect MODEL --verbose --html page.html
fold MODEL -o fold.onnx --json
fold MODEL -o power.onnx --json --sigma power --power-iterations 3
fold MODEL -o upper.onnx --json --sigma upper
fold MODEL -o operator.onnx --json --norm operator
fold MODEL -o torch.onnx --json --convention torch --save-as-external-data
fold MODEL -o planned.onnx --plan plan.json
insert MODEL -o insert.onnx --json
insert MODEL -o weight.onnx --json --state-layout per-weight --state-mode required --scale weight
insert MODEL -o exact.onnx --json --sigma exact --bound 2 --clip
insert MODEL -o stepped.onnx --json --norm operator
strip insert.onnx -o strip.onnx
fold insert.onnx -o bake.onnx --json
inspect insert.onnx --json
verify fold.onnx --json
verify MODEL fold.onnx
verify insert.onnx --state --json
"""
KERAS_COMMANDS = """
export-keras MODEL -o plain.onnx --json
export-keras MODEL -o fold.onnx --json --as fold
export-keras MODEL -o insert.onnx --json --as insert
fold plain.onnx -o planned.onnx --json --plan plain.plan.json
verify fold.onnx MODEL --json
verify insert.onnx MODEL --json --steps 3
"""
OTHER_COMMANDS = """
--version
--help
inspect --help
fold --help
insert --help
strip --help
verify --help
export-keras --help
doctor
doctor --json
fold absent.onnx -o out.onnx
fold --sigma roughly
"""

Outcome = dict[str, str]
"""A command's exit code, stdout and stderr, and under the name of each file that it wrote, a digest."""


@dataclass(frozen=True)
class Case:
    """Commands that are run in one folder, on one model or on none."""

    name: str
    commands: str
    model: Path | None = None


def redirect_streams(log: Path) -> None:
    """Send to a file what libraries print below Python, with the time of day in it."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def serve(checkout: Path, log: Path, requests: Connection) -> None:
    """Run a checkout's commands in this process, one for each request."""
    redirect_streams(log)
    sys.path.insert(0, str(checkout))
    application = importlib.import_module("sn_graph.cli.app")
    for name in getattr(application, "_COMMANDS", ()):
        importlib.import_module(f"sn_graph.cli.{name}")
    with contextlib.suppress(EOFError):  # nothing more is asked for
        while True:
            folder, arguments = requests.recv()
            os.chdir(folder)
            answer = call(application.app, arguments)
            require_own_modules(checkout)
            requests.send(answer)


def call(app: Callable[..., object], arguments: list[str]) -> Outcome:
    """Run one command in this process; return how it ended and what it said."""
    out, err = io.StringIO(), io.StringIO()
    code = "0"
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(arguments, prog_name="sn-graph")
        except SystemExit as end:
            code = str(end.code or 0)
        except Exception as error:
            code = f"{type(error).__name__}: {error}"
    return {"exit code": code, "stdout": out.getvalue(), "stderr": err.getvalue()}


def require_own_modules(checkout: Path) -> None:
    """Raise ImportError where a module came from elsewhere: from an editable install, above all."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.partition(".")[0] == "sn_graph" and file and not Path(file).is_relative_to(checkout):
            raise ImportError(f"{name} was imported from {file}, which is not in {checkout}")


class Checkout:
    """A checkout, the process that runs its commands, and the folder in which they run."""

    def __init__(self, path: Path, home: Path, context: SpawnContext) -> None:
        self.path, self.seconds = path, 0.0
        self._home, self._log = home, home.with_suffix(".log")
        self._files: dict[str, str] = {}
        self._requests, theirs = context.Pipe()
        context.Process(target=serve, args=(path, self._log, theirs), daemon=True).start()
        theirs.close()  # or this process would not notice that the other has ended

    def clear(self) -> None:
        """Begin a case, with an empty folder."""
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir()
        self._files = {}

    def run(self, arguments: list[str]) -> Outcome:
        """Run one command. Raises SystemExit where the process does not live to answer."""
        begin = time.perf_counter()
        try:
            self._requests.send((self._home, arguments))
            said: Outcome = self._requests.recv()
        except (EOFError, OSError):
            log = self._log.read_text(errors="replace")[-3000:]
            raise SystemExit(f"the process of {self.path} ended in: sn-graph {' '.join(arguments)}\n{log}") from None
        self.seconds += time.perf_counter() - begin
        paths = [path for path in self._home.rglob("*") if path.is_file()]
        before, self._files = self._files, {str(path.relative_to(self._home)): digest(path) for path in paths}
        changed = dict(self._files.items() - before.items()) | dict.fromkeys(before.keys() - self._files, "removed")
        return {self._settled(part): self._settled(text) for part, text in (said | changed).items()}

    def _settled(self, text: str) -> str:
        """Return text without the names that differ between checkouts or between runs."""
        return RANDOM.sub("RANDOM", text.replace(str(self._home), "HOME").replace(str(self.path), "CHECKOUT"))


def digest(path: Path) -> str:
    """Return what tells the content of a file from another's."""
    content = path.read_bytes()
    if path.suffix == ".safetensors":  # the library writes the header's metadata in another order each time
        end = 8 + int.from_bytes(content[:8], "little")
        header = json.loads(content[8:end])
        header["__metadata__"] = sorted(header.get("__metadata__", {}).items())
        content = content[:8] + json.dumps(header).encode() + content[end:]
    return f"SHA-256 {hashlib.sha256(content).hexdigest()}"


def first_difference(before: str, after: str) -> str:
    """Return the first line that differs; of a long one its beginning."""
    pairs = zip_longest(before.splitlines(keepends=True), after.splitlines(keepends=True), fillvalue="")
    number, (old, new) = next((number, pair) for number, pair in enumerate(pairs, 1) if pair[0] != pair[1])
    return f"line {number}\n    before: {old[:400]!r}\n    after:  {new[:400]!r}"


def run_case(case: Case, before: Checkout, after: Checkout, codes: Counter[str]) -> dict[str, list[str]]:
    """Run a case's commands with both checkouts, and count the exit codes of the first.

    Returns:
        For each command whose outcomes are not equal, the parts that differ and how.
    """
    found = {}
    before.clear()
    after.clear()
    for command in case.commands.strip().splitlines():
        arguments = [str(case.model) if word == "MODEL" else word for word in command.split()]
        old, new = before.run(arguments), after.run(arguments)
        codes[old["exit code"]] += 1
        if old != new:
            pairs = {part: (old.get(part, "not written"), new.get(part, "not written")) for part in old | new}
            differ = [f"{part}: {first_difference(*pair)}" for part, pair in pairs.items() if pair[0] != pair[1]]
            found[f"{case.name}: sn-graph {command}"] = differ
    return found


def model_cases(folders: Sequence[Path], limit: int | None) -> list[Case]:
    """Return a case for each model of some folders, the smallest first."""
    found = []
    for folder in folders:
        if not folder.is_dir():
            print(f"skipped the models of {folder}: there is no such folder", file=sys.stderr)
        found += [(path.stat().st_size, path, folder) for path in folder.rglob("*.onnx")]
    return [Case(str(path.relative_to(folder)), COMMANDS, path) for _, path, folder in sorted(found)[:limit]]


def keras_cases(folder: Path, context: SpawnContext) -> list[Case]:
    """Return the case of a Keras model, which is made in a folder; none where it can't be."""
    path, log = folder / "critic.keras", folder / "keras.log"
    maker = context.Process(target=save_keras_model, args=(path, log))  # or TensorFlow would stay in this one
    maker.start()
    maker.join()
    if maker.exitcode:
        why = log.read_text(errors="replace").strip().rpartition("\n")[2]
        print(f"skipped export-keras: no Keras model can be made and exported ({why})", file=sys.stderr)
        return []
    return [Case(path.name, KERAS_COMMANDS, path)]


def save_keras_model(path: Path, log: Path) -> None:
    """Build a small Keras model, seeded, and save it; run in a process of its own."""
    redirect_streams(log)
    importlib.import_module("tf2onnx")  # which the export will need
    keras = importlib.import_module("keras")
    keras.utils.set_random_seed(0)
    normalized = keras.layers.SpectralNormalization
    x = image = keras.Input((8, 8, 3), name="image")
    x = normalized(keras.layers.Conv2D(6, 3, 2, "same"), name="down")(x)
    x = normalized(keras.layers.Conv2DTranspose(4, 4, 2, "same"), power_iterations=2, name="up")(x)
    x = keras.layers.LeakyReLU(negative_slope=0.2)(x)
    x = keras.layers.Dense(5, name="plain")(keras.layers.Flatten()(x))
    keras.Model(image, normalized(keras.layers.Dense(1), name="logits")(x)).save(path)


def print_startup(before: Path, after: Path, rounds: int) -> None:
    """Print how long two commands take as processes of their own, in one interleaved run."""
    smallest = min((ROOT / "models").glob("*.onnx"), key=lambda path: path.stat().st_size)
    for arguments in (["--version"], ["inspect", str(smallest)]):
        for checkout in (before, after):
            started(checkout, arguments)  # which may compile the modules
        times = [(started(before, arguments), started(after, arguments)) for _ in range(rounds)]
        print(f"sn-graph {arguments[0]}, seconds of {rounds} starts:")
        for name, of in (("min", min), ("median", statistics.median)):
            old, new = (of(column) for column in zip(*times, strict=True))
            print(f"  {name:6} {old:.3f} before, {new:.3f} after, ratio {new / old:.3f}")


def started(checkout: Path, arguments: list[str]) -> float:
    """Return the seconds that a command takes, Python's own start included."""
    program = "import sys; sys.argv[0] = 'sn-graph'; from sn_graph.cli import main; main()"
    # -P: or the current folder, which may be a checkout too, would come before PYTHONPATH.
    command = [sys.executable, "-P", "-c", program, *arguments]
    begin = time.perf_counter()
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(checkout)}, check=True, capture_output=True)
    return time.perf_counter() - begin


def main() -> int:
    """Compare two checkouts; return 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="a checkout")
    parser.add_argument("after", type=Path, help="another checkout")
    parser.add_argument("--models", type=Path, nargs="+", default=FOLDERS, metavar="FOLDER", help="instead of the two")
    parser.add_argument("--limit", type=int, metavar="N", help="only the N smallest models")
    parser.add_argument("--startup", type=int, nargs="?", const=9, metavar="ROUNDS", help="measure starts too (9)")
    options = parser.parse_args()
    os.environ.update(ENVIRONMENT)
    context, codes, found = multiprocessing.get_context("spawn"), Counter[str](), dict[str, list[str]]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        on_models = keras_cases(folder, context) + model_cases([f.resolve() for f in options.models], options.limit)
        # Names of one length, or tables would not be equally wide.
        before = Checkout(options.before.resolve(), folder / "a", context)
        after = Checkout(options.after.resolve(), folder / "b", context)
        for number, case in enumerate([Case("no model", OTHER_COMMANDS), *on_models]):
            begin = time.perf_counter()
            new = run_case(case, before, after, codes)
            found |= new
            said = f"{len(new)} commands differ, {time.perf_counter() - begin:.1f} s"
            print(f"{number}/{len(on_models)} {case.name}: {said}", file=sys.stderr)
    for command, parts in found.items():
        print(command, *parts, sep="\n  ")
    equal = codes.total() - len(found)
    print(f"{codes.total()} commands on {len(on_models)} models: {equal} equal, {len(found)} not")
    print("exit codes before:", ", ".join(f"{count} of {code}" for code, count in sorted(codes.items())))
    print(f"seconds: {before.seconds:.1f} before, {after.seconds:.1f} after")
    if options.startup:
        print_startup(before.path, after.path, options.startup)
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
