"""Messages: each command and option that any text of the sources names is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from sn_graph.cli import app
from tests.support.command_line import Cli
from tests.support.places import ROOT

COMMANDS = tuple(name for names in app.COMMANDS.values() for name in names)
OTHERS = {"--no-deps", "--version"}  # pip's, and the program's own


def texts() -> Iterator[str]:
    """Every string of the sources that a user may read: none of a module, class or function without a command."""
    for folder in ("sn_graph", "passes"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.relative_to(ROOT).parts[:2] == ("sn_graph", "passes"):
                continue
            tree = ast.parse(path.read_text(encoding="utf-8"))
            yield from (
                node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
            )


@pytest.fixture
def options(cli: Cli) -> set[str]:
    helps = "".join(cli(command, "--help").out for command in COMMANDS)
    return set(re.findall(r"--[a-z][a-z-]+", helps)) | OTHERS


def test_every_option_that_is_named_is_there(options: set[str]) -> None:
    named = {option for text in texts() for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*[a-z]", text)}
    assert named - options == set()


def test_every_command_that_is_named_is_there(cli: Cli) -> None:
    known = set(re.findall(r"^  ([a-z][a-z-]+)  ", cli("--help").out, re.MULTILINE))
    assert set(COMMANDS) <= known
    advice = r"\b(?:run|with) (?:`)?sn-graph ([a-z][a-z-]+)"
    example = r"^\s*sn-graph ([a-z][a-z-]+) \S+\.(?:onnx|keras)\b"
    found = (match for text in texts() for match in re.findall(f"(?m){advice}|{example}", text))
    named = {command for match in found for command in match if command}
    assert {"lift", "fold", "verify"} <= named
    assert named <= known
