"""Temporary files: names that say whose they are, and the removal of those whose process is dead.

`.sn-graph.<process id>-<its start>-<host>.<8 hex>.tmp`. The host is its boot, its name and the process's namespace, so
that in a folder that hosts or containers share nobody judges processes that it can't see. After a restart of the host
what it left is nobody's, and stays.
"""

import contextlib
import functools
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from sn_graph.model.neighbours import used_nearby
from sn_graph.model.watch import tell_written

_NAME = re.compile(r"\.sn-graph\.(\d{1,10})-(\d{1,20})-([0-9a-f]{8})\.[0-9a-f]{8}\.tmp")
_DATA = re.compile(r"[^/\0]+\.data")
_NOTE = b"sn-graph: data files to be removed where no model uses them\n"
_NOTE_LIMIT = 1 << 16  # bytes

Identity = tuple[int, int]
"""A file's device and inode: what tells it from another of the same name."""


def temporary_path(folder: Path) -> Path:
    """Return a temporary name of this process in a folder, and tell of the folder."""
    tell_written(folder)
    pid = os.getpid()
    return folder / f".sn-graph.{pid}-{_start(pid) or 0}-{_host()}.{secrets.token_hex(4)}.tmp"


def identity(path: Path) -> Identity:
    """Return which file stands at a path, links not followed. Raises OSError where there is none."""
    there = os.lstat(path)
    return there.st_dev, there.st_ino


def note_of(names: Iterable[tuple[str, Identity]]) -> bytes:
    """Return the content of a temporary file that tells of data files which are to go where nothing uses them."""
    return _NOTE + b"".join(
        f"{device} {inode} ".encode() + os.fsencode(name) + b"\0" for name, (device, inode) in names
    )


def collect(folder: Path) -> None:
    """Remove the temporary files of dead processes of this host in a folder, and the data files that they tell of."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.name.startswith(".sn-graph.")]
    except OSError:
        return
    notes = []
    shared = os.path.realpath(folder) == os.path.realpath(tempfile.gettempdir())
    for name in names:
        match = _NAME.fullmatch(name)
        if match is None or match[3] != _host() or _alive(int(match[1]), int(match[2])):
            continue
        path = folder / name
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.lstat(path).st_mode):
                told = _told(path)
                if told:
                    notes.append((path, told))
                else:
                    path.unlink()
            elif shared and stat.S_ISDIR(os.lstat(path).st_mode):
                shutil.rmtree(path, ignore_errors=True)
    for path, told in notes:  # behind the models in the making, which use the data files
        remove_unused(folder, told)
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder for temporary files, removed behind the block; after a kill, by the next process to make one.

    Raises:
        OSError: It can't be made.
    """
    place = Path(tempfile.gettempdir())
    collect(place)
    folder = temporary_path(place)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unused(folder: Path, data: Iterable[tuple[str, Identity]]) -> None:
    """Remove those data files of a folder that are the very files meant, and that nothing in sight uses."""
    for name, meant in data:
        path = folder / name
        with contextlib.suppress(OSError):
            there = os.lstat(path)
            plain = stat.S_ISREG(there.st_mode) and there.st_nlink == 1
            if plain and (there.st_dev, there.st_ino) == meant and not used_nearby(path):
                path.unlink()


def _told(path: Path) -> list[tuple[str, Identity]]:
    with open(path, "rb") as file:
        content = file.read(_NOTE_LIMIT)
    found = []
    if content.startswith(_NOTE):
        for line in content[len(_NOTE) :].split(b"\0")[:-1]:
            device, inode, name = line.split(b" ", 2)
            if device.isdigit() and inode.isdigit() and _DATA.fullmatch(os.fsdecode(name)):
                found.append((os.fsdecode(name), (int(device), int(inode))))
    return found


def _alive(pid: int, start: int) -> bool:
    """Say whether the process is still there; in doubt it is."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except OSError:
        return True  # another user's
    started = _start(pid)
    return not start or started is None or started == start


def _start(pid: int) -> int | None:
    """Return when a process started, in ticks since the host did; 0 for one that has ended, None where none knows."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return 0 if fields[0] in (b"Z", b"X") and pid != os.getpid() else int(fields[19])
    except (OSError, IndexError, ValueError):
        return None


@functools.cache
def _host() -> str:
    parts = [platform.node()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
