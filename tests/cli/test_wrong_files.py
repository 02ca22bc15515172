"""Wrong files: every command ends with 3 in one line on each, and with an object under --json."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command_line import Cli, one_line
from tests.support.foreign_files import MODEL, foreign_files

# A checkpoint is read by its name alone, whatever the command makes of it, and is not wrong for all of them.
FILES = foreign_files()


def wrong(folder: Path, name: str) -> Path:
    path = folder / name
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


@pytest.mark.parametrize("name", ["missing", "directory", *FILES])
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
