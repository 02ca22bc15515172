"""The house: who may import what, what stands at the top, and habits that no linter knows.

docs and CONTRIBUTING say why; the layers themselves are import-linter's contract in pyproject.toml.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.support.places import ROOT

ROOMS = (
    *("model", "sites", "state", "recognise", "plan", "norms", "passes", "report"),
    *("rewrite", "rewrite.insertion", "certify", "certify.rules", "certify.steps", "model.checkpoint", "model.remote"),
    "fleet",
    *("frontends.keras", "frontends.torch", "proofs", "proofs.keras"),
    *("runtime", "runtime.engine", "runtime.parity", "runtime.session"),
    *("spectral.linalg", "spectral.lmi", "spectral.matrix", "spectral.convolution"),
)
HALLS = {"cli", "frontends", "interop", "spectral"}  # packages that are no rooms: nothing is imported from their faces
TOP = {
    "__init__.py",
    "__main__.py",
    "api.py",
    "choices.py",
    "errors.py",
    "lazy.py",
    "pages.py",
    "progress.py",
    "version.py",
    "py.typed",
}
SOURCES = [
    path
    for folder in ("sn_graph", "passes", "tools")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.relative_to(ROOT).parts[:2] != ("sn_graph", "passes")  # a link to passes/, in checkouts that have it
]
IDS = [path.relative_to(ROOT).as_posix() for path in SOURCES]


def module_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    if parts[0] == "passes":
        parts.insert(0, "sn_graph")
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def room_of(module: str) -> str | None:
    """The innermost room that a module stands in."""
    inside = module.removeprefix("sn_graph.")
    found = [room for room in ROOMS if module != inside and (inside == room or inside.startswith(f"{room}."))]
    return max(found, key=len, default=None)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Each name that a module imports: where from, and what; None for a module as a whole."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            yield from ((str(node.module), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None) for alias in node.names)


def past_the_face(path: Path) -> Iterator[str]:
    """What a module imports from inside another room."""
    own = room_of(module_of(path))
    for source, name in imports(path):
        whole = source if name is None else f"{source}.{name}"
        other = room_of(whole)
        if other is None or other == own:
            continue
        inside = source.removeprefix("sn_graph.")
        if name is None or inside != other:
            # `from sn_graph import proofs` and `from sn_graph.frontends import keras` hand over the face itself.
            if whole != f"sn_graph.{other}":
                yield f"{source}: {name}"
        elif (ROOT / "sn_graph" / other.replace(".", "/") / f"{name}.py").exists() and not exported(other, name):
            yield f"{source}: the module {name}"


@cache
def exported(room: str, name: str) -> bool:
    face = ROOT / ("passes" if room == "passes" else f"sn_graph/{room.replace('.', '/')}") / "__init__.py"
    return any(name == alias for _, alias in imports(face))


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_other_rooms_are_entered_by_their_faces(path: Path) -> None:
    assert list(past_the_face(path)) == []


def test_the_rule_finds_what_it_forbids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    (tmp_path / "sn_graph" / "plan").mkdir(parents=True)
    (tmp_path / "sn_graph" / "model").mkdir()
    (tmp_path / "sn_graph" / "model" / "__init__.py").write_text("from sn_graph.model.graph import Graph\n")
    (tmp_path / "sn_graph" / "model" / "graph.py").touch()
    room = tmp_path / "sn_graph" / "plan" / "make.py"
    room.write_text(
        "from sn_graph.model import Graph\n"
        "from sn_graph.model.graph import Graph\n"
        "from sn_graph.model import graph\n"
        "import sn_graph.model.graph\n"
        "import sn_graph.model\n"
        "from sn_graph import model\n"
        "from sn_graph.plan.file import load_plan\n"
        "from sn_graph.rewrite.insertion.writer import Insertion\n"
        "from sn_graph.rewrite.insertion import Insertion\n"
        "from sn_graph.errors import UsageError\n"
    )
    assert list(past_the_face(room)) == [
        "sn_graph.model.graph: Graph",
        "sn_graph.model: the module graph",
        "sn_graph.model.graph: None",
        "sn_graph.rewrite.insertion.writer: Insertion",
    ]


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_rooms_import_nothing_from_the_top(path: Path) -> None:
    """`from sn_graph import x` makes one circle of all rooms between, where mypy takes functions for modules."""
    faces = ("sn_graph.api", "sn_graph.cli", "sn_graph.fleet", "sn_graph.interop")
    if module_of(path).startswith("sn_graph.") and not module_of(path).startswith(faces):
        assert "sn_graph" not in {source for source, _ in imports(path)}


def test_every_package_is_a_room_or_a_hall() -> None:
    found = {path.parent.relative_to(ROOT / "sn_graph") for path in (ROOT / "sn_graph").rglob("__init__.py")}
    packages = {".".join(path.parts) for path in found if path.parts}
    assert packages | {"passes"} == set(ROOMS) | HALLS


def test_a_face_holds_names_and_no_code() -> None:
    for room in ROOMS:
        face = ROOT / ("passes" if room == "passes" else f"sn_graph/{room.replace('.', '/')}") / "__init__.py"
        kinds = {type(node).__name__ for node in tree(face).body} - {"Expr", "ImportFrom", "Import", "Assign"}
        # The frontends alone hand out names that stand above them.
        assert kinds == ({"FunctionDef"} if room.startswith("frontends.") else {"With"}), room
        names = next(
            ast.literal_eval(node.value)
            for node in tree(face).body
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
        )
        assert names == sorted(set(names), key=lambda name: (not name.isupper(), not name[0].isupper(), name)), room


def test_what_stands_at_the_top() -> None:
    top = [path for path in (ROOT / "sn_graph").iterdir() if path.name != "__pycache__"]
    assert {path.name for path in top if not path.is_dir()} == TOP
    assert all((path / "__init__.py").exists() for path in top if path.is_dir())


@pytest.mark.parametrize("path", SOURCES, ids=IDS)
def test_no_part_of_an_operators_name_is_looked_for(path: Path) -> None:
    """`"Conv" in op_type` is true of ConvInteger and QLinearConv too; the table of operators knows better."""
    found = [
        ast.unparse(node)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Compare)
        and any(isinstance(op, (ast.In, ast.NotIn)) for op in node.ops)
        and isinstance(node.left, ast.Constant)
        and any(ast.unparse(side).rpartition(".")[2] == "op_type" for side in node.comparators)
    ]
    found += [
        ast.unparse(node)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("startswith", "endswith", "find", "count", "partition")
        and ast.unparse(node.func.value).rpartition(".")[2] == "op_type"
    ]
    assert found == []


def test_asserts_that_something_is_there_are_few_and_say_why() -> None:
    """Typed hand-over (`Target`, `Start`) leaves nothing open; what is left has a reason that types can't say."""
    found = [
        (path.relative_to(ROOT).as_posix(), node)
        for path in SOURCES
        if path.relative_to(ROOT).parts[0] in ("sn_graph", "passes")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Assert) and ast.unparse(node.test).endswith(" is not None")
    ]
    assert [(path, ast.unparse(node)) for path, node in found if node.msg is None] == []
    assert len(found) <= 6, [path for path, _ in found]


# In one process, each module after all of sn_graph was forgotten: a circle shows where it is entered first.
ALONE = """
import importlib, sys
for name in sys.argv[1:]:
    for known in [known for known in sys.modules if known == "sn_graph" or known.startswith("sn_graph.")]:
        del sys.modules[known]
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, "can't be imported first:", error)
"""


def houses() -> dict[str, list[str]]:
    """The modules by the room, or the place, that they stand in; `__main__` modules run when they are imported."""
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        module = module_of(path)
        if module.startswith("sn_graph") and not module.endswith("__main__"):
            found.setdefault(room_of(module) or module.split(".")[1] if "." in module else "sn_graph", []).append(
                module
            )
    return found


HOUSES = houses()


@pytest.mark.parametrize("house", HOUSES)
def test_every_module_can_be_the_first_that_is_imported(house: str) -> None:
    command = [sys.executable, "-W", "error", "-c", ALONE, *HOUSES[house]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr


def test_all_modules_are_tried() -> None:
    tried = [module for modules in HOUSES.values() for module in modules]
    assert len(tried) == len(set(tried)) > 80
