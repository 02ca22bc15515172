"""Wrong files: every command ends with 3 in one line on each, and with an object under --json."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Cli, one_line
from tests.support.foreign_files import MODEL, foreign_files

# A checkpoint is read by its name alone, whatever the command makes of it, and is not wrong for all of them.
FILES = foreign_files()


def wrong(folder: Path, name: str) -> Path:
    path = folder / name
    if name == "long":
        return folder / f"{'a' * 300}.onnx"
    if name == "directory":
        path.mkdir()
    elif name != "missing":
        path.write_bytes(FILES[name][0])
    return path


def commands(path: Path, out: Path) -> Iterator[list[object]]:
    yield ["inspect", path]
    for command in ("fold", "insert", "lift", "strip", "export-keras"):
        yield [command, path, "-o", out]
    for name in ("fold", "insert", "lift", "strip"):
        yield ["run", name, path, "-o", out]
    yield ["verify", path]
    yield ["verify", MODEL, path]
    yield ["verify", path, MODEL]
    yield ["verify", path, "--state"]
    yield ["certify", path]


@pytest.mark.parametrize("name", ["missing", "directory", "long", *FILES])
def test_every_command_says_so_in_one_line(name: str, cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "written"
    out.mkdir()
    path = wrong(tmp_path, name)
    for arguments in commands(path, out / "out.onnx"):
        line = one_line(cli(*arguments), 3)
        ended = cli(*arguments, "--json")
        assert one_line(ended, 3) == line
        error = ended.json["error"]
        assert error.keys() == {"what", "why", "do", "exit_code"}
        assert error["exit_code"] == 3
        assert error["what"] in line, arguments
        assert list(out.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_no_command_waits_for_a_pipe_or_reads_a_device(cli: Cli, tmp_path: Path) -> None:
    """Nothing of what a command reads is waited for without end, nor read without end."""
    pipe, out = tmp_path / "pipe", tmp_path / "out.onnx"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), Path("/dev/null")):
        beside: list[list[object]] = [
            ["fold", MODEL, "-o", out, "--plan", path],
            ["insert", MODEL, "-o", out, "--state", path],
            ["verify", MODEL, "--inputs", path],
            ["inspect", MODEL, "--against", path],
        ]
        for arguments in [*commands(path, out), *beside]:
            line = one_line(cli(*arguments), 3)
            assert str(path) in line, arguments
            assert "ordinary file" in line, arguments
        assert "can't be written: it is not an ordinary file" in one_line(cli("inspect", MODEL, "--jsonl", path), 4)
    assert not out.exists()


def test_one_wrong_file_among_several(cli: Cli, tmp_path: Path) -> None:
    """The others are done, the wrong ones are named, and the exit code is the largest."""
    good = [tmp_path / f"{name}.onnx" for name in "ab"]
    for path in good:
        path.write_bytes(MODEL.read_bytes())
    bad = [wrong(tmp_path, name) for name in ("text.onnx", "empty.onnx", "cut.onnx")]
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.onnx")
        bad.append(tmp_path / "pipe.onnx")
    for command in (["inspect"], ["fold", "-o", tmp_path / "out"], ["certify"]):
        ended = cli(command[0], good[0], *bad, good[1], *command[1:], "--json")
        assert ended.code == 3
        assert re.fullmatch(
            f"2 of {len(bad) + 2} files done\nsn-graph: error: {len(bad)} files failed: .*\n", ended.err
        )
        assert ended.json["totals"] == {"files": len(bad) + 2, "done": 2, "failed": len(bad)}
        assert ended.json["error"]["exit_code"] == 3
        errors = [each["error"] for each in ended.json["files"]]
        assert [error and error["exit_code"] for error in errors] == [None, *[3] * len(bad), None]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a.onnx", "b.onnx"]
