"""Neighbours: whether any file in sight uses a data file. In doubt it is used.

In sight are the files of its folder, of the folders in it and beside it, and of the folder above. A model is read for
what it refers to; any other file counts as soon as it contains the data file's name, whatever its format; a link, as
soon as it leads there.
"""

import contextlib
import json
import os
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from sn_graph.errors import ModelError
from sn_graph.model.external import external_location, is_external
from sn_graph.model.payload import Source
from sn_graph.model.skeleton import read_skeleton
from sn_graph.model.tensors import walk_tensors

_PATIENCE = 2.0  # seconds
_BYTES = 1 << 28  # read of files that are no models
_LARGEST = 1 << 26  # of one such file: formats that name data files elsewhere are small for it


class _InDoubt(Exception):
    """There is more to look at than the time allows, or something that can't be read."""


def data_files(path: Path) -> set[Path] | None:
    """Return the data files that a model refers to, there or not; None where the file is not a model."""
    try:
        proto, _ = read_skeleton(Source.map(path))
    except (OSError, ModelError):
        return None
    found = set()
    for _, tensor in walk_tensors(proto):
        if is_external(tensor):
            with contextlib.suppress(OSError, RuntimeError, ValueError):  # names that no file can have, loops of links
                found.add((path.parent / external_location(tensor)).resolve())
    return found


def used_nearby(data: Path) -> bool:
    """Say whether a file in sight uses a data file, or may."""
    data = data.parent.resolve() / data.name
    try:
        return _Search(data).found()
    except _InDoubt:
        return True


class _Search:
    def __init__(self, data: Path) -> None:
        self._data = data
        self._names = {os.fsencode(data.name), json.dumps(data.name)[1:-1].encode()}
        self._until = time.monotonic() + _PATIENCE
        self._left = _BYTES
        self._known: set[Path] = {data}  # data files of models that were read: no names in them
        self._unread: list[tuple[Path, bool]] = []  # with: whether it stands in the data file's own folder

    def found(self) -> bool:
        """Read models first, then whatever is not the data file of one."""
        for path, near in self._files():
            if time.monotonic() > self._until:
                raise _InDoubt
            refers = data_files(path)
            if refers is None:
                if not path.name.startswith(".sn-graph."):  # notes and data in the making
                    self._unread.append((path, near))
            elif self._data in refers:
                return True
            else:
                self._known |= refers
        return any(self._names_it(path, near) for path, near in self._unread if path not in self._known)

    def _files(self) -> Iterator[tuple[Path, bool]]:
        """Yield the plain files in sight, and whether they stand in the data file's own folder."""
        folder = self._data.parent
        device = os.stat(folder).st_dev
        yield from ((path, True) for path in self._plain(folder, device, deep=True, near=True))
        if folder.parent != folder:
            yield from ((path, False) for path in self._plain(folder.parent, device, deep=True, near=False))

    def _plain(self, folder: Path, device: int, deep: bool, near: bool) -> Iterator[Path]:
        try:
            entries = list(os.scandir(folder))
        except OSError:
            if near:
                raise _InDoubt from None
            return
        for entry in entries:
            if time.monotonic() > self._until:
                raise _InDoubt
            path = folder / entry.name
            try:
                there = entry.stat(follow_symlinks=False)
                if stat.S_ISLNK(there.st_mode):
                    if path.resolve() == self._data:
                        raise _InDoubt  # somebody calls it by another name
                    if not path.is_file():
                        continue
                    there = path.stat()
            except (OSError, RuntimeError):
                continue
            if stat.S_ISDIR(there.st_mode):
                if deep and there.st_dev == device and path != self._data.parent:
                    yield from self._plain(path, device, deep=False, near=False)
            elif stat.S_ISREG(there.st_mode) and path != self._data:
                yield path

    def _names_it(self, path: Path, near: bool) -> bool:
        try:
            size = path.stat().st_size
            if size > _LARGEST:
                return False
            if size > self._left or time.monotonic() > self._until:
                raise _InDoubt
            self._left -= size
            content = path.read_bytes()
        except OSError:
            if near and path.exists():
                raise _InDoubt from None
            return False
        return any(name in content for name in self._names)
