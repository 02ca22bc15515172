"""Documents: every block of code in them runs, and what they say is printed is printed.

A block in a language that is neither run nor read here fails; one that can't run here says so in a comment before it:
`<!-- skip: next "why" -->` or `<!-- skip: next if(condition, reason="why") -->`. `…` in an output stands for anything,
and alone on a line for any lines. Blocks of one document share a folder with a copy of the models, and Python's names.

With SN_GRAPH_UPDATE_DOCS=1 in the environment, outputs that are no longer right are written anew.
"""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from doctest import ELLIPSIS
from fcntl import ioctl
from pathlib import Path
from typing import Any

from tests.support.places import ROOT

COLUMNS = 100  # of the terminal that outputs are shown on
READ = ("text", "mermaid")  # languages of no code


def documents() -> list[Path]:
    """Everything that a user reads."""
    return [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        ROOT / "models" / "README.md",
        *sorted((ROOT / "docs").rglob("*.md")),
    ]


def blocks(text: str) -> Iterator[str]:
    """The language of each fenced block, "" where it names none."""
    inside: str | None = None
    for line in text.splitlines():
        found = re.match(r"\s*(```+|~~~+)\s*\{?([\w-]*)", line)
        if found and inside is None:
            inside = found[1]
            yield found[2]
        elif found and line.strip() == inside:
            inside = None


def parse(path: Path) -> Any:
    """The examples of a document, in order."""
    from sybil import Sybil
    from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

    ours = [CodeBlockParser(language=language, evaluator=run) for language, run in EVALUATORS.items()]
    python = PythonCodeBlockParser(doctest_optionflags=ELLIPSIS)
    return Sybil(parsers=[SkipParser(), python, *ours]).parse(path)


def surroundings(folder: Path) -> dict[str, str]:
    """What a command of a document finds: this checkout's `sn-graph`, and the models."""
    programs = folder / ".programs"
    if not programs.exists():
        programs.mkdir()
        for name, module in (("sn-graph", "sn_graph.cli"), ("python", None)):
            program = programs / name
            run = f"-m {module} " if module else ""
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {run}"$@"\n')
            program.chmod(0o755)
        shutil.copytree(ROOT / "models", folder / "models")
    path = os.pathsep.join([str(programs), os.environ["PATH"]])
    node = {"NODE_PATH": os.environ["SN_GRAPH_NODE_MODULES"]} if "SN_GRAPH_NODE_MODULES" in os.environ else {}
    plain = {"PATH": path, "PYTHONPATH": str(ROOT), "TERM": "xterm", "NO_COLOR": "1", "LC_ALL": "C.UTF-8"}
    # Processes that run tests side by side tell their children the size of a terminal.
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    return {**inherited, **plain, **node}


def run_shell(example: Any) -> str | None:
    """Run a script; it must end well."""
    done = _run(["bash", "-euo", "pipefail", "-c", _without_installs(example.parsed)])
    return None if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def _without_installs(script: str) -> str:
    """Leave out what pip is to bring, which is there."""
    return re.sub(r"^(\$ )?pip install [^&\n]*(&& )?", "", script, flags=re.MULTILINE)


def run_node(example: Any) -> str | None:
    """Run a program of JavaScript."""
    done = _run(["node", "--input-type=commonjs", "-e", example.parsed])
    return None if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def run_cpp(example: Any) -> str | None:
    """Compile a program against onnxruntime's headers and the library of its Python package, and run it."""
    import onnxruntime

    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    link, source = Path("libonnxruntime.so.1"), Path("block.cpp")  # the name that the library itself goes by
    if not link.exists():
        link.symlink_to(library)
    source.write_text(example.parsed, encoding="utf-8")
    include = os.environ["SN_GRAPH_ONNXRUNTIME_INCLUDE"]
    library_here = ["./libonnxruntime.so.1", "-Wl,-rpath,$ORIGIN"]
    compiled = _run(["g++", "-std=c++17", "-Wall", "-I", include, str(source), *library_here, "-o", "block"])
    done = _run(["./block"]) if compiled.returncode == 0 else compiled
    return None if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"


def read_json(example: Any) -> None:
    json.loads(example.parsed)


def read_yaml(example: Any) -> None:
    import yaml  # of the extra [test]

    yaml.safe_load(example.parsed)


def refuse(_example: Any) -> str:
    return "nothing here runs this language; say why in a skip"


def run_console(example: Any) -> str | None:
    """Run each command of a session on a terminal, and compare what it says."""
    for command, expected in sessions(example.parsed):
        shown = on_terminal(command)
        if not matches(expected, shown):
            if "SN_GRAPH_UPDATE_DOCS" in os.environ:
                _update(Path(example.path), f"$ {command}\n", expected, shown)
                continue
            return f"$ {command}\nis said to print\n{expected}\nbut prints\n{shown}"
    return None


def _update(path: Path, command: str, expected: str, shown: str) -> None:
    text = path.read_text(encoding="utf-8")
    said = "".join(f"{line.rstrip()}\n" for line in shown.strip("\n").splitlines())
    assert text.count(command + expected) == 1, f"{path}: a command with its output is there twice"
    path.write_text(text.replace(command + expected, command + said), encoding="utf-8")


def sessions(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a session, each with what it is said to print."""
    parts = re.split(r"^\$ ", text, flags=re.MULTILINE)
    for part in parts[1:]:
        command, _, said = part.partition("\n")
        while command.endswith("\\"):
            more, _, said = said.partition("\n")
            command = command[:-1] + more
        yield command, said


def on_terminal(command: str) -> str:
    """What a command prints to a terminal, and then to stderr."""
    folder = Path.cwd()
    terminal, end = pty.openpty()
    ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    said = b""
    shell = ["bash", "-c", command]
    with subprocess.Popen(
        shell, stdin=subprocess.DEVNULL, stdout=end, stderr=subprocess.PIPE, env=surroundings(folder), cwd=folder
    ) as process:
        os.close(end)
        try:
            while piece := os.read(terminal, 1 << 16):
                said += piece
        except OSError:  # how a terminal says that its last writer has gone
            pass
        errors = process.stderr.read() if process.stderr is not None else b""
    os.close(terminal)
    return re.sub(r"\x1b\[[0-9;]*m", "", (said + errors).decode()).replace("\r\n", "\n")


def matches(expected: str, shown: str) -> bool:
    """Whether an output is what was expected; blanks at the ends of lines and empty lines do not count.

    >>> matches("a … c\\n…\\nz", "a b c\\nd\\ne\\n\\nz \\n"), matches("a\\nz", "a\\nb\\nz")
    (True, False)
    """
    pattern = ""
    for line in _lines(expected):
        pattern += r"(?:.*\n)*?" if line.strip() == "…" else ".*?".join(map(re.escape, line.split("…"))) + r"\n"
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in _lines(shown))) is not None


def _lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.splitlines() if line.strip()]


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    folder = Path.cwd()
    return subprocess.run(
        command,
        timeout=240,
        cwd=folder,
        env=surroundings(folder),
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )


EVALUATORS: dict[str, Callable[[Any], str | None]] = {
    "sh": run_shell,
    "console": run_console,
    "javascript": run_node,
    "json": read_json,
    "yaml": read_yaml,
    "cpp": run_cpp,
    "csharp": refuse,
}
