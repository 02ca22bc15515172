"""Files: one command on many models, with a summary, and what a gate says of each.

A command of files takes several, folders, globs and URLs. One file is worked on here, as it always was; more than one,
or one whose line is asked for, are worked on by other processes, each running the same command on a file.
"""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from sn_graph.cli.console import Settings, number
from sn_graph.cli.declare import Described, Option, completed_as_file, group_parameters, parameters, places
from sn_graph.cli.places import call
from sn_graph.cli.table import Table, print_tables
from sn_graph.errors import ModelError, SnGraphError, UsageError, VerificationFailed
from sn_graph.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Iterator

    import click

    from sn_graph.fleet import Ending, Gate, Outcome

_ARGUMENT = "Model files, or - for stdin; folders, globs and URLs (s3://, gs://, …) stand for the models in them."
_NAMED = 10  # files that failed, named before "and so many more"


@dataclass(frozen=True)
class Fleet:
    """How many files are worked on."""

    heading: ClassVar[str] = "Many files"

    jobs: Annotated[
        int | None, Option("Processes that work on them, each with BLAS on one thread. [default: 1]", "N", minimum=1)
    ] = None
    jsonl: Annotated[
        Path | None,
        Option(
            "Write a JSON object a line for each file as it is done; those that are there already, of the same file, "
            "command and options, are not done again.",
            "FILE",
            writes=True,
        ),
    ] = None
    dask: Annotated[
        str | None,
        Option("The scheduler of a Dask cluster whose workers do the work, as in tcp://host:8786.", "ADDRESS"),
    ] = None


@dataclass(frozen=True)
class Results:
    """Where continuous integration reads what came of it."""

    heading: ClassVar[str] = "For continuous integration"

    junit: Annotated[Path | None, Option("Write the results as JUnit XML.", "FILE", writes=True)] = None
    sarif: Annotated[Path | None, Option("Write what failed as SARIF.", "FILE", writes=True)] = None


@dataclass(frozen=True)
class Gates:
    """What each weight has to fulfil, and where continuous integration reads what came of it."""

    heading: ClassVar[str] = "For continuous integration"

    condition: Annotated[
        str | None,
        Option(
            "Exit code 1, with the weights that break it, unless each fulfils this: fields of --json, numbers, <, <=, "
            ">, >=, ==, !=, and, or, not. 'sigma <= 1.001'",
            "CONDITION",
            ("--assert",),
        ),
    ] = None
    junit: Annotated[Path | None, Option("Write the results as JUnit XML.", "FILE", writes=True)] = None
    sarif: Annotated[Path | None, Option("Write what failed as SARIF.", "FILE", writes=True)] = None


@dataclass(frozen=True)
class _Quiet(Settings):
    """Settings of a command that works on one of many files: it tells its answer, and prints nothing."""

    reports: Progress = field(default=silent, compare=False)

    @contextmanager
    def progress(self) -> "Iterator[Progress]":
        yield self.reports


@dataclass(frozen=True)
class CommandWork:
    """A command as work on a file.

    Attributes:
        command: Its name.
        values: What click gave it, but for the file and the output.
        options: The same as JSON, with the sha256 of each file that is named.
    """

    command: str
    values: Mapping[str, Any]
    options: Mapping[str, Any]

    def __call__(self, path: Path, output: Path | None, progress: Progress) -> "Ending":
        """Run the command."""
        import importlib

        from sn_graph.cli.endings import failure_of
        from sn_graph.fleet import Ending
        from sn_graph.model import files_put_in_place

        made = getattr(importlib.import_module(f"sn_graph.cli.{self.command}"), self.command)
        function: Callable[..., None] = made.function
        first, *_ = _names(function)
        settings = _Quiet(quiet=True, json=True, reports=progress)
        values = {**self.values, first: path, **({} if output is None else {"output": output})}
        with files_put_in_place() as written:
            try:
                call(function, values, settings)
            except Exception as error:
                return Ending(settings.answer, failure_of(error).after(written).to_json())
        return Ending(settings.answer)


@dataclass(frozen=True)
class Files:
    """What a command of files is like.

    Attributes:
        suffixes: What names of files end with that folders are searched for.
        groups: The groups of options that it gets.
        paired: Whether two files are one task: the second is compared with the first.
        work: What the command is as work on a file.
    """

    suffixes: tuple[str, ...]
    groups: tuple[type[Any], ...] = (Fleet, Results)
    paired: bool = False
    work: type[CommandWork] = CommandWork

    def parameters(self, function: Callable[..., None]) -> "list[click.Parameter]":
        """Return what click is to parse: as many files as there are, the command's own options, and the groups."""
        import click

        own = parameters(function)
        if self.paired:
            del own[1]
        described = own[0]
        assert isinstance(described, Described), "the first is the model"
        own[0] = Described(
            [described.name or ""],
            description=_ARGUMENT,
            required=True,
            nargs=-1,
            type=click.STRING,
            shell_complete=completed_as_file,
            metavar="MODEL...",
        )
        return [*own, *(each for group in self.groups for each in group_parameters(group))]

    def separate(self, values: Mapping[str, Any]) -> tuple[dict[str, Any], "Asked"]:
        """Return the values of the command itself, and what is asked of many files and of gates."""
        from dataclasses import fields

        names = [each.name for group in self.groups for each in fields(group)]
        own = {name: value for name, value in values.items() if name not in names}
        return own, Asked(**{name: values[name] for name in names})


@dataclass(frozen=True)
class Asked:
    """What the options of `Fleet`, `Results` and `Gates` say."""

    jobs: int | None = None
    jsonl: Path | None = None
    dask: str | None = None
    condition: str | None = None
    junit: Path | None = None
    sarif: Path | None = None

    def gate(self) -> "Gate | None":
        """Return the condition, read. Raises UsageError where it is none."""
        if self.condition is None:
            return None
        from sn_graph.fleet import Gate

        return Gate.parse(self.condition)

    def is_many(self, arguments: Sequence[str], files: Files) -> bool:
        """Say whether more than one file is meant, or one is to be done as one of many."""
        if self.jobs is not None or self.jsonl is not None or self.dask is not None:
            return True
        if len(arguments) == 1 and "://" not in arguments[0] and not set("*?[") & set(arguments[0]):
            return os.path.isdir(arguments[0]) and not (Path(arguments[0]) / "saved_model.pb").exists()
        if files.paired and len(arguments) == 2 and not any(_holds_models(Path(each), files) for each in arguments):
            return False
        from sn_graph.fleet import is_many

        return is_many(arguments)


def _holds_models(folder: Path, files: "Files") -> bool:
    """Say whether a path is a folder with models in it, and not a model that is one, as those of TensorFlow are."""
    if not os.path.isdir(folder) or (folder / "saved_model.pb").exists() or (folder / "metadata.json").exists():
        return False
    return any(path.name.endswith(files.suffixes) for path in folder.rglob("*"))


def _names(function: Callable[..., None]) -> list[str]:
    import inspect

    return list(inspect.signature(function).parameters)


def work_of(function: Callable[..., None], command: str, values: Mapping[str, Any], files: "Files") -> "CommandWork":
    """Return a command as work. Raises UsageError for options that name one file to be written."""
    first, *_ = _names(function)
    out = output_of(function, values)
    kept = {name: value for name, value in values.items() if name != first and (out is None or name != "output")}
    for name, writes in places(function).items():
        if writes and kept.get(name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise UsageError(f"{flag} is one file, where there are many models", do=f"give {flag} with one of them")
    read = [name for name, writes in places(function).items() if not writes and kept.get(name) is not None]
    options = {name: _plain(value) for name, value in kept.items() if name not in ("no_sync",)}
    options |= {name: {"path": str(kept[name]), "sha256": _digest(kept[name])} for name in read}
    if out is not None:
        options["output"] = out
    return files.work(command, kept, options)


def output_of(function: Callable[..., None], values: Mapping[str, Any]) -> str | None:
    """Return where a command that writes models is to write; None for one that doesn't, whatever its --output means."""
    return str(values["output"]) if places(function).get("output") else None


def _absolute(value: Any) -> Any:
    return value.absolute() if isinstance(value, Path) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else str(value) if isinstance(value, Path) else value


def _digest(place: Path | str) -> str | None:
    from sn_graph.fleet import fingerprint_of

    try:
        return fingerprint_of(str(place))[0]
    except OSError:
        return None  # as will be said when it is read


def call_on_files(
    function: Callable[..., None], command: str, values: Mapping[str, Any], files: Files, settings: Settings
) -> None:
    """Run a command on the files that its arguments stand for; on one as it stands in this process.

    Raises:
        SnGraphError: It failed, or the condition that weights have to fulfil is broken.
    """
    own, asked = files.separate(values)
    first, second, *_ = _names(function)
    arguments = own.pop(first)
    gate = asked.gate()
    if asked.is_many(arguments, files):
        run_command(function, command, arguments, own, asked, files, settings)
        return
    given: list[Path | str] = [each if "://" in each else Path(each) for each in arguments]
    own |= dict(zip((first, second) if files.paired else (first,), given, strict=False))
    line: dict[str, Any] = {"input": arguments[0], "error": None}
    try:
        call(function, own, settings)
    except SnGraphError as error:
        line["error"] = {"what": error.what, "why": error.why, "do": error.do, "exit_code": error.exit_code}
        write_results([{**settings.answer, **line}], command, asked)
        raise
    line = judged({**settings.answer, **line}, gate)
    write_results([line], command, asked)
    if gate is not None:
        settings.tell(**{"assert": gate.text, "broken": line["broken"]})
        if line["broken"]:
            raise gate_error(line["broken"], gate.text)


def run_command(
    function: Callable[..., None],
    command: str,
    arguments: Sequence[str],
    values: Mapping[str, Any],
    asked: Asked,
    files: Files,
    settings: Settings,
) -> None:
    """Run a command on many files, print the summary, and end as the worst of them does.

    Raises:
        FilesFailed: One of them failed.
        UsageError: An option says nothing of many files, or is not valid.
        EnvironmentUnavailable: A file of results can't be written, or a cluster can't be reached.
    """
    from sn_graph.fleet import find_inputs, is_many, run_many

    output = output_of(function, values)
    several = is_many(arguments)
    if several and output is not None and "://" not in output and Path(output).is_file():
        raise UsageError(f"{output} is a file, where many models need a folder", do="give a folder to -o")
    gate = asked.gate()
    inputs = find_inputs(arguments, files.suffixes, output, folder=several)
    if len(inputs) == 1 and inputs[0].missing is not None and asked.jsonl is None:
        raise ModelError(f"{inputs[0].location} can't be read", inputs[0].missing, "give the path of a model")
    work = work_of(function, command, values, files)
    if asked.dask is not None:  # whose workers may run in another folder
        work = replace(work, values={name: _absolute(value) for name, value in work.values.items()})
    with settings.progress() as progress:
        outcomes = run_many(
            work,
            inputs,
            jobs=asked.jobs or 1,
            dask=asked.dask,
            jsonl=asked.jsonl,
            judge=lambda line: judged(line, gate),
            progress=progress,
        )
    lines = [outcome.line for outcome in outcomes]
    write_results(lines, command, asked)
    failed = [outcome for outcome in outcomes if outcome.exit_code]
    done = len(outcomes) - len(failed)
    settings.tell(command=command, files=lines, totals={"files": len(outcomes), "done": done, "failed": len(failed)})
    if not settings.json:
        print_tables(_summary(outcomes))
    reused = sum(outcome.reused for outcome in outcomes)
    settings.say(f"{done} of {len(outcomes)} files done" + (f", {reused} of them before" if reused else ""))
    if failed:
        raise FilesFailed(failed)


class FilesFailed(SnGraphError):
    """Some of many files failed; the exit code is the largest of theirs."""

    def __init__(self, failed: "Sequence[Outcome]") -> None:
        names = ", ".join(str(outcome.line["input"]) for outcome in failed[:_NAMED])
        more = f" and {len(failed) - _NAMED} more" if len(failed) > _NAMED else ""
        count = f"{len(failed)} file{'s' if len(failed) > 1 else ''} failed"
        super().__init__(count, f"{names}{more}", "the summary says why")
        self.exit_code = max(outcome.exit_code for outcome in failed)  # type: ignore[misc]


def judged(line: Mapping[str, Any], gate: "Gate | None") -> dict[str, Any]:
    """Return a file's line with what a gate says of its weights, in place of what an earlier one said."""
    found = {name: value for name, value in line.items() if name not in ("assert", "broken")}
    if "assert" in line and (line.get("error") or {}).get("exit_code") == VerificationFailed.exit_code:
        found["error"] = None
    if gate is None or found.get("error") is not None:
        return found
    broken = [{"id": row["id"], "found": gate.found(row)} for row in gate.broken(found.get("sites", ()))]
    found |= {"assert": gate.text, "broken": broken}
    if broken:
        error = gate_error(broken, gate.text)
        found["error"] = {"what": error.what, "why": error.why, "do": error.do, "exit_code": error.exit_code}
    return found


def gate_error(broken: Sequence[Mapping[str, Any]], condition: str) -> VerificationFailed:
    """Return the error that weights break a condition."""
    named = "; ".join(f"{row['id']}: {row['found']}" for row in broken[:_NAMED])
    more = f"; and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    count = f"{len(broken)} weight{'s' if len(broken) > 1 else ''}"
    return VerificationFailed(f"{count} break{'' if len(broken) > 1 else 's'} '{condition}'", named + more)


def write_results(lines: Sequence[Mapping[str, Any]], command: str, asked: Asked) -> None:
    """Write what continuous integration reads. Raises EnvironmentUnavailable where it can't be written."""
    from sn_graph.model import write_file

    if asked.junit is not None:
        from sn_graph.fleet import junit

        write_file(asked.junit, junit(lines, command))
    if asked.sarif is not None:
        from sn_graph.fleet import sarif

        write_file(asked.sarif, json.dumps(sarif(lines), indent=1).encode() + b"\n")


def _summary(outcomes: "Sequence[Outcome]") -> Table:
    """Return a table, a row a file: what was found, how long it took, and how it ended."""
    titles = ("file", "weights", "σ max", "seconds", "result")
    table = Table(*titles, wrapped=("file", "result"), least_wanted=("seconds", "σ max", "weights"))
    for outcome in outcomes:
        line, error = outcome.line, outcome.line["error"]
        sites = line.get("sites", ())
        worked = [site for site in sites if site["status"] != "skipped"]
        sigmas = [site["sigma"] for site in worked if site["sigma"] is not None]
        result = ("as before" if outcome.reused else "done") if error is None else _told(error)
        cells = (
            line["input"],
            f"{len(worked)} of {len(sites)}" if sites else "",
            number(max(sigmas, default=None)),
            "" if outcome.reused else f"{line['seconds']:.2f}",
            result,
        )
        table.add(map(str, cells))
    return table


def _told(error: Mapping[str, Any]) -> str:
    return str(SnGraphError(error["what"], error["why"], error["do"]))
