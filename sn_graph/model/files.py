"""Files put in place atomically: a kill at any moment leaves the old model or the new one.

Everything is written under temporary names in the target folder. The data file gets its final name first, a name
that no file had; the model file, which refers to it, takes its place last, in one rename.
"""

import contextlib
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from sn_graph.errors import EnvironmentUnavailable, ModelError
from sn_graph.model.external import external_location, is_external
from sn_graph.model.payload import Source
from sn_graph.model.skeleton import read_skeleton
from sn_graph.model.tensors import walk_tensors

_CHUNK = 1 << 23  # bytes written between two looks at the progress


class StagedFiles:
    """A model file, and its data file where it has one, written beside their final place.

    Attributes:
        target: Where the model will stand.
        model: The temporary model file; it loads, with its data file, from where it is.
        data_name: The name of the data file.
    """

    def __init__(self, target: Path) -> None:
        target = _followed(target)
        self.target = target
        self.model = _temporary(target)
        free = target.with_name(f"{target.name}.data")
        if os.path.lexists(free):
            free = target.with_name(f"{target.name}.{secrets.token_hex(4)}.data")
        self._data = free
        self._created: list[Path] = []
        self._committing = False

    @property
    def data_name(self) -> str:
        """The data file's name, in the folder of the model."""
        return self._data.name

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def write_data(self, chunks: Iterable[memoryview], tick: Callable[[int], None]) -> None:
        """Write the data file, complete, under its final name."""
        part = _temporary(self._data)
        self._write(part, chunks, tick)
        self._created.append(self._data)
        with _explained(self._data):
            os.rename(part, self._data)

    def write_model(self, chunks: Iterable[memoryview], tick: Callable[[int], None]) -> None:
        """Write the model file under its temporary name."""
        self._write(self.model, chunks, tick)

    def _write(self, path: Path, chunks: Iterable[memoryview], tick: Callable[[int], None]) -> None:
        self._created.append(path)
        # "x": never into a file that is already there, whatever the name.
        with _explained(self.target), open(path, "xb", buffering=0) as file:
            with contextlib.suppress(OSError):
                os.chmod(path, self.target.stat().st_mode & 0o777)  # as private as the model that it will replace
            for chunk in chunks:
                for start in range(0, len(chunk), _CHUNK):
                    part = chunk[start : start + _CHUNK]
                    tick(len(part))
                    while part:
                        part = part[file.write(part) :]

    def commit(self) -> None:
        """Put the model in place of what stood there, then remove the data files that nothing refers to any more."""
        folder = self.target.parent.resolve()
        replaced = {path for path in data_files(self.target) if path.is_relative_to(folder) and path.is_file()}
        self._committing = True
        with _explained(self.target):
            os.replace(self.model, self.target)
        self._created.clear()
        if replaced:
            for other in folder.iterdir():
                if other.is_file() and other not in replaced:
                    replaced -= data_files(other)
            for path in replaced:
                with contextlib.suppress(OSError):
                    path.unlink()

    def discard(self) -> None:
        """Remove what was written and not committed."""
        for path in reversed(self._created):
            try:
                path.unlink()
            except FileNotFoundError:
                if path == self.model and self._committing:
                    break  # interrupted right behind the last rename: the model stands, and its data with it
            except OSError:
                pass
        self._created.clear()


def data_files(path: Path) -> set[Path]:
    """Return the data files that a model refers to, there or not; none where the file is not a model."""
    try:
        proto, _ = read_skeleton(Source.map(path))
    except (OSError, ModelError):
        return set()
    found = set()
    for _, tensor in walk_tensors(proto):
        if is_external(tensor):
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # names that no file can have, loops of links
                found.add((path.parent / external_location(tensor)).resolve())
    return found


def _followed(target: Path) -> Path:
    """Return where a link leads, so that the link stays. Raises EnvironmentUnavailable for what is not a plain file."""
    if target.is_symlink():
        target = Path(os.path.realpath(target))
    if os.path.lexists(target) and not target.is_file():
        what = "a folder" if target.is_dir() else "no plain file"  # a device would be replaced, not written to
        raise EnvironmentUnavailable(f"{target} can't be written", f"it is {what}", "choose another place")
    return target


def _temporary(path: Path) -> Path:
    return path.with_name(f".sn-graph.{secrets.token_hex(4)}.tmp")


def write_file(path: Path, content: bytes) -> None:
    """Write a small file atomically. Raises EnvironmentUnavailable where the folder can't be written."""
    with StagedFiles(path) as staged:
        staged.write_model([memoryview(content)], lambda _: None)
        staged.commit()


def require_writable(target: Path) -> None:
    """Raise EnvironmentUnavailable where a file can't be put at `target`: before work is done that would be lost."""
    with _explained(target):
        probe = _temporary(_followed(target))
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        probe.unlink()


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentUnavailable(
            f"{target} can't be written", str(error.strerror), "choose another place"
        ) from None
