"""Versions, turns, ratios and tables: what every benchmark of this folder needs.

A shared machine changes its speed from minute to minute, so ways are never timed one after the other: they take turns
(`interleaved`), and a figure is a ratio of times within the same round (`ratios`).
"""

import importlib.metadata
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from threadpoolctl import threadpool_info

T = TypeVar("T")


def versions(packages: Iterable[str], *more: str, name_absent: bool = False) -> str:
    """Return one line: Python and the packages with their versions, `more`, and the machine.

    Args:
        packages: Distribution names, as pip knows them.
        more: Further parts, such as `blas()`.
        name_absent: Whether packages that are not installed are named as such, instead of left out.
    """
    found = {name: _version(name) for name in packages}
    named = [f"{name} {version or 'not installed'}" for name, version in found.items() if version or name_absent]
    parts = [f"Python {platform.python_version()}", *named, *more]
    return f"{', '.join(parts)}; {platform.machine()}, {cores()} cores"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def blas() -> str:
    """Return the BLAS libraries that are loaded, each with its version and number of threads."""
    loaded = (library for library in threadpool_info() if library["user_api"] == "blas")
    return ", ".join(f"{one['internal_api']} {one['version']} with {one['num_threads']} threads" for one in loaded)


def clock(run: Callable[[], T]) -> tuple[float, T]:
    """Run once; return the seconds it took and what it gave."""
    begin = time.perf_counter()
    value = run()
    return time.perf_counter() - begin, value


def interleaved(
    ways: Mapping[str, Callable[[], T]],
    *,
    rounds: int,
    seconds: float = 0.0,
    shuffled: bool = False,
    enough: Callable[[T], bool] = lambda _: False,
) -> dict[str, list[T]]:
    """Let every way take one turn in each round; return what the turns gave, by way.

    Args:
        ways: By name, a callable that takes a turn and returns what it measured, such as its seconds.
        rounds: How many rounds there are at least.
        seconds: Further rounds are made until so much time has passed.
        shuffled: Whether each round has an order of its own, drawn from a fixed seed.
        enough: Told what a turn gave; a way of which it is true takes no further turn (one that is far too slow).
    """
    taken: dict[str, list[T]] = {way: [] for way in ways}
    waiting = list(ways)
    rng, end, done = np.random.default_rng(0), time.monotonic() + seconds, 0
    while done < rounds or time.monotonic() < end:
        order = [waiting[place] for place in rng.permutation(len(waiting))] if shuffled else list(waiting)
        for way in order:
            taken[way].append(ways[way]())
            if enough(taken[way][-1]):
                waiting.remove(way)
        done += 1
        if not waiting:
            break
    return taken


@dataclass(frozen=True)
class Ratios:
    """How many times as long as its baseline a way takes.

    Attributes:
        median: The median over the rounds of the ratio within a round.
        least: The ratio of the two least times; where it is far from the median, something else ran meanwhile.
    """

    median: float
    least: float


def ratios(times: Sequence[float], base: Sequence[float]) -> Ratios:
    """Return the ratios of a way's times, one a round, to its baseline's in the same rounds."""
    within = [time / other for time, other in zip(times, base, strict=True)]
    return Ratios(statistics.median(within), min(times) / min(base))


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table, without a newline at its end; rows that are shorter than the head are filled up."""
    lines = [head, *([*row, *[""] * (len(head) - len(row))] for row in rows)]
    text = [f"| {' | '.join(cells)} |" for cells in lines]
    return "\n".join([text[0], "|---" * len(head) + "|", *text[1:]])
