"""The command line in this process, and as a program of its own; how it ended, and what it said."""

import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from sn_graph.cli.app import app


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} is not JSON")

        return json.loads(self.out, parse_constant=refuse)


Cli = Callable[..., Ended]


def invoke(*arguments: object) -> Ended:
    """Run `sn-graph ARGUMENTS…` in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app([str(argument) for argument in arguments], prog_name="sn-graph")
            code: Any = 0
        except SystemExit as end:
            code = end.code
    return Ended(code or 0, out.getvalue(), err.getvalue())


@pytest.fixture
def cli() -> Cli:
    return invoke


@pytest.fixture
def program() -> Cli:
    """Run `sn-graph ARGUMENTS…` as a process; `before` is Python run in it first."""

    def call(*arguments: object, before: str = "") -> Ended:
        code = f"{before}\nimport sys\nsys.argv[0] = 'sn-graph'\nfrom sn_graph.cli import main\nmain()"
        command = [sys.executable, "-c", code, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
        return Ended(done.returncode, done.stdout, done.stderr)

    return call


def one_line(ended: Ended, code: int) -> str:
    """The one line of an error of exit code 1, 3, 4 or 70."""
    assert ended.code == code, ended
    assert ended.err.count("\n") == 1, ended.err
    assert ended.err.startswith("sn-graph: error: ")
    return ended.err


def usage_line(ended: Ended) -> str:
    """What a usage error says, in one line however wide the terminal is."""
    assert ended.code == 2, ended
    assert ended.out == ""
    return " ".join(ended.err.replace("│", " ").split())
