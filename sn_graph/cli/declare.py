"""Declarations: a function whose parameters say how they are given, as a command of click.

    def fold(model: Annotated[Path, Argument("MODEL", "A model.")], seed: Annotated[int, Option("Of u.", "S")] = 0)

The annotation's type is what the function gets: `Path`, `str`, `int`, `float`, a `Literal` of words, `bool` for a flag,
`tuple[T, ...]` for an option that may be given again; `None` beside it for one that is not given. A parameter whose
type is a dataclass stands for all fields of it: a group of options, which the help puts under the class's `heading`.
What should be a `Path` is a text where a URL was given: see `places`.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

HEADING = "Options"
EVERYWHERE = "Everywhere"


@dataclass(frozen=True)
class Argument:
    """A parameter that is given by its place: required, unless the function has a default."""

    metavar: str
    help: str


@dataclass(frozen=True)
class Option:
    """A parameter that is given by name.

    Attributes:
        help: What it is; where the function's default says too little, in brackets what holds where it is not given.
        metavar: What its value is called; of words, flags and pairs of flags click knows better.
        flags: Its names, where they are not the parameter's.
        minimum: The least value of a number.
        writes: Whether it names a file that is written.
    """

    help: str
    metavar: str | None = None
    flags: tuple[str, ...] = ()
    minimum: float | None = None
    writes: bool = False


@dataclass(frozen=True)
class _Declared:
    """A parameter of a command: its name, type and default, how it is given, and what the help puts it under."""

    name: str
    kind: Any
    how: Argument | Option
    default: Any
    heading: str


class Headed(click.Option):
    """An option that stands under a heading of its command's help."""

    def __init__(self, *arguments: Any, heading: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.heading = heading


class Described(click.Argument):
    """An argument that the help describes, as it does options."""

    def __init__(self, *arguments: Any, description: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.description = description


def parameters(function: Callable[..., None], *skipped: str) -> list[click.Parameter]:
    """Return what click is to parse for a function; `skipped` are the parameters that are handed over otherwise."""
    return [_parameter(one) for one in _declared(function, skipped)]


def places(function: Callable[..., None]) -> dict[str, bool]:
    """Return the names of a function's parameters that are paths, and whether a file is written there."""
    declared = ((one, _kind(one.kind)) for one in _declared(function, ()))
    return {one.name: isinstance(one.how, Option) and one.how.writes for one, kind in declared if kind is Path}


def gathered(function: Callable[..., None], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return a function's arguments from click's values: the fields of a group as the group."""
    arguments = dict(values)
    for name, group in _groups(function).items():
        arguments[name] = group(**{field.name: arguments.pop(field.name) for field in fields(group)})
    return arguments


def flag(name: str, help: str, *flags: str) -> Headed:
    """Return a flag that every command has."""
    return Headed([*flags, name], is_flag=True, default=False, help=help, heading=EVERYWHERE)


def _groups(function: Callable[..., None]) -> dict[str, Any]:
    hints = get_type_hints(function)
    return {name: hint for name, hint in hints.items() if name != "settings" and is_dataclass(hint)}


def _declared(function: Callable[..., None], skipped: Sequence[str]) -> Iterator[_Declared]:
    hints, groups = get_type_hints(function, include_extras=True), _groups(function)
    for name, parameter in inspect.signature(function).parameters.items():
        if name in groups:
            yield from _of_group(groups[name])
        elif name != "settings" and name not in skipped:
            kind, how = get_args(hints[name])
            yield _Declared(name, kind, how, parameter.default, HEADING)


def group_parameters(group: type[Any]) -> list[click.Parameter]:
    """Return what click is to parse for a group of options."""
    return [_parameter(one) for one in _of_group(group)]


def _of_group(group: type[Any]) -> Iterator[_Declared]:
    inner = get_type_hints(group, include_extras=True)
    for field in fields(group):
        kind, how = get_args(inner[field.name])
        yield _Declared(field.name, kind, how, field.default, group.heading)


def _parameter(one: _Declared) -> click.Parameter:
    repeated = get_origin(_alternatives(one.kind)[0]) is tuple
    kind = _kind(one.kind)
    given: dict[str, Any] = {"required": one.default is inspect.Parameter.empty}
    if not given["required"] and not repeated:
        given["default"] = one.default
    if isinstance(one.how, Argument):
        count = -1 if repeated else 1
        given |= {"type": _type(kind, None), "metavar": one.how.metavar, "nargs": count}
        return Described([one.name], description=one.how.help, **given)
    flags = one.how.flags or ("--" + one.name.replace("_", "-"),)
    given |= {"help": one.how.help, "heading": one.heading}
    if kind is bool:
        return Headed([*flags, one.name], is_flag=True, **given)
    given |= {"type": _type(kind, one.how.minimum), "metavar": one.how.metavar, "multiple": repeated}
    return Headed([*flags, one.name], show_default=given.get("default") is not None, **given)


def _kind(kind: Any) -> Any:
    """Return what one value is: `Path` of `Path | None`, `str` of `tuple[str, ...]`."""
    first = _alternatives(kind)[0]
    return get_args(first)[0] if get_origin(first) is tuple else first


def _alternatives(kind: Any) -> tuple[Any, ...]:
    """Return the types of a union but for None."""
    found = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return tuple(each for each in found if each is not type(None))


def _type(kind: Any, minimum: float | None) -> "click.ParamType[Any]":
    if get_origin(kind) is Literal:
        return click.Choice(get_args(kind))
    if kind is int:
        return click.IntRange(min=None if minimum is None else int(minimum)) if minimum is not None else click.INT
    if kind is float:
        return click.FloatRange(min=minimum) if minimum is not None else click.FLOAT
    return _Place() if kind is Path else click.STRING


class _Place(click.Path):
    """A path; a URL stays the text that it is."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if isinstance(value, str) and "://" in value else super().convert(value, param, ctx)


def completed_as_file(_context: click.Context, _one: click.Parameter, incomplete: str) -> "list[CompletionItem]":
    """Complete the path of a file, for what may be a URL too."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]
