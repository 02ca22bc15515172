"""Endings: how an error ends a command, as one line, as an exit code, and as data."""

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sn_graph.cli.console import print_json
from sn_graph.errors import EnvironmentUnavailable, SnGraphError, printable

_INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a fault of sn-graph itself


@dataclass(frozen=True)
class Failure:
    """Why a command ended, in the parts of `SnGraphError`, with the files that were written all the same."""

    what: str
    why: str
    do: str
    exit_code: int
    written: tuple[str, ...] = ()

    @property
    def line(self) -> str:
        """The one line that stderr gets."""
        told = " ".join(str(SnGraphError(self.what, self.why, self.do)).split())
        if not self.written:
            return told
        return f"{told} ({', '.join(self.written)} {'was' if len(self.written) == 1 else 'were'} written all the same)"

    def after(self, written: Sequence[Path]) -> "Failure":
        """Return the failure of a command that had put these files in place, but for those it speaks of anyway."""
        kept = tuple(str(path) for path in written if os.path.exists(path) and str(path) not in self.line)
        return replace(self, written=kept)

    def to_json(self) -> dict[str, Any]:
        """Return it as data."""
        parts = {"what": self.what, "why": self.why, "do": self.do}
        error: dict[str, Any] = {name: printable(part) for name, part in parts.items()}
        error["exit_code"] = self.exit_code
        if self.written:
            error["written"] = list(self.written)
        return error

    def print(self, known: Mapping[str, Any]) -> None:
        """Print what is known and the error as one JSON object; where stdout can't take it, stderr tells."""
        with contextlib.suppress(OSError):
            print_json({**known, "error": self.to_json()})


def failure_of(error: Exception) -> Failure:
    """Return how an error ends the command."""
    if isinstance(error, SnGraphError):
        return Failure(error.what, error.why, error.do, error.exit_code)
    what = " ".join(str(error).split())
    if isinstance(error, OSError):  # stdout, above all: a full disk behind a redirection
        why = error.strerror or what
        return Failure(
            "output can't be written", why, "make room, or send it elsewhere", EnvironmentUnavailable.exit_code
        )
    if isinstance(error, MemoryError):
        told = f"there is not enough memory ({what or 'no more said'})"
        return Failure(told, "", "run it where there is more", EnvironmentUnavailable.exit_code)
    told = f"internal error: {type(error).__name__}: {what}"
    return Failure(told, "", "run again with --debug and report it", _INTERNAL)
