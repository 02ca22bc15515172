"""The application: the command line as a whole, what every command does with errors, and the exit codes.

0 done; 1 a verification failed; 2 usage; 3 the model can't be used; 4 the environment can't; 130 interrupted.
"""

import functools
import importlib
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from sn_graph.cli.console import Settings, say_error
from sn_graph.errors import EnvironmentUnavailable, SnGraphError, UsageError
from sn_graph.model import files_put_in_place
from sn_graph.version import __version__

_COMMANDS = ("inspect", "fold", "insert", "lift", "strip", "verify", "export_keras", "run", "doctor")
_INTERNAL = 70  # EX_SOFTWARE of sysexits.h: a fault of sn-graph itself

Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show a traceback where something fails.")]

app = typer.Typer(
    name="sn-graph",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"sn-graph {__version__}")
        raise typer.Exit


@app.callback(
    epilog="Exit codes: 0 done, 1 a verification failed, 2 usage, 3 the model can't be used, 4 the environment can't."
)
def root(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", help="Print the version and end.", is_eager=True, callback=_print_version)
    ] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> None:
    """Apply, measure and verify spectral normalization on ONNX models.

    \b
    sn-graph inspect disc.onnx                    the weights and their norms
    sn-graph fold disc.onnx -o folded.onnx        each weight divided by its norm
    sn-graph verify disc.onnx                     same outputs, however it is run
    """
    context.obj = Settings(verbose, quiet, debug)


def import_commands() -> None:
    """Import the file of each command, which adds it to the application."""
    for name in _COMMANDS:
        importlib.import_module(f"sn_graph.cli.{name}")


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function.

    It gets `--verbose`, `--quiet` and `--debug` besides its own options, and is handed what they say as `settings`. A
    parameter whose type is a group of options (a dataclass in `options`) stands for all of them. The errors of
    `sn_graph.errors` become exit codes.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint) and hint is not Settings}

    @functools.wraps(function)
    def run(context: typer.Context, verbose: bool, quiet: bool, debug: bool, **arguments: Any) -> None:
        settings = context.obj.merged(verbose, quiet, debug)
        for name, group in groups.items():
            arguments[name] = group(**{field.name: arguments.pop(field.name) for field in fields(group)})
        with files_put_in_place() as written:
            try:
                function(settings=settings, **arguments)
            except Exception as error:
                if isinstance(error, typer.Exit):
                    raise
                if settings.debug:
                    traceback.print_exc()
                if isinstance(error, UsageError):
                    raise typer.BadParameter(str(error), ctx=context) from None
                raise typer.Exit(_explain(error, written)) from None

    parameters = [inspect.Parameter("context", _KEYWORD, annotation=typer.Context), *_flat(function, hints, groups)]
    for name, annotation in (("verbose", Verbose), ("quiet", Quiet), ("debug", Debug)):
        parameters.append(inspect.Parameter(name, _KEYWORD, default=False, annotation=annotation))
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


_KEYWORD = inspect.Parameter.KEYWORD_ONLY


def _flat(
    function: Callable[..., None], hints: Mapping[str, Any], groups: Mapping[str, Any]
) -> Iterator[inspect.Parameter]:
    """Yield a command's parameters, with the options of a group in place of the group."""
    for name, parameter in inspect.signature(function).parameters.items():
        if name in groups:
            inner = get_type_hints(groups[name], include_extras=True)
            for field in fields(groups[name]):
                yield inspect.Parameter(field.name, _KEYWORD, default=field.default, annotation=inner[field.name])
        elif name != "settings":
            yield parameter.replace(kind=_KEYWORD, annotation=hints[name])


def _explain(error: Exception, written: Sequence[Path]) -> int:
    """Say in one line what went wrong, and what was written before it did; return the exit code."""
    what, code = _told(error)
    kept = [str(path) for path in written if path.exists() and str(path) not in what]  # not what was temporary
    say_error(
        f"{what} ({', '.join(kept)} {'was' if len(kept) == 1 else 'were'} written all the same)" if kept else what
    )
    return code


def _told(error: Exception) -> tuple[str, int]:
    """Return an error in one line, and its exit code."""
    what = " ".join(str(error).split())
    if isinstance(error, SnGraphError):
        return what, error.exit_code
    if isinstance(error, OSError):  # stdout, above all: a full disk behind a redirection
        why = error.strerror or error
        return f"output can't be written: {why}; make room, or send it elsewhere", EnvironmentUnavailable.exit_code
    if isinstance(error, MemoryError):
        why = what or "no more said"
        return f"there is not enough memory ({why}); run it where there is more", EnvironmentUnavailable.exit_code
    return f"internal error: {type(error).__name__}: {what}; run again with --debug and report it", _INTERNAL
