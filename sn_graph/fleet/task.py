"""Tasks: one file brought here, worked on, and its results put where they belong; the line that tells of it."""

import contextlib
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from sn_graph.errors import EnvironmentUnavailable, ModelError, SnGraphError, printable
from sn_graph.fleet.inputs import Input
from sn_graph.fleet.ledger import Line, fingerprint
from sn_graph.model.remote import Fetched, fetched, fetched_slice, files_beside, is_url, publish
from sn_graph.progress import Progress, silent

_INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a fault of sn-graph itself


@dataclass(frozen=True)
class Ending:
    """How the work on a file came to an end.

    Attributes:
        answer: What is known, as the command's `--json` prints it.
        error: {"what", "why", "do", "exit_code"}; None where all went well.
    """

    answer: Mapping[str, Any]
    error: Mapping[str, Any] | None = None


class Work(Protocol):
    """What is done to each file. It is pickled, because other processes and machines do it."""

    @property
    def command(self) -> str:
        """What it is called."""

    @property
    def options(self) -> Mapping[str, Any]:
        """All that its results depend on besides the file, as JSON."""

    def __call__(self, path: Path, output: Path | None, progress: Progress) -> Ending:
        """Do it to a file, write to `output`, and tell how it ended."""


@runtime_checkable
class DivisibleWork(Work, Protocol):
    """Work that can be done to the weights of a checkpoint one by one."""

    def parts(self, path: Path) -> Sequence[tuple[str, int]]:
        """Return the name of each part and its bytes; none where the file is done as a whole."""

    def of_part(self, name: str) -> Work:
        """Return the work on one part."""

    def joined(self, path: Path, endings: Sequence[Ending]) -> Ending:
        """Return the ending of the whole from those of all parts, in their order."""


@dataclass(frozen=True)
class Task:
    """The work on one file.

    Attributes:
        input: The file.
        work: What is done.
        known: The line of an earlier run; where the file is still the same, nothing is done.
        part: The part of the file that is worked on.
        size: Bytes that are read, for progress and for the order.
        base: The folder that relative paths start from, where it may not be that of the process that does it.
    """

    input: Input
    work: Work
    known: Line | None = None
    part: str | None = None
    size: int = 0
    base: str = ""

    def place(self, location: str) -> str:
        """Return a path from the task's own base, or a URL as it is."""
        return location if is_url(location) else os.path.join(self.base, location)


@dataclass(frozen=True)
class Division:
    """A file whose parts are to be worked on one by one.

    Attributes:
        parts: Their names and bytes.
        digests: The file's sha256, and those of the files beside it, where they had to be known.
    """

    parts: Sequence[tuple[str, int]]
    digests: tuple[str, dict[str, str]] | None


@dataclass(frozen=True)
class Unchanged:
    """A file that is still what the line of an earlier run tells of."""

    line: Line


Result = Line | Division | Ending | Unchanged
"""A file's line; its parts; of a part, how it ended; or that nothing was to do."""


def perform(task: Task, progress: Progress = silent, *, divide: bool = False) -> Result:
    """Do a task; errors become part of what is returned.

    Args:
        task: What is to do.
        progress: Told what the work tells of.
        divide: Whether a file may be given back to be done in parts.
    """
    begin = time.monotonic()
    try:
        if task.part is not None:
            with _part_at_hand(task.place(task.input.location), task.part) as path:
                return task.work(path, None, progress)
        return _performed(task, progress, divide, begin)
    except Exception as error:
        if task.part is not None:
            return Ending({}, error_of(error))
        return line_of(task, None, Ending({}, error_of(error)), time.monotonic() - begin)


def _performed(task: Task, progress: Progress, divide: bool, begin: float) -> Result:
    location, output = task.place(task.input.location), task.input.output
    output = None if output is None else task.place(output)
    known = task.known
    if task.input.missing is not None:
        if known is not None and known["sha256"] is None:
            return Unchanged(known)
        ending = Ending(
            {}, _parts(f"{task.input.location} can't be read", task.input.missing, "give the path of a model", 3)
        )
        return line_of(task, None, ending, 0.0)
    if divide and isinstance(task.work, DivisibleWork):
        division = _divided(task, task.work)
        if division is not None:
            return division
    with contextlib.ExitStack() as stack:
        path = stack.enter_context(fetched(location, progress)).path if is_url(location) else Path(location)
        found = fingerprint_at(path)
        if known is not None and _is_known(known, output, found):
            return Unchanged(known)
        place = None
        if output is not None:
            place = stack.enter_context(publish(output, progress)) if is_url(output) else _made_room(Path(output))
        ending = task.work(path, place, progress)
        stack.close()  # which publishes
    return line_of(task, found, ending, time.monotonic() - begin)


def _is_known(known: Line, output: str | None, found: tuple[str, dict[str, str]]) -> bool:
    if (known["sha256"], known.get("beside", {})) != found:
        return False
    # Who took the output away wants it again; of a store nobody asks.
    return output is None or is_url(output) or known.get("error") is not None or os.path.exists(output)


def _made_room(output: Path) -> Path:
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentUnavailable(
            f"{output.parent} can't be made", str(error.strerror), "give another folder"
        ) from None
    return output


def _divided(task: Task, work: DivisibleWork) -> Division | Unchanged | None:
    location = task.place(task.input.location)
    if is_url(location) and location.lower().endswith(".gguf"):  # whose header tells its own length only at its end
        return None
    with _part_at_hand(location, None) as path:
        parts = work.parts(path)
    if not parts:
        return None
    if task.known is None:
        return Division(parts, None)
    found = fingerprint_of(location)
    return Unchanged(task.known) if _is_known(task.known, None, found) else Division(parts, found)


@contextlib.contextmanager
def _part_at_hand(location: str, part: str | None) -> Iterator[Path]:
    if not is_url(location):
        yield Path(location)
        return
    held: Fetched
    with fetched_slice(location, () if part is None else (part,)) as held:
        yield held.path


def fingerprint_of(location: str) -> tuple[str, dict[str, str]]:
    """Return the sha256 of a file anywhere, and of those beside it by name."""
    with contextlib.ExitStack() as stack:
        return fingerprint_at(stack.enter_context(fetched(location)).path if is_url(location) else Path(location))


def fingerprint_at(path: Path) -> tuple[str, dict[str, str]]:
    """Return the sha256 of a file here, and of those beside it by name. Raises ModelError where that fails."""
    beside = {name: path.parent / name for name in files_beside(path)}
    try:
        return fingerprint(path, {name: each for name, each in beside.items() if each.is_file()})
    except OSError as error:
        raise ModelError(f"{path} can't be read", str(error.strerror), "give the path of a model file") from None


def line_of(task: Task, found: tuple[str, dict[str, str]] | None, ending: Ending, seconds: float) -> Line:
    """Return the line that tells of a file: the command's own object, and how it came about."""
    answer = dict(ending.answer)
    answer["model"] = task.input.location
    if "output" in answer and answer["output"] is not None:
        answer["output"] = task.input.output
    head: Line = {
        "input": task.input.location,
        "sha256": None if found is None else found[0],
        "command": task.work.command,
        "options": dict(task.work.options),
        "seconds": round(seconds, 3),
        "error": None if ending.error is None else dict(ending.error),
    }
    if found is not None and found[1]:
        head["beside"] = found[1]
    return {**head, **{name: value for name, value in answer.items() if name not in head}}


def error_of(error: Exception) -> dict[str, Any]:
    """Return an error as data."""
    if isinstance(error, SnGraphError):
        return _parts(error.what, error.why, error.do, error.exit_code)
    if isinstance(error, OSError):
        what = f"{error.filename or 'a file'} can't be read or written"
        return _parts(what, str(error.strerror or error), "look at the disk and its rights", 4)
    if isinstance(error, MemoryError):
        return _parts("there is not enough memory", str(error), "run it where there is more", 4)
    told = f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
    return _parts(told, "", "run again with --debug and report it", _INTERNAL)


def _parts(what: str, why: str, do: str, exit_code: int) -> dict[str, Any]:
    return {"what": printable(what), "why": printable(why), "do": printable(do), "exit_code": exit_code}
