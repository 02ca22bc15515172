"""Works for tests: picklable, so that other processes can do them."""

import os
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.fleet import Ending, error_of
from sn_graph.progress import Progress


@dataclass(frozen=True)
class Counting:
    """Notes each file that it does in a file of `notes`, and writes its size to the output.

    A file that holds "broken" fails; "raise" raises; one that holds "kill N" kills its process, N times in all.
    """

    notes: Path
    seconds: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    command: str = "count"

    def __call__(self, path: Path, output: Path | None, progress: Progress) -> Ending:
        content = path.read_text()
        with open(self.notes / f"{path.name}.txt", "a") as file:
            file.write(f"{os.getpid()}\n")
        progress("measuring", 0, 1)
        time.sleep(self.seconds)
        if content.startswith("raise"):
            raise RuntimeError("a fault of ours")
        if content.startswith("kill"):
            count = len((self.notes / f"{path.name}.txt").read_text().splitlines())
            if count <= int(content.split()[1]):
                os.kill(os.getpid(), signal.SIGKILL)
        if content.startswith("broken"):
            return Ending(
                {"model": str(path)}, error_of(ModelError(f"{path} is broken", "because it says so", "mend it"))
            )
        if output is not None:
            output.write_text(f"{len(content)}")
        blas = os.environ.get("OPENBLAS_NUM_THREADS")
        return Ending({"model": str(path), "output": str(output), "length": len(content), "blas": blas})

    def times(self, name: str) -> int:
        note = self.notes / f"{name}.txt"
        return len(note.read_text().splitlines()) if note.exists() else 0


@dataclass(frozen=True)
class Letters(Counting):
    """Counts the letters of a file one by one."""

    letter: str = ""

    def parts(self, path: Path) -> Sequence[tuple[str, int]]:
        return [(letter, 1) for letter in path.read_text()] if path.stat().st_size > 3 else ()

    def of_part(self, name: str) -> "Letters":
        return replace(self, letter=name)

    def joined(self, path: Path, endings: Sequence[Ending]) -> Ending:
        return Ending({"model": str(path), "letters": "".join(ending.answer["letter"] for ending in endings)})

    def __call__(self, path: Path, output: Path | None, progress: Progress) -> Ending:
        if not self.letter:
            return super().__call__(path, output, progress)
        if self.letter == "!":
            return Ending({}, error_of(ModelError("no letter", "because it is a mark", "leave it out")))
        return Ending({"letter": self.letter})
