"""Options in groups, and the decorator that makes a command of a function: its parameters, settings and exit codes."""

import importlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_args

import click
import pytest
from click.testing import CliRunner

from sn_graph import choices
from sn_graph.cli import options
from sn_graph.cli.app import COMMANDS, command
from sn_graph.cli.console import Settings
from sn_graph.cli.declare import EVERYWHERE, Argument, Described, Headed, Option
from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError, VerificationFailed
from sn_graph.model import Storage
from sn_graph.norms import SigmaMethod
from sn_graph.passes import LiftedSigma, LiftedTo, Scale
from sn_graph.plan import PlanOptions
from sn_graph.plan.plan import NORMS
from sn_graph.rewrite.insertion import StateLayout, StateMode
from sn_graph.sites import Convention

# What is said twice, because literals are for type checkers and `--help` must import no room


def test_the_conventions_are_those_of_the_sites_and_auto() -> None:
    assert {*get_args(choices.ConventionChoice)} == {"auto"} | {*Convention}


def test_the_norms_are_those_of_the_plan() -> None:
    assert get_args(choices.NormChoice) == NORMS


@pytest.mark.parametrize(
    ("literal", "enumeration"),
    [
        (choices.SigmaChoice, SigmaMethod),
        (choices.StateLayoutChoice, StateLayout),
        (choices.StateModeChoice, StateMode),
        (choices.ScaleChoice, Scale),
        (choices.LiftedSigmaChoice, LiftedSigma),
        (choices.LiftedToChoice, LiftedTo),
    ],
)
def test_the_words_are_those_of_the_enumerations(literal: Any, enumeration: type[StrEnum]) -> None:
    assert {*get_args(literal)} == {*enumeration}
    assert {*get_args(choices.MeasureChoice)} < {*SigmaMethod}


@pytest.mark.parametrize(
    "given",
    [
        options.Normalization().plan_options(options.Estimate()),
        options.Normalization(include=("a",), clip=False, plan=Path("p")).plan_options(options.Estimate(5, 3)),
    ],
)
def test_a_normalization_says_all_that_a_plan_is_made_from(given: PlanOptions) -> None:
    assert given.keys() == PlanOptions.__annotations__.keys()


def test_what_is_given_reaches_the_plan() -> None:
    state, plan = Path("u"), Path("p")
    normalization = options.Normalization(3.0, True, "operator", "torch", ("a",), ("b",), ("Conv",), plan)
    assert normalization.plan_options(options.Estimate(5, 7, state)) == {
        "plan": plan,
        "convention": "torch",
        "include": ("a",),
        "exclude": ("b",),
        "op_types": ("Conv",),
        "norm": "operator",
        "state": state,
        "power_iterations": 5,
        "bound": 3.0,
        "clip": True,
    }
    selection = options.Selection("keras", exclude=("b",))
    found = selection.plan_options("matrix", state)
    assert found == {
        "norm": "matrix",
        "state": state,
        "convention": "keras",
        "include": (),
        "exclude": ("b",),
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

    heading: ClassVar[str] = "Two"

    first: Annotated[int, Option("1", minimum=1)] = 1
    second: Annotated[str | None, Option("2", "WORD")] = None


seen: list[tuple[Any, ...]] = []


def probe(
    name: Annotated[str, Argument("NAME", "Whose.")],
    raised: Annotated[bool, Option("Up.", flags=("--flag",))] = False,
    *,
    group: Group,
    last: Annotated[float, Option("The end.")] = 0.5,
    rest: Annotated[tuple[Path, ...], Option("More.")] = (),
    settings: Settings,
) -> None:
    """Tell what it is given."""
    seen.append((name, raised, group, last, rest, settings))


def runner(function: Callable[..., None], root: Settings = Settings()) -> Callable[..., Any]:  # noqa: B008
    made = command(function)
    return lambda *arguments: CliRunner().invoke(made, [*map(str, arguments)], obj=root)


def test_a_group_stands_where_its_parameter_does() -> None:
    made = command(probe)
    names = ["name", "raised", "first", "second", "last", "rest", "json", "verbose", "quiet", "debug"]
    assert [one.name for one in made.params] == names
    headings = [one.heading for one in made.params if isinstance(one, Headed)]
    assert headings == ["Options", "Two", "Two", "Options", "Options", *[EVERYWHERE] * 4]
    assert made.name == "probe"
    assert made.help == probe.__doc__


def test_the_help_has_the_headings_in_order_and_describes_arguments() -> None:
    told = runner(probe)("--help").output
    places = [told.index(f"\n{heading}:\n") for heading in ("Arguments", "Options", "Two", EVERYWHERE)]
    assert places == sorted(places)
    assert "  NAME  Whose." in told
    assert "--first INTEGER RANGE" in told
    assert "--second WORD" in told


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["n"], ("n", False, Group(), 0.5, (), Settings())),
        (["n", "--second", "s", "--first", 4, "--flag"], ("n", True, Group(4, "s"), 0.5, (), Settings())),
        (["n", "--last", 2, "-v"], ("n", False, Group(), 2.0, (), Settings(verbose=True))),
        (["n", "--rest", "a", "--rest", "b"], ("n", False, Group(), 0.5, (Path("a"), Path("b")), Settings())),
        (["n", "--quiet", "--debug"], ("n", False, Group(), 0.5, (), Settings(quiet=True, debug=True))),
        (["n", "--json"], ("n", False, Group(), 0.5, (), Settings(json=True))),
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


@pytest.mark.parametrize("given", [[], ["n", "--first", "0"], ["n", "--last", "x"], ["n", "--nosuch"], ["n", "more"]])
def test_what_does_not_fit_is_a_usage_error(given: list[str]) -> None:
    seen.clear()
    assert runner(probe)(*given).exit_code == 2
    assert seen == []


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


@pytest.mark.parametrize(("error", "expected"), FAILURES.items(), ids=lambda one: type(one).__name__)
def test_errors_become_data(error: Exception, expected: tuple[int, str]) -> None:
    def fail(*, settings: Settings) -> None:
        settings.tell(model="m", ok=False)
        raise error

    if isinstance(error, UsageError):
        pytest.skip("the application as a whole says it: see test_app")
    ended = runner(fail)("--json")
    found = json.loads(ended.stdout)
    assert found.keys() == {"model", "ok", "error"}
    assert found["error"].keys() == {"what", "why", "do", "exit_code"}
    assert found["error"]["exit_code"] == ended.exit_code == expected[0]
    assert found["error"]["what"] in ended.stderr


def test_an_answer_is_printed_when_the_command_has_ended_well() -> None:
    def answer(*, settings: Settings) -> None:
        settings.tell(a=1)
        settings.tell(b=2)

    assert json.loads(runner(answer)("--json").stdout) == {"a": 1, "b": 2}
    assert runner(answer)().stdout == ""


def test_an_exit_passes_through() -> None:
    def leave(*, settings: Settings) -> None:  # noqa: ARG001
        raise click.exceptions.Exit(7)

    assert runner(leave)().exit_code == 7


# The commands


NAMES = {name: told for commands in COMMANDS.values() for name, told in commands.items()}


def loaded(name: str) -> click.Command:
    found: click.Command = getattr(
        importlib.import_module(f"sn_graph.cli.{name.replace('-', '_')}"), name.replace("-", "_")
    )
    return found


def test_every_file_that_makes_a_command_is_listed() -> None:
    files = {
        path.stem
        for path in Path(options.__file__).parent.glob("*.py")
        if re.search(r"^@command(_of\(|$)", path.read_text(), re.M)
    }
    assert {name.replace("-", "_") for name in NAMES} == files


@pytest.mark.parametrize("name", NAMES)
def test_a_command_is_listed_with_the_first_line_of_its_help(name: str) -> None:
    assert str(loaded(name).help).splitlines()[0] == NAMES[name]
    assert loaded(name).name == name


@pytest.mark.parametrize("name", NAMES)
def test_every_option_of_a_command_has_help_or_is_everyones(name: str) -> None:
    made = loaded(name).params
    assert [one.name for one in made[-4:]] == ["json", "verbose", "quiet", "debug"]
    for one in made:
        assert one.description if isinstance(one, Described) else isinstance(one, Headed) and one.help, one.name
        # What certify calls so is an output of the model.
        assert one.name != "output" or name == "certify" or one.opts == ["--output", "-o"]
