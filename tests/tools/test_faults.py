"""The trials of faults: they find nothing in what is right, and find what is wrong."""

import random
from pathlib import Path

import onnx
import pytest

from tools import faults


@pytest.fixture
def place(tmp_path: Path) -> faults.Place:
    return next(faults.places(tmp_path, None))


def test_a_kill_and_a_cut_are_survived(place: faults.Place) -> None:
    verdicts = faults.Verdicts()
    for fault in (faults.kill, faults.cut):
        fault(place, "fold, external", verdicts, random.Random(1), 2)
    assert sum(verdicts.counts.values()) == 4
    assert verdicts.wrong == []


def test_what_is_wrong_is_found(place: faults.Place) -> None:
    old = faults.old_output(place)
    strange = faults.strangers(place)
    assert faults.violation(place, {old}, strange) is None
    assert faults.leftovers(place, set(strange)) is None
    (place.folder / ".sn-graph.tmp").touch()
    assert faults.leftovers(place, set(strange)) == "left behind: .sn-graph.tmp"
    assert "neither the old model nor the new one" in (faults.violation(place, set(), strange) or "")
    (place.folder / "thesis.docx").unlink()
    assert faults.violation(place, {old}, strange) == "thesis.docx was lost or changed"
    proto = onnx.load(place.out, load_external_data=False)
    place.out.write_bytes(proto.SerializeToString()[:-300])
    assert "torn" in (faults.violation(place, {old}, strange) or "")


@pytest.mark.parametrize("command", ["fold, page", "fold, many", "fold, checkpoint"])
def test_what_is_written_beside_the_output_is_looked_at(command: str, place: faults.Place) -> None:
    new, _, _ = faults.expected(place, command)
    faults.old_output(place, command)
    strange = faults.strangers(place)
    assert faults.after(place, command, new, strange) is None
    for path in place.beside(command):
        if path.suffix != ".data":
            whole = path.read_bytes()
            path.write_bytes(whole[: len(whole) // 4])  # within the first of two lines
            assert f"{path.name} is torn" in (faults.torn(place, command) or "")
            path.write_bytes(whole)


def test_stops_are_survived(place: faults.Place) -> None:
    verdicts = faults.Verdicts()
    faults.stop(place, "insert", verdicts, random.Random(1), 3)
    assert verdicts.wrong == []
    assert sum(verdicts.counts.values()) == 3
