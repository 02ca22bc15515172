"""Places: values of a command that are URLs, brought to this machine before it runs, and put there behind it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from sn_graph.cli.console import Settings
from sn_graph.cli.declare import gathered, places
from sn_graph.errors import SnGraphError


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


@contextlib.contextmanager
def at_hand(function: Callable[..., None], values: Mapping[str, Any], settings: Settings) -> Iterator[dict[str, Any]]:
    """Give a command's values with local paths in place of URLs.

    What is to be written to a URL is there when the block has ended.

    Args:
        function: The command, whose declarations say which values are paths, and which of those are written.
        values: As click gives them.
        settings: Whose progress tells of what is copied; they learn what the copies are called.

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
        yield dict(values)
        return
    from sn_graph.model.remote import fetched, local_path, publish

    found = dict(values)
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(settings.progress())
        for name, (url, writes) in remote.items():
            if "://" not in local_path(url):
                found[name] = Path(local_path(url))
                continue
            found[name] = stack.enter_context(publish(url, progress) if writes else _path(fetched(url, progress)))
            settings.urls[str(found[name])] = url
        yield found


@contextlib.contextmanager
def _path(fetching: "contextlib.AbstractContextManager[Any]") -> Iterator[Path]:
    with fetching as fetched:
        yield fetched.path
