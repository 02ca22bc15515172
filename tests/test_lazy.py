"""Lazy faces: what they hand out, and that they import it no earlier than it is used."""

from __future__ import annotations

import builtins
import importlib
import pickle
import pkgutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import sn_graph
from sn_graph.lazy import lazily
from tests.support.places import ROOT

FACES = ["sn_graph"] + [
    module.name
    for module in pkgutil.walk_packages(sn_graph.__path__, "sn_graph.")
    if module.ispkg and hasattr(importlib.import_module(module.name), "_homes")
]


@pytest.mark.parametrize("name", FACES)
def test_a_face_hands_out_what_it_lists(name: str) -> None:
    face = importlib.import_module(name)
    assert dir(face) == sorted(face.__all__)
    homes = vars(face)["_homes"]
    assert {*homes} == {*face.__all__} - {"__version__"}
    for one, home in homes.items():
        assert getattr(face, one) is getattr(importlib.import_module(home.module), home.name)


def test_all_faces_of_rooms_are_lazy() -> None:
    assert len(FACES) == 27
    alone = f"import sys, {', '.join(FACES)}; print(*(name for name in sys.modules if name.startswith('sn_graph')))"
    done = subprocess.run([sys.executable, "-c", alone], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    assert {*done.stdout.split()} == {*FACES, "sn_graph.lazy", "sn_graph.version", "sn_graph.spectral"}


def test_what_is_handed_out_pickles() -> None:
    assert pickle.loads(pickle.dumps(sn_graph.PassResult)) is sn_graph.PassResult
    assert pickle.loads(pickle.dumps(sn_graph.fold)) is sn_graph.fold
    assert sn_graph.certify.__name__ == "certify"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A package, once for each test, whose modules count how often they run."""
    name = f"lazy_{tmp_path.name.replace('-', '_')}"
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text(
        "from sn_graph.lazy import lazily\n"
        "with lazily(__name__):\n"
        f"    from {name}.follow import follow, Step as Stride\n"
        f"    from {name}.broken import nothing\n"
        f"    from {name}.follow import missing\n"
        "__all__ = ['Stride', 'follow', 'missing', 'nothing']\n"
    )
    (tmp_path / name / "follow.py").write_text("class Step: ...\ndef follow(): return 'followed'\n")
    (tmp_path / name / "broken.py").write_text("raise RuntimeError('broken')\n")
    (tmp_path / name / "inner.py").write_text(f"from {name} import follow\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield name
    for known in [known for known in sys.modules if known.partition(".")[0] == name]:
        del sys.modules[known]


def test_a_module_is_imported_with_its_first_name(package: str) -> None:
    face = importlib.import_module(package)
    assert f"{package}.follow" not in sys.modules
    assert face.Stride.__name__ == "Step"
    assert f"{package}.follow" in sys.modules
    assert face.follow() == "followed"


def test_a_name_is_not_lost_to_the_module_that_is_called_the_same(package: str) -> None:
    """Python binds a submodule in its package whenever it is imported, before or behind the name's first use."""
    inner = importlib.import_module(f"{package}.inner")
    assert inner.follow() == "followed"
    face = importlib.import_module(package)
    assert face.follow() == "followed"
    importlib.reload(sys.modules[f"{package}.follow"])
    assert face.follow() == "followed"
    assert face.inner is inner


def test_what_is_not_there_is_an_attribute_error(package: str) -> None:
    face = importlib.import_module(package)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nosuch'"):
        _ = face.nosuch
    with pytest.raises(ImportError, match="cannot import name 'nosuch'"):
        exec(f"from {package} import nosuch")
    with pytest.raises(AttributeError, match="missing"):
        _ = face.missing
    with pytest.raises(RuntimeError, match="broken"):
        _ = face.nothing


def test_a_name_can_be_replaced(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    face = importlib.import_module(package)
    with monkeypatch.context() as patch:
        patch.setattr(face, "follow", lambda: "replaced")
        assert face.follow() == "replaced"
    assert face.follow() == "followed"


def test_an_interruption_leaves_pythons_import(package: str) -> None:
    before = builtins.__import__
    module = importlib.import_module(package)
    with pytest.raises(KeyboardInterrupt), lazily(module.__name__):
        raise KeyboardInterrupt
    assert builtins.__import__ is before


def test_other_threads_import_as_ever(package: str) -> None:
    before, found = builtins.__import__, []

    def elsewhere() -> None:
        import json.tool

        found.append(json.tool.__name__)

    importlib.import_module(package)
    with lazily(package):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    assert found == ["json.tool"]
    assert builtins.__import__ is before
