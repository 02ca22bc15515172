"""The application: the commands, what each does with errors, and the exit codes.

0 done; 1 a verification failed; 2 usage; 3 the model can't be used; 4 the environment can't; 130 interrupted.
"""

import importlib
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from sn_graph.cli.console import Settings, print_json, say_error
from sn_graph.cli.declare import EVERYWHERE, HEADING, Described, Headed, flag, parameters
from sn_graph.cli.endings import Failure, failure_of
from sn_graph.cli.files import Files, call_on_files
from sn_graph.cli.places import call
from sn_graph.errors import UsageError, printable
from sn_graph.version import __version__

# The commands under their headings, each with the first line of its help, so that `--help` imports none of them.
# `sn_graph/cli/NAME.py` holds the command NAME.
COMMANDS = {
    "Look": {
        "inspect": "Show each weight of MODEL with its exact spectral norm σ.",
        "verify": "Compare the outputs of A and B on every provider.",
        "certify": "Prove how much the network MODEL can stretch a change of its input: its Lipschitz constant.",
        "completion": "Print what a shell reads to complete commands, options and their words.",
        "doctor": "Show versions, execution providers, conflicts, and what other tools do to an inserted state.",
    },
    "Write a model": {
        "fold": "Write MODEL with each weight W replaced by bound·W/σ(W).",
        "insert": "Write MODEL with the power iteration of its weights in the graph, so that each run normalizes them.",
        "lift": "Write MODEL with each weight stored, or iterated anew, that the exporter left normalized in it.",
        "strip": "Write the model that MODEL was before insert: equal as a proto, weights untouched.",
        "export-keras": "Write a Keras model with SpectralNormalization layers as ONNX.",
        "run": "Write MODEL as the pass NAME changes it.",
    },
}
_CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": shutil.get_terminal_size().columns}


def command(function: Callable[..., None]) -> click.Command:
    """Make a command of a function whose parameters are declared as `declare` says.

    It gets `--json`, `--verbose`, `--quiet` and `--debug` besides its own options, and is handed what they say as
    `settings`. What it answers to `--json` it tells `settings`. The errors of `sn_graph.errors` become exit codes.
    """
    return _made(function, None)


def command_of(files: Files) -> Callable[[Callable[..., None]], click.Command]:
    """Make a command of a function that works on one file: its first parameter, of which the command takes many."""
    return lambda function: _made(function, files)


def _made(function: Callable[..., None], files: Files | None) -> click.Command:
    everywhere = [
        flag("json", "Print one JSON object instead of a table, whatever the end.", "--json"),
        *_saying(),
    ]
    made = _Command(
        name=function.__name__.replace("_", "-"),
        callback=_callback(function, files),
        params=[*(parameters(function) if files is None else files.parameters(function)), *everywhere],
        help=function.__doc__,
        context_settings=_CONTEXT,
    )
    made.function = function
    return made


def _saying() -> list[click.Parameter]:
    return [
        flag("verbose", "Say more on stderr.", "--verbose", "-v"),
        flag("quiet", "Say nothing on stderr but errors.", "--quiet", "-q"),
        flag("debug", "Show a traceback where something fails.", "--debug"),
    ]


def _callback(function: Callable[..., None], files: Files | None) -> Callable[..., None]:
    def run(json: bool, verbose: bool, quiet: bool, debug: bool, **values: Any) -> None:
        from sn_graph.model import files_put_in_place, report_to

        if app.tells is not None:
            report_to(app.tells)
        context = click.get_current_context()
        settings = context.obj.merged(verbose, quiet, debug, json)
        with files_put_in_place() as written, warnings.catch_warnings():
            app.written = written
            if not settings.debug:  # numbers that overflow are told in a line, or as they come out
                warnings.simplefilter("ignore", RuntimeWarning)
            try:
                if files is None:
                    call(function, values, settings)
                else:
                    call_on_files(function, context.command.name or "", values, files, settings)
                if settings.json:
                    print_json(settings.answer)
            except Exception as error:
                if isinstance(error, click.exceptions.Exit | click.ClickException):
                    raise
                if app.stopped():  # what a library made of it: "initialization failed"
                    raise SystemExit from None
                if settings.debug:
                    traceback.print_exc()
                if isinstance(error, UsageError):
                    raise _Usage(failure_of(error).after(written), context) from None
                failure = failure_of(error).after(written)
                if settings.json:
                    failure.print(settings.answer)
                say_error(failure.line)
                raise click.exceptions.Exit(failure.exit_code) from None

    return run


class _Usage(click.UsageError):
    """A UsageError of ours, shown as click shows its own."""

    def __init__(self, parts: Failure, context: click.Context) -> None:
        super().__init__(parts.line, context)
        self.parts = parts


class _Command(click.Command):
    """A command whose help describes its arguments, and has its options under headings.

    Attributes:
        function: What it runs.
    """

    function: Callable[..., None]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        described = [(one.make_metavar(ctx), one.description) for one in self.params if isinstance(one, Described)]
        if described:
            with formatter.section("Arguments"):
                formatter.write_dl(described)
        under: dict[str, list[tuple[str, str]]] = {HEADING: []}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None and not isinstance(one, click.Argument):
                under.setdefault(one.heading if isinstance(one, Headed) else EVERYWHERE, []).append(record)
        for heading, records in under.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class _Application(click.Group):
    """The command line as a whole, which imports a command when it is called.

    Attributes:
        tells: Where a command tells the process that looks after this one what it reads and writes.
        written: The files that the command has put in place.
        stopped: Whether a signal has stopped the command, which its process tells.
    """

    tells: int | None = None
    written: Sequence[Path] = ()
    stopped: Callable[[], bool] = staticmethod(lambda: False)

    def __call__(self, arguments: Sequence[str] | None = None, prog_name: str = "sn-graph") -> NoReturn:
        """Run the command of these arguments, else of this process's own, and end the process as it ends."""
        given = list(sys.argv[1:] if arguments is None else arguments)
        try:
            code = self.main(given, prog_name, standalone_mode=False)
        except click.ClickException as error:
            if "--json" in given:
                _failure_of_usage(error).print({})
            _shown(error).show()
            code = error.exit_code
        sys.exit(code)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for commands in COMMANDS.values() for name in commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        name = cmd_name.replace("-", "_")
        found: click.Command = getattr(importlib.import_module(f"sn_graph.cli.{name}"), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name, known = args[0], self.list_commands(ctx)
        if name not in known and not name.startswith("-") and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(name, known, 1)
            advice = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(known)}"
            raise click.UsageError(f"No such command '{name}'; {advice}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for heading, commands in COMMANDS.items():
            with formatter.section(heading):
                formatter.write_dl(list(commands.items()))


def _shown(error: click.ClickException) -> click.ClickException:
    """Return an error of click's in one line in which nothing acts, whatever was typed."""
    told = printable(" ".join(error.format_message().split()))
    return click.UsageError(told, error.ctx) if isinstance(error, click.UsageError) else click.ClickException(told)


def _failure_of_usage(error: click.ClickException) -> Failure:
    if isinstance(error, _Usage):
        return error.parts
    path = "sn-graph" if not isinstance(error, click.UsageError) or error.ctx is None else error.ctx.command_path
    return Failure(" ".join(error.format_message().split()), "", f"see {path} --help", error.exit_code)


def _print_version(context: click.Context, _option: click.Parameter, asked: bool) -> None:
    if asked:
        print(f"sn-graph {__version__}")
        context.exit()


def _root(verbose: bool, quiet: bool, debug: bool) -> None:
    """Apply, measure and verify spectral normalization on ONNX models.

    \b
    sn-graph inspect disc.onnx                    the weights and their norms
    sn-graph fold disc.onnx -o folded.onnx        each weight divided by its norm
    sn-graph verify disc.onnx                     same outputs, however it is run
    """
    click.get_current_context().obj = Settings(verbose, quiet, debug)


app = _Application(
    name="sn-graph",
    callback=_root,
    help=_root.__doc__,
    no_args_is_help=True,
    context_settings=_CONTEXT,
    epilog="Exit codes: 0 done, 1 a verification failed, 2 usage, 3 the model can't be used, 4 the environment can't.",
    params=[
        click.Option(
            ["--version"], is_flag=True, is_eager=True, expose_value=False, callback=_print_version,
            help="Print the version and end.",
        ),
        *_saying(),
    ],
)  # fmt: skip
