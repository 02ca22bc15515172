"""Files put in place atomically: a kill at any moment leaves the old model or the new one.

Everything is written under temporary names in the target folder. The data file has a final name from the beginning, one
that no file had, as a second link to the temporary file; a note tells of it until the model stands. The model file,
which refers to it, takes its place last, in one rename. What a killed process leaves, the next one in that folder
removes.
"""

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from sn_graph.errors import EnvironmentUnavailable
from sn_graph.model.neighbours import data_files
from sn_graph.model.temporary import Identity, collect, identity, note_of, remove_unused, temporary_path
from sn_graph.model.watch import note_in_place

_CHUNK = 1 << 23  # bytes written between two looks at the progress
_WAIT = 5.0  # seconds for another writer's commit in the same folder
_NO_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EXDEV})


@dataclass(frozen=True)
class _Reserved:
    """A data file in the making: its final name, its temporary one, and the open file itself."""

    path: Path
    part: Path
    file: BinaryIO
    identity: Identity


class StagedFiles:
    """A model file, and its data file where it has one, written beside their final place.

    Args:
        target: Where the model will stand; a link stays, and what it leads to is replaced.
        sync: Whether the files are on the disk itself before the model takes its place.

    Attributes:
        target: Where the model will stand, links followed.
        model: The temporary model file; it loads, with its data file, from where it is.
    """

    def __init__(self, target: Path, sync: bool = True) -> None:
        self.target = _followed(target)
        self._folder = self.target.parent
        self._sync = sync
        collect(self._folder)
        self.model = temporary_path(self._folder)
        self._temporary: list[Path] = []
        self._note: Path | None = None
        self._reserved: _Reserved | None = None
        self._replaced: list[tuple[str, Identity]] = []
        self._committing = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()

    def reserve_data(self) -> str:
        """Return the data file's name, in the folder of the model: one that is this writer's from now on."""
        return self._data().path.name

    def _data(self) -> _Reserved:
        if self._reserved is None:
            with _explained(self.target):
                self._reserve()
        assert self._reserved is not None, "what _reserve sees to, or raises"
        return self._reserved

    def _reserve(self) -> None:
        part = temporary_path(self._folder)
        self._temporary.append(part)
        file = open(part, "xb", buffering=0)  # noqa: SIM115 - closed by discard
        for name in self._data_names():
            path = self.target.with_name(name)
            if os.path.lexists(path):
                continue
            # Both the note and the knowledge of it come before the name is there: an interruption may come behind it.
            self._reserved = _Reserved(path, part, file, identity(part))
            self._write_note([(name, self._reserved.identity)])
            try:
                os.link(part, path)
            except FileExistsError:
                continue  # another writer was first
            except OSError as error:
                if error.errno not in _NO_LINKS:
                    raise
                file.close()
                self._reserve_without_links(path, part)
            return
        raise FileExistsError(errno.EEXIST, "its folder has no name free for a data file")

    def _reserve_without_links(self, path: Path, part: Path) -> None:
        """Make the data file under its final name, where the file system has no hard links."""
        file = open(path, "xb", buffering=0)  # noqa: SIM115
        self._reserved = _Reserved(path, part, file, identity(path))
        self._write_note([(path.name, self._reserved.identity)])

    def _data_names(self) -> Iterator[str]:
        yield f"{self.target.name}.data"
        for _ in range(100):
            yield f"{self.target.name}.{secrets.token_hex(4)}.data"

    def _write_note(self, names: list[tuple[str, Identity]]) -> None:
        """Tell whoever comes after a kill which data files belong to this save."""
        note = temporary_path(self._folder)
        self._temporary.append(note)
        with open(note, "xb") as file:
            file.write(note_of(names))
        if self._note is not None:
            self._remove(self._note)
        self._note = note

    def write_data(self, chunks: Iterable[memoryview], tick: Callable[[int], None]) -> None:
        """Write the data file, complete."""
        data = self._data()
        with _explained(self.target):
            self._fill(data.file, data.path, chunks, tick)
            self._remove(data.part)  # its other name stays

    def write_model(self, chunks: Iterable[memoryview], tick: Callable[[int], None]) -> None:
        """Write the model file under its temporary name."""
        self._temporary.append(self.model)
        # "x": never into a file that is already there, whatever the name.
        with _explained(self.target), open(self.model, "xb", buffering=0) as file:
            self._fill(file, self.model, chunks, tick)

    def _fill(self, file: BinaryIO, path: Path, chunks: Iterable[memoryview], tick: Callable[[int], None]) -> None:
        with contextlib.suppress(OSError):
            os.chmod(path, self.target.stat().st_mode & 0o777)  # as private as the model that it will replace
        for chunk in chunks:
            for start in range(0, len(chunk), _CHUNK):
                part = chunk[start : start + _CHUNK]
                tick(len(part))
                while part:
                    part = part[file.write(part) :]

    def commit(self, tidy: bool = True) -> None:
        """Put the model in place of what stood there, then remove its data file if it was ours and nothing uses it.

        Args:
            tidy: Whether what stood there may have had a data file at all.
        """
        with _explained(self.target):
            if self._sync:
                _sync(self.model)
                if self._reserved is not None:
                    _sync(self._reserved.path)
                _sync(self._folder)
            with _alone_in(self._folder):
                if tidy:
                    self._find_replaced()
                self._committing = True
                os.replace(self.model, self.target)
            if self._sync:
                _sync(self._folder)
        self.discard()

    def _find_replaced(self) -> None:
        """Find the data file of the model that is replaced, where the name is one that we gave it."""
        folder = self._folder.resolve()
        ours = re.compile(re.escape(self.target.name) + r"(\.[0-9a-f]{8})?\.data")
        for path in data_files(self.target) or ():
            if path.parent == folder and ours.fullmatch(path.name) and path.is_file():
                self._replaced.append((path.name, identity(path)))
        if self._replaced:
            own = [] if self._reserved is None else [(self._reserved.path.name, self._reserved.identity)]
            self._write_note(own + self._replaced)

    @property
    def _committed(self) -> bool:
        """Whether the model has taken its place; also where an interruption came right behind the rename."""
        return self._committing and not os.path.lexists(self.model)

    def discard(self) -> None:
        """Remove what was written and not committed; behind a commit, what is not needed any more."""
        if self._committed:
            note_in_place(self.target)
            remove_unused(self._folder, self._replaced)
            self._replaced.clear()
        elif self._reserved is not None:
            with contextlib.suppress(OSError):
                if identity(self._reserved.path) == self._reserved.identity:  # never what another process put there
                    self._reserved.path.unlink()
        for path in reversed(self._temporary.copy()):  # the note is the last but the model's
            self._remove(path)
        if self._reserved is not None:
            self._reserved.file.close()  # not before: no other file could get its inode
            self._reserved = None

    def _remove(self, path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()
        with contextlib.suppress(ValueError):
            self._temporary.remove(path)


def _followed(target: Path) -> Path:
    """Return where a link leads, so that the link stays. Raises EnvironmentUnavailable for what is not a plain file."""
    if os.path.islink(target):
        target = Path(os.path.realpath(target))
    if os.path.lexists(target) and not target.is_file():
        what = "a folder" if target.is_dir() else "no plain file"  # a device would be replaced, not written to
        raise EnvironmentUnavailable(f"{target} can't be written", f"it is {what}", "choose another place")
    return target


def same_file(one: Path, other: Path) -> bool:
    """Say whether two paths lead to the same file, by links of either kind too."""
    try:
        return one.samefile(other)
    except (OSError, ValueError):  # one is not there, or is no name
        return False


def write_file(path: Path, content: bytes) -> None:
    """Write a small file atomically. Raises EnvironmentUnavailable where the folder can't be written."""
    with StagedFiles(path) as staged:
        staged.write_model([memoryview(content)], lambda _: None)
        staged.commit(tidy=False)


def require_writable(target: Path) -> None:
    """Raise EnvironmentUnavailable where a file can't be put at `target`: before work is done that would be lost."""
    with _explained(target):
        followed = _followed(target)
        collect(followed.parent)
        probe = temporary_path(followed.parent)
        os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        probe.unlink()


def _sync(path: Path) -> None:
    """Wait until a file or folder is on the disk; not every file system can do that for folders."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        if path.is_dir():
            return
        raise
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Keep other writers of sn-graph from committing in a folder meanwhile, where the system can.

    Without it no model would be torn either, but a data file could stay that nobody uses.
    """
    try:
        import fcntl

        descriptor = os.open(folder, os.O_RDONLY)
    except (ImportError, OSError):
        yield
        return
    try:
        until = time.monotonic() + _WAIT
        while time.monotonic() < until:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.01)
            except OSError:
                break
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _explained(target: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentUnavailable(
            f"{target} can't be written", str(error.strerror), "choose another place"
        ) from None
