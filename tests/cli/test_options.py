"""Options in groups, and the decorator that makes a command of a function: its parameters, settings and exit codes."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import pytest
import typer
from typer.testing import CliRunner

from sn_graph.cli import app as application
from sn_graph.cli import options
from sn_graph.cli.app import command
from sn_graph.cli.console import Settings
from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError, VerificationFailed
from sn_graph.model import Storage
from sn_graph.plan import PlanOptions
from sn_graph.plan.plan import NORMS
from sn_graph.sites import Convention

# What is said twice, because typer wants enumerations and `--help` must import no room


def test_the_conventions_are_those_of_the_sites_and_auto() -> None:
    assert {*options.ConventionChoice} == {"auto"} | {*Convention}


def test_the_norms_are_those_of_the_plan() -> None:
    assert tuple(options.NormChoice) == NORMS


@pytest.mark.parametrize(
    "given",
    [
        options.Normalization().plan_options(options.Estimate()),
        options.Normalization(include=["a"], clip=False, plan=Path("p")).plan_options(options.Estimate(5, 3)),
    ],
)
def test_a_normalization_says_all_that_a_plan_is_made_from(given: PlanOptions) -> None:
    assert given.keys() == PlanOptions.__annotations__.keys()


def test_what_is_given_reaches_the_plan() -> None:
    state, plan = Path("u"), Path("p")
    normalization = options.Normalization(
        3.0, True, options.NormChoice.OPERATOR, options.ConventionChoice.TORCH, ["a"], ["b"], ["Conv"], plan
    )
    assert normalization.plan_options(options.Estimate(5, 7, state)) == {
        "plan": plan,
        "convention": "torch",
        "include": ["a"],
        "exclude": ["b"],
        "op_types": ["Conv"],
        "norm": "operator",
        "state": state,
        "power_iterations": 5,
        "bound": 3.0,
        "clip": True,
    }
    selection = options.Selection(options.ConventionChoice.KERAS, exclude=["b"])
    found = selection.plan_options(options.NormChoice.MATRIX, state)
    assert found == {
        "norm": "matrix",
        "state": state,
        "convention": "keras",
        "include": (),
        "exclude": ["b"],
        "op_types": (),
    }


def test_what_is_not_given_is_left_to_the_plan() -> None:
    found = options.Normalization().plan_options(options.Estimate())
    assert all(held is None or held == () for held in found.values())


@pytest.mark.parametrize(
    ("external", "storage"), [(None, Storage.KEEP), (True, Storage.EXTERNAL), (False, Storage.INLINE)]
)
def test_storage(external: bool | None, storage: Storage) -> None:
    assert options.Writing(save_as_external_data=external).storage is storage
    assert options.storage_of(external) is storage


def test_an_output_over_an_input(tmp_path: Path) -> None:
    one, other, link = tmp_path / "one", tmp_path / "other", tmp_path / "link"
    one.write_text("1")
    link.symlink_to(one)
    options.require_apart(other, plan=one, state=None)
    options.require_apart(one, plan=other, state=tmp_path / "nosuch")
    other.write_text('{"state": "one"}')
    with pytest.raises(UsageError, match="would overwrite the state that the plan names"):
        options.require_apart(one, plan=other)
    for path in (one, link):
        with pytest.raises(UsageError, match="would overwrite the state that is read"):
            options.require_apart(one, plan=None, state=path)


# The decorator


@dataclass(frozen=True)
class Group:
    """Two options."""

    first: Annotated[int, typer.Option("--first")] = 1
    second: Annotated[str | None, typer.Option("--second")] = None


seen: list[tuple[Any, ...]] = []


def probe(
    name: Annotated[str, typer.Argument()],
    flag: Annotated[bool, typer.Option("--flag")] = False,
    *,
    group: Group,
    last: Annotated[float, typer.Option("--last")] = 0.5,
    settings: Settings,
) -> None:
    """Tell what it is given."""
    seen.append((name, flag, group, last, settings))


def runner(function: Callable[..., None], root: Settings = Settings()) -> Callable[..., Any]:  # noqa: B008
    app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command(function))

    @app.callback()
    def callback(context: typer.Context) -> None:
        context.obj = root

    return lambda *arguments: CliRunner().invoke(app, [function.__name__, *map(str, arguments)])


def test_a_group_stands_where_its_parameter_does() -> None:
    made = inspect.signature(command(probe))
    names = ["context", "name", "flag", "first", "second", "last", "verbose", "quiet", "debug"]
    assert list(made.parameters) == names
    defaults = {name: one.default for name, one in made.parameters.items() if one.default is not one.empty}
    assert defaults == {
        "flag": False,
        "first": 1,
        "second": None,
        "last": 0.5,
        "verbose": False,
        "quiet": False,
        "debug": False,
    }
    assert all(one.kind is one.KEYWORD_ONLY for one in made.parameters.values())
    assert command(probe).__name__ == "probe"
    assert command(probe).__doc__ == probe.__doc__


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["n"], ("n", False, Group(), 0.5, Settings())),
        (["n", "--second", "s", "--first", 4, "--flag"], ("n", True, Group(4, "s"), 0.5, Settings())),
        (["n", "--last", 2, "-v"], ("n", False, Group(), 2.0, Settings(verbose=True))),
        (["n", "--quiet", "--debug"], ("n", False, Group(), 0.5, Settings(quiet=True, debug=True))),
    ],
)
def test_a_group_is_handed_over_whole(arguments: list[object], expected: tuple[Any, ...]) -> None:
    seen.clear()
    assert runner(probe)(*arguments).exit_code == 0
    assert seen == [expected]


def test_settings_are_those_before_and_behind_the_command() -> None:
    seen.clear()
    assert runner(probe, Settings(verbose=True))("n", "-q").exit_code == 0
    assert seen[0][-1] == Settings(verbose=True, quiet=True)


FAILURES = {
    VerificationFailed("two differ"): (1, "sn-graph: error: two differ\n"),
    UsageError("it can't be", do="give another"): (2, "it can't be; give another"),
    ModelError("it is", "so it isn't", "leave it"): (3, "sn-graph: error: it is, so it isn't; leave it\n"),
    EnvironmentUnavailable("none"): (4, "sn-graph: error: none\n"),
    OSError(28, "No space left on device"): (4, "output can't be written: No space left on device; make room"),
    MemoryError(): (4, "there is not enough memory (no more said)"),
    KeyError("a\nb"): (70, "internal error: KeyError: 'a\\\\nb'; run again with --debug and report it\n"),
}


@pytest.mark.parametrize(("error", "expected"), FAILURES.items(), ids=lambda one: type(one).__name__)
def test_errors_become_exit_codes(error: Exception, expected: tuple[int, str]) -> None:
    def fail(*, settings: Settings) -> None:  # noqa: ARG001
        raise error

    ended = runner(fail)()
    code, said = expected
    assert ended.exit_code == code
    assert said.replace("\\\\", "\\") in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("error", [ModelError("it is"), KeyError("none")])
def test_debug_shows_the_traceback(error: Exception) -> None:
    def fail(*, settings: Settings) -> None:  # noqa: ARG001
        raise error

    ended = runner(fail)("--debug")
    assert ended.exit_code in (3, 70)
    assert "Traceback (most recent call last)" in ended.stderr


def test_an_exit_passes_through() -> None:
    def leave(*, settings: Settings) -> None:  # noqa: ARG001
        raise typer.Exit(7)

    assert runner(leave)().exit_code == 7


# The commands


GROUPS = [options.Estimate, options.Normalization, options.Selection, options.Tolerances, options.Writing]
COMMANDS = {one.callback.__name__: one.callback for one in application.app.registered_commands if one.callback}


def test_every_command_is_registered() -> None:
    assert {name.replace("-", "_") for name in COMMANDS} == set(application._COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_a_command_has_help_or_is_everyones(name: str) -> None:
    made = inspect.signature(COMMANDS[name]).parameters
    first, *_, third, second, last = made
    assert (first, third, second, last) == ("context", "verbose", "quiet", "debug")
    hints = get_type_hints(inspect.unwrap(COMMANDS[name]))
    held = [hint for hint in hints.values() if is_dataclass(hint) and hint is not Settings]
    assert set(held) <= set(GROUPS)
    assert {field.name for group in held for field in fields(group)} <= set(made)
    for parameter in list(made.values())[1:]:
        (info,) = parameter.annotation.__metadata__
        assert info.help, parameter.name
