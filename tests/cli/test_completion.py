"""Completion: what the shells read, and what they are answered."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.command_line import Cli, usage_line


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_script_for_each_shell(shell: str, cli: Cli) -> None:
    ended = cli("completion", shell)
    assert ended.code == 0
    assert f"_SN_GRAPH_COMPLETE={shell}_complete" in ended.out
    assert cli("completion", shell, "--json").json == {"shell": shell, "script": ended.out.rstrip()}


def test_another_shell_is_a_usage_error(cli: Cli) -> None:
    assert "'nosh' is not one of 'bash', 'zsh', 'fish'" in usage_line(cli("completion", "nosh"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("sn-graph ver", ["plain,verify"]),
        ("sn-graph fold --strict --dry", ["plain,--dry-run"]),
        ("sn-graph fold model.onnx --norm m", ["plain,matrix"]),
        ("sn-graph inspect mod", ["file,mod"]),
        ("sn-graph strip model.onnx -o ou", ["file,ou"]),
        ("sn-graph completion f", ["plain,fish"]),
    ],
)
def test_what_is_typed_is_completed(words: str, expected: list[str]) -> None:
    asked = {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" ")), "_SN_GRAPH_COMPLETE": "bash_complete"}
    command = [sys.executable, "-m", "sn_graph"]
    done = subprocess.run(command, env={**os.environ, **asked}, capture_output=True, text=True, check=False)
    assert done.stdout.split() == expected, done
