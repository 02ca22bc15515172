"""Fuzz sn-graph by coverage: `python -m tools.fuzz.guided FOLDER -max_total_time=60`, with libFuzzer's options.

Needs atheris (`pip install atheris`: wheels for Linux). It keeps in FOLDER each file that reaches code that none before
did, beginning with the seeds, and changes them by `mutate`, so that most stay messages that protobuf reads. A file
fails where opening, saving, inspect, fold, insert, strip, lift or certify raise anything but SnGraphError, take more
than 10 s, or more than 2 GB, of which coverage takes a part itself; libFuzzer keeps it as crash-… or timeout-….
"""

import random
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tools.fuzz.mutate import mutate
from tools.fuzz.seeds import seeds

_BUDGET = 0.1  # seconds that certify gets
_LIMITS = ("-timeout=10", "-rss_limit_mb=2048", "-max_len=1048576")


def main() -> None:
    """Fuzz until libFuzzer's options say to stop; the process ends with its exit code."""
    import atheris

    with atheris.instrument_imports(include=["sn_graph"], enable_loader_override=False):
        import sn_graph.api  # noqa: F401
    own = [Path(argument) for argument in sys.argv[1:] if not argument.startswith("-")]
    corpus = seeds()
    for folder in own[:1]:
        folder.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(corpus):
            (folder / f"seed.{number}").write_bytes(seed)

    def changed(data: bytes, most: int, seed: int) -> bytes:
        made = mutate(data or corpus[0], random.Random(seed), corpus)
        return made if len(made) <= most else data

    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "case.onnx"
        given = [*sys.argv, *(limit for limit in _LIMITS if limit.partition("=")[0] not in str(sys.argv))]
        atheris.Setup(given, lambda data: judge(data, path), custom_mutator=changed)
        atheris.Fuzz()


def judge(data: bytes, path: Path) -> None:
    """Put a file's content to everything that reads it. Raises whatever is no SnGraphError.

    Args:
        data: The content.
        path: Where to write it, so that it is read as any file is.
    """
    import sn_graph as sn
    from sn_graph.certify import certify

    path.write_bytes(data)
    saved = path.with_suffix(".saved")
    if _refused(lambda: sn.Model.open(path).save(saved, sync=False)):
        return
    data_file = path.with_suffix(".saved.data")  # whose name stands in the model
    if data_file.exists():
        data_file.unlink()
    elif saved.read_bytes() != data:
        raise AssertionError("saved with other bytes")
    steps: tuple[Callable[[Path], object], ...] = (sn.inspect, sn.fold, sn.insert, sn.strip, sn.lift)
    for step in steps:
        _refused(partial(step, path))
    _refused(lambda: certify(sn.Model.open(path), budget=_BUDGET))  # without the runs that measure its witness


def _refused(step: Callable[[], object]) -> bool:
    from sn_graph.errors import SnGraphError

    try:
        step()
    except SnGraphError:
        return True
    return False


if __name__ == "__main__":
    main()
