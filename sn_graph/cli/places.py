"""Places: values of a command that are URLs or standard streams, brought here before it runs, and put there behind it.

A dry run is one whose outputs have no place: they are written and proved in a folder that goes when it has ended.
"""

import contextlib
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sn_graph.cli.console import STDIN, STDOUT, Settings
from sn_graph.cli.declare import gathered, places
from sn_graph.errors import SnGraphError, UsageError


def call(function: Callable[..., None], values: Mapping[str, Any], settings: Settings) -> None:
    """Run a command with click's values; what it tells and raises speaks of URLs where those were given."""
    try:
        with at_hand(function, values, settings) as here:
            function(settings=settings, **gathered(function, here))
    except SnGraphError as error:
        if not settings.urls:
            raise
        raise type(error)(*map(settings.named, (error.what, error.why, error.do))) from None
    settings.tell(**settings.named(settings.answer))
    if values.get("dry_run"):
        if "output" in settings.answer:
            settings.tell(output=None)
        settings.say("a dry run: nothing was written")


@contextlib.contextmanager
def at_hand(function: Callable[..., None], values: Mapping[str, Any], settings: Settings) -> Iterator[dict[str, Any]]:
    """Give a command's values with local paths in place of URLs and of `-`, and of all outputs in a dry run.

    What is to be written to a URL is there when the block has ended.

    Args:
        function: The command, whose declarations say which values are paths, and which of those are written.
        values: As click gives them.
        settings: Whose progress tells of what is copied; they learn what the copies are called.

    Raises:
        ModelError: There is no such file.
        EnvironmentUnavailable: A store can't be reached, or a package is missing.
        UsageError: A standard stream is asked for twice.
    """
    with contextlib.ExitStack() as stack:
        yield _fetched(function, _streamed(function, values, settings, stack), settings, stack)


def _streamed(
    function: Callable[..., None], values: Mapping[str, Any], settings: Settings, stack: contextlib.ExitStack
) -> dict[str, Any]:
    """Return the values with local files in place of standard streams, and of what a dry run writes."""
    found, dry = dict(values), bool(values.get("dry_run"))
    streamed = [writes for name, writes in places(function).items() if str(values.get(name)) == "-"]
    if len(set(streamed)) < len(streamed):
        raise UsageError("- stands there twice", "and stdin and stdout are one stream each", "give a file in one place")
    if True in streamed and settings.json:
        raise UsageError("--json prints to stdout", "and so would --output -", "leave one of them out")
    for name, writes in places(function).items():
        value = values.get(name)
        if value is None or (str(value) != "-" and not (dry and writes)):
            continue
        stream = STDOUT if writes else STDIN
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sn-graph-")))
        found[name] = folder / (Path(value).name if str(value) != "-" else f"{name}.onnx")
        settings.urls[str(found[name])] = str(value) if str(value) != "-" else stream
        if str(value) == "-":
            stack.enter_context(_to_stdout(found[name]) if writes else _from_stdin(found[name]))
    return found


@contextlib.contextmanager
def _from_stdin(path: Path) -> Iterator[None]:
    with path.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)
    yield


@contextlib.contextmanager
def _to_stdout(path: Path) -> Iterator[None]:
    yield
    if path.exists():
        others = sorted(one.name for one in path.parent.iterdir() if one != path)
        if others:
            raise UsageError(
                f"the model has data files ({others[0]})", "and stdout is one file", "give --save-inline, or a path"
            )
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.flush()


def _fetched(
    function: Callable[..., None], values: Mapping[str, Any], settings: Settings, stack: contextlib.ExitStack
) -> dict[str, Any]:
    """Return the values with local files in place of URLs."""
    remote = {
        name: (url, writes)
        for name, writes in places(function).items()
        if isinstance(url := values.get(name), str)  # a path is no text any more
    }
    if not remote:
        return dict(values)
    from sn_graph.model.remote import fetched, local_path, publish

    found = dict(values)
    progress = stack.enter_context(settings.progress())
    for name, (url, writes) in remote.items():
        if "://" not in local_path(url):
            found[name] = Path(local_path(url))
            continue
        found[name] = stack.enter_context(publish(url, progress) if writes else _path(fetched(url, progress)))
        settings.urls[str(found[name])] = url
    return found


@contextlib.contextmanager
def _path(fetching: "contextlib.AbstractContextManager[Any]") -> Iterator[Path]:
    with fetching as fetched:
        yield fetched.path
