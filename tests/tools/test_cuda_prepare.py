"""Wheels split, carried in parts, joined, checked and installed: a small one, made here."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.support.places import ROOT

SCRIPT = ROOT / "tools" / "cuda_prepare.sh"
WHEEL = "carried-1.0-py3-none-any.whl"
SIZE = 2_500_000  # three parts of 1 MB

pytestmark = pytest.mark.skipif(shutil.which("split") is None, reason="needs GNU coreutils")


def prepare(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {**os.environ, "PYTHON": sys.executable, "MEGABYTES": "1", **environment}
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False, env=known)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    folder = tmp_path / "packed"
    folder.mkdir()
    metadata = {
        "METADATA": "Metadata-Version: 2.1\nName: carried\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr(
            "carried/__init__.py", "from pathlib import Path\nsize = (Path(__file__).parent / 'data').stat().st_size"
        )
        wheel.writestr("carried/data", np.random.default_rng(0).bytes(SIZE))
        for name, text in metadata.items():
            wheel.writestr(f"carried-1.0.dist-info/{name}", text)
    done = prepare("split", folder)
    assert done.returncode == 0, done.stderr
    return folder


def carried(packed: Path, tmp_path: Path, *numbers: int) -> Path:
    """A folder that holds some of the parts, as one transport brings them."""
    folder = tmp_path / f"carried{''.join(map(str, numbers))}"
    folder.mkdir()
    for name in ["SHA256SUMS", *(f"{WHEEL}.part{number:03}" for number in numbers)]:
        shutil.copy(packed / name, folder)
    return folder


def test_parts_come_one_at_a_time_and_are_installed_with_the_last(packed: Path, tmp_path: Path) -> None:
    parts = sorted(path.name for path in packed.glob("*.part*"))
    assert parts == [f"{WHEEL}.part{number:03}" for number in range(3)]
    assert all(path.stat().st_size <= 1_000_000 for path in packed.iterdir())
    target = tmp_path / "target"
    for number, left in ((2, "2 parts are still to come"), (0, f"1 parts are still to come: {WHEEL}.part001")):
        done = prepare("install", carried(packed, tmp_path, number), target)
        assert done.returncode == 3
        assert left in done.stderr
    done = prepare("install", carried(packed, tmp_path, 1), target)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"installed {WHEEL}\n"
    read = [sys.executable, "-c", "import carried; print(carried.size)"]
    answer = subprocess.run(
        read, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": str(target)}
    )
    assert answer.stdout == f"{SIZE}\n"
    assert not (target / ".parts").exists()


def test_a_damaged_part_is_refused_and_the_others_kept(packed: Path, tmp_path: Path) -> None:
    folder, target = carried(packed, tmp_path, 0, 1, 2), tmp_path / "target"
    part = folder / f"{WHEEL}.part001"
    content = bytearray(part.read_bytes())
    content[1234] ^= 1
    part.write_bytes(content)
    done = prepare("install", folder, target)
    assert done.returncode == 3
    assert done.stderr == f"cuda_prepare: part {WHEEL}.part001 is damaged, or of another packing; bring it again\n"
    assert prepare("install", carried(packed, tmp_path, 1, 2), target).returncode == 0


def test_parts_of_another_packing_do_not_mix(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    assert prepare("install", carried(packed, tmp_path, 0, 1), target).returncode == 3
    other = carried(packed, tmp_path, 2)
    sums = other / "SHA256SUMS"
    sums.write_text(sums.read_text().replace(sums.read_text()[:4], "0000", 1))
    done = prepare("install", other, target)
    assert done.returncode == 3
    assert "2 parts are still to come" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "pack, split, install or check"),
        (["install", "."], 2, "install needs a folder and a target"),
        (["split", "/nowhere"], 1, "No such file"),
        (["check", "."], 4, "not the one in"),
    ],
)
def test_a_wrong_call_says_what_is_wrong(arguments: list[str], code: int, message: str) -> None:
    done = prepare(*arguments)
    assert done.returncode == code
    assert message in done.stderr


def test_parts_are_under_64_megabytes(packed: Path) -> None:
    done = prepare("split", packed, MEGABYTES="64")
    assert (done.returncode, done.stderr) == (2, "cuda_prepare: parts have to be under 64 MB, not 64\n")
