"""Runs: the same work done to many files, by several processes or machines, one line a file, and resumed by it."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from sn_graph.errors import UsageError
from sn_graph.fleet.here import Here
from sn_graph.fleet.inputs import Input
from sn_graph.fleet.ledger import Ledger, Line
from sn_graph.fleet.task import DivisibleWork, Division, Ending, Result, Task, Unchanged, Work, fingerprint_of, line_of
from sn_graph.progress import Progress, silent


@dataclass(frozen=True)
class Outcome:
    """What is known of a file when the run has ended.

    Attributes:
        line: Its line.
        reused: Whether an earlier run has written it.
    """

    line: Line
    reused: bool = False

    @property
    def exit_code(self) -> int:
        """0, or that of its error."""
        error = self.line["error"]
        return 0 if error is None else int(error["exit_code"])


class Executor(Protocol):
    """Who does the tasks."""

    def submit(self, task: Task) -> None:
        """Take a task."""

    def results(self) -> Iterator[tuple[Task, Result]]:
        """Yield each task with its result as it is done; more may be given meanwhile."""

    def close(self) -> None:
        """End the processes."""


@dataclass
class _Parts:
    """The parts of a file that have come in so far."""

    division: Division
    begin: float
    endings: dict[str, Ending] = field(default_factory=dict)


def run_many(
    work: Work,
    inputs: Sequence[Input],
    *,
    jobs: int = 1,
    dask: str | None = None,
    jsonl: Path | None = None,
    judge: Callable[[Line], Line] = lambda line: line,
    progress: Progress = silent,
) -> list[Outcome]:
    """Do the same work to many files; what fails with one is told of that one.

    Args:
        work: What is done. It must be picklable.
        inputs: The files; see `find_inputs`.
        jobs: Processes of this machine, each with BLAS on one thread.
        dask: The address of a Dask scheduler, whose workers do it instead.
        jsonl: A file that gets a line a file as each is done. What it holds already of the same file (by its sha256),
            command and options is not done again.
        judge: What a line becomes before it is written: a gate that it has to pass.
        progress: Told the bytes of the inputs that are done.

    Returns:
        What became of each file, in the order of the inputs.

    Raises:
        UsageError: `jobs` is below 1, or `jsonl` is something else than such a file.
        EnvironmentUnavailable: `jsonl` can't be written, or the Dask scheduler can't be reached.
    """
    if jobs < 1:
        raise UsageError(f"{jobs} jobs are none", do="give at least 1")
    with contextlib.ExitStack() as stack:
        ledger = None if jsonl is None else stack.enter_context(Ledger(jsonl))
        run = _Run(work, inputs, ledger, judge, progress)
        here = any(is_memory(place) for each in inputs for place in (each.location, each.output))
        executor = stack.enter_context(contextlib.closing(Here() if here else _executor(jobs, dask, run.tell)))
        return run.outcomes(executor)


def is_memory(location: str | None) -> bool:
    """Say whether a file is in this process's memory, which no other sees."""
    return location is not None and location.startswith("memory://")


def _executor(jobs: int, dask: str | None, tell: Callable[[Task, float], None]) -> Executor:
    if dask is None:
        from sn_graph.fleet.workers import Workers

        return Workers(jobs, tell)
    from sn_graph.fleet.dask import DaskWorkers

    return DaskWorkers(dask)


class _Run:
    def __init__(
        self,
        work: Work,
        inputs: Sequence[Input],
        ledger: Ledger | None,
        judge: Callable[[Line], Line],
        progress: Progress,
    ) -> None:
        self._work = work
        self._inputs = inputs
        self._ledger = ledger
        self._judge = judge
        self._progress = progress
        self._known = {} if ledger is None else ledger.known(work.command, work.options)
        self._found: dict[str, Outcome] = {}
        self._parts: dict[str, _Parts] = {}
        self._total = sum(each.size for each in inputs)
        self._done = 0.0
        self._running: dict[str, float] = {}

    def outcomes(self, executor: Executor) -> list[Outcome]:
        self._say()
        for each in sorted(self._inputs, key=lambda one: -one.size):
            executor.submit(Task(each, self._work, self._known.get(each.location), size=each.size))
        for task, result in executor.results():
            self._running.pop(_key(task), None)
            if isinstance(result, Division):
                self._divide(task, result, executor)
                continue
            self._done += task.size
            if isinstance(result, Ending):
                self._take(task, result)
            elif isinstance(result, Unchanged):
                self._found[task.input.location] = Outcome(self._judge(result.line), reused=True)
            else:
                self._settle(task, result)
            self._say()
        return [self._found[each.location] for each in self._inputs]

    def tell(self, task: Task, share: float) -> None:
        """Note that a share of a task is done."""
        self._running[_key(task)] = share * task.size
        self._say()

    def _say(self) -> None:
        done = min(self._total, int(self._done + sum(self._running.values())))
        self._progress(f"{len(self._found)} of {len(self._inputs)} files", done, self._total)

    def _divide(self, task: Task, division: Division, executor: Executor) -> None:
        work = task.work
        assert isinstance(work, DivisibleWork), "who has told its parts"
        self._parts[task.input.location] = _Parts(division, time.monotonic())
        for name, size in sorted(division.parts, key=lambda part: -part[1]):
            executor.submit(replace(task, work=work.of_part(name), part=name, size=size))

    def _take(self, task: Task, ending: Ending) -> None:
        location = task.input.location
        parts = self._parts[location]
        parts.endings[str(task.part)] = ending
        if len(parts.endings) < len(parts.division.parts):
            return
        whole = Task(task.input, self._work)
        joined = _joined(whole, [parts.endings[name] for name, _ in parts.division.parts])
        found = parts.division.digests or fingerprint_of(location)
        self._settle(whole, line_of(whole, found, joined, time.monotonic() - parts.begin))

    def _settle(self, task: Task, line: Line) -> None:
        judged = self._judge(line)
        if self._ledger is not None:
            self._ledger.append(judged)
        self._found[task.input.location] = Outcome(judged)


def _joined(task: Task, endings: Sequence[Ending]) -> Ending:
    failed = next((each for each in endings if each.error is not None), None)
    if failed is not None:
        return Ending({}, failed.error)
    assert isinstance(task.work, DivisibleWork), "who has told its parts"
    return task.work.joined(Path(task.input.location), endings)


def _key(task: Task) -> str:
    return f"{task.input.location}\0{task.part or ''}"
