"""Make the golden arrays of two generations of Keras, check them, or write the table of parity.

    python -m tools.golden_keras --generation 2.15             # records tests/golden/keras_2_15.npz again
    python -m tools.golden_keras --generation 2.21 --check     # writes nothing; does it come out the same?
    python -m tools.golden_keras --table docs/parity-keras.md  # needs the extras `cpu` and `keras`, for Keras 3 live

Run it from the repository's root. A generation is recorded in an environment of its own, which is built when it is not
there (about 2 GB and some minutes each; `--environments` says where), or with the `--python` given. Keras 2.15 needs
Python 3.9 to 3.11. --check ends with 1 where an input, a u₀ or an exported model is not the same, bit for bit, or a
result differs by more than 1e-5 of its largest value: another processor may add in another order, and Keras's
repeated division lets such differences grow (to 7e-6 in 1,000 calls).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tools.golden_keras.cases import GENERATIONS
from tools.golden_keras.environments import default_folder, interpreter, record
from tools.golden_keras.replay import Array, file_of

REPRODUCED = 1e-5


def make(generation: str, python: Path | None, environments: Path, check: bool) -> int:
    """Record a generation into its file, or compare with it."""
    with tempfile.TemporaryDirectory() as name:
        made = Path(name) / "golden.npz"
        record(generation, python or interpreter(generation, environments), made)
        if check:
            return report(read(made), read(file_of(generation)), file_of(generation).name)
        shutil.copyfile(made, file_of(generation))
    print(f"{file_of(generation)}: {file_of(generation).stat().st_size} bytes")
    return 0


def read(path: Path) -> dict[str, Array]:
    """Return the arrays of an .npz file by name."""
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def report(made: Mapping[str, Array], kept: Mapping[str, Array], name: str) -> int:
    """Say how far new arrays are those that are kept; return the exit code."""
    if made.keys() != kept.keys():
        print(f"{name}: {', '.join(sorted(made.keys() ^ kept.keys()))} only on one side")
        return 1
    apart = {key: distance(made[key], kept[key]) for key in made if not np.array_equal(made[key], kept[key])}
    failed = sorted(key for key, far in apart.items() if "/step" not in key or not far <= REPRODUCED)
    print(f"{name}: {len(made) - len(apart)} of {len(made)} arrays come out bit for bit the same")
    if apart:
        print(f"the others differ by at most {max(apart.values()):.1e} of their largest value")
    for key in failed:
        print(f"different: {key}")
    return 1 if failed else 0


def distance(a: Array, b: Array) -> float:
    """Return max|a-b| / max|b|; infinite where no number can tell."""
    if a.shape != b.shape or a.dtype != b.dtype or a.dtype.kind != "f":
        return np.inf
    return float(np.abs(a - b).max() / np.abs(b).max())


def main(arguments: list[str] | None = None) -> int:
    """Record, check or write the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.golden_keras", description=(__doc__ or "").split("\n")[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--generation", choices=GENERATIONS, help="record this generation")
    what.add_argument("--table", type=Path, metavar="FILE", help="write the table of parity into this page")
    parser.add_argument("--check", action="store_true", help="write nothing; compare with what is kept")
    parser.add_argument("--environments", type=Path, metavar="FOLDER", default=default_folder())
    parser.add_argument("--python", type=Path, metavar="FILE", help="the Python of an environment that is there")
    given = parser.parse_args(arguments)
    if given.check and given.table:
        parser.error("--check is of --generation: the table holds a date, and rounding differs between processors")
    if given.generation:
        return make(given.generation, given.python, given.environments, given.check)
    from tools.golden_keras.table import write_table

    write_table(given.table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
