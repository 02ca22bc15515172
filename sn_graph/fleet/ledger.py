"""Ledger: the JSON lines of a run, one a file, appended as each is done, read again where the run goes on.

A line is on the disk before the next file is counted as done. What a kill has cut off in the middle of a line is taken
away by the next run.
"""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sn_graph.errors import EnvironmentUnavailable, UsageError
from sn_graph.model import note_in_place, open_ordinary, require_ordinary

Line = dict[str, Any]

# Ends that the same file may not come to again: a full disk, a missing package, a fault of ours, an interruption.
_PASSING = frozenset({4, 70, 130})


def fingerprint(path: Path, beside: Mapping[str, Path]) -> tuple[str, dict[str, str]]:
    """Return the sha256 of a file, and of each that belongs to it, by name. Raises OSError where one can't be read."""
    return _sha256(path), {name: _sha256(each) for name, each in beside.items()}


def _sha256(path: Path) -> str:
    with open_ordinary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Ledger:
    """A file of JSON lines that this process alone appends to.

    Args:
        path: The file; it is made where there is none.

    Raises:
        EnvironmentUnavailable: It can't be read or written, or another run writes to it.
        UsageError: It holds something else than such lines.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o644)
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            try:
                require_ordinary(os.fstat(self._file))
            except OSError as error:
                raise self._unwritable(error) from None
            self._lock()
            self.lines = self._read()
        except BaseException:
            os.close(self._file)
            raise
        note_in_place(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def _unwritable(self, error: OSError) -> EnvironmentUnavailable:
        return EnvironmentUnavailable(f"{self._path} can't be written", str(error.strerror), "give another file")

    def _lock(self) -> None:
        with contextlib.suppress(ImportError):
            import fcntl

            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise EnvironmentUnavailable(
                    f"{self._path} can't be written", "another run writes to it", "wait for its end, or give another"
                ) from None

    def _read(self) -> list[Line]:
        with open(self._file, "rb", closefd=False) as file:
            content = file.read()
        whole = content[: content.rfind(b"\n") + 1]
        found = []
        for number, text in enumerate(whole.splitlines(), 1):
            try:
                line = json.loads(text)
            except (ValueError, RecursionError):
                line = None
            if not isinstance(line, dict) or "input" not in line:
                raise UsageError(
                    f"{self._path} is not a list of results", f"because of its line {number}", "give another file"
                )
            found.append(line)
        if len(whole) < len(content):
            if not content[len(whole) :].lstrip().startswith(b"{"):
                raise UsageError(f"{self._path} is not a list of results", do="give another file")
            os.ftruncate(self._file, len(whole))
        return found

    def append(self, line: Line) -> None:
        """Write a line, and wait until the disk has it. Raises EnvironmentUnavailable where that fails."""
        content = memoryview(json.dumps(line, allow_nan=False).encode() + b"\n")
        try:
            os.lseek(self._file, 0, os.SEEK_END)
            while content:
                content = content[os.write(self._file, content) :]
            os.fsync(self._file)
        except OSError as error:
            raise EnvironmentUnavailable(
                f"{self._path} can't be written", str(error.strerror), "make room; the run then goes on where it was"
            ) from None
        self.lines.append(line)

    def known(self, command: str, options: Mapping[str, Any]) -> dict[str, Line]:
        """Return the last line of each input that the same command with the same options came to an end with."""
        wanted = json.loads(json.dumps(options))
        return {
            line["input"]: line
            for line in self.lines
            if line.get("command") == command and line.get("options") == wanted and not _is_passing(line)
        }


def _is_passing(line: Line) -> bool:
    error = line.get("error")
    return isinstance(error, dict) and error.get("exit_code") in _PASSING
