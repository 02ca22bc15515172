"""Places: values of a command that are URLs, brought to this machine before it runs, and put there behind it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sn_graph.cli.console import Settings
from sn_graph.cli.declare import gathered, places
from sn_graph.errors import SnGraphError


@contextlib.contextmanager
def at_hand(
    function: Callable[..., None], values: Mapping[str, Any], settings: Settings
) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Give a command's values with local paths in place of URLs, and the URL of each such path.

    What is to be written to a URL is there when the block has ended.

    Args:
        function: The command, whose declarations say which values are paths, and which of those are written.
        values: As click gives them.
        settings: Whose progress tells of what is copied.

    Raises:
        ModelError: There is no such file.
        EnvironmentUnavailable: A store can't be reached, or a package is missing.
    """
    remote = {
        name: (url, writes)
        for name, writes in places(function).items()
        if isinstance(url := values.get(name), str)  # a path is no text any more
    }
    if not remote:
        yield dict(values), {}
        return
    from sn_graph.model.remote import fetched, local_path, publish

    found, urls = dict(values), {}
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(settings.progress())
        for name, (url, writes) in remote.items():
            if "://" not in local_path(url):
                found[name] = Path(local_path(url))
                continue
            found[name] = stack.enter_context(publish(url, progress) if writes else _path(fetched(url, progress)))
            urls[str(found[name])] = url
        yield found, urls


@contextlib.contextmanager
def _path(fetching: "contextlib.AbstractContextManager[Any]") -> Iterator[Path]:
    with fetching as fetched:
        yield fetched.path


def call(function: Callable[..., None], values: Mapping[str, Any], settings: Settings) -> None:
    """Run a command with click's values, its URLs at hand; what it tells and raises speaks of the URLs."""
    urls: dict[str, str] = {}
    try:
        with at_hand(function, values, settings) as (here, urls):
            function(settings=settings, **gathered(function, here))
    except SnGraphError as error:
        if not urls:
            raise
        raise type(error)(*(named(part, urls) for part in (error.what, error.why, error.do))) from None
    settings.tell(**named(settings.answer, urls))


def named(told: Any, urls: Mapping[str, str]) -> Any:
    """Return data or a text in which local copies are called by their URLs."""
    if not urls:
        return told
    if isinstance(told, str):
        for path, url in urls.items():
            told = told.replace(path, url)
        return told
    if isinstance(told, Mapping):
        return {key: named(value, urls) for key, value in told.items()}
    return [named(value, urls) for value in told] if isinstance(told, list | tuple) else told
