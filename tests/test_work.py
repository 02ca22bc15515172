"""Work that a command does once, counted: parsing metadata, restoring, searching for weights, indexing a graph."""

from __future__ import annotations

from collections.abc import Callable, Collection
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx
import pytest

import sn_graph as sn
from sn_graph.model import Graph
from sn_graph.proofs import save
from tests.support.builders import saved
from tests.support.command_line import invoke
from tests.support.networks import branched, called, discriminator, quantized

MAKERS = [discriminator, quantized, branched, called]
LAYOUTS = [
    [],
    ["--state-layout", "per-weight"],
    ["--state-mode", "required"],
    ["--state-layout", "per-weight", "--state-mode", "required", "--scale", "weight"],
]


class Work:
    """What a command does, as far as it is counted.

    Attributes:
        parsed: The texts that were parsed as metadata.
        unpacked: How often an original was unpacked, which is what restoring does first.
        searched: For each use of the finder, the constants that it was asked for; None for all.
        indexed: The models that were indexed, in order; kept, so that no id is given twice.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.parsed: list[str] = []
        self.unpacked = 0
        self.searched: list[Collection[str] | None] = []
        self.indexed: list[onnx.ModelProto] = []
        metadata: Any = import_module("sn_graph.state.metadata")
        finder = import_module("sn_graph.sites.find")._Finder
        original: Any = import_module("sn_graph.rewrite.original")
        json, stored, index, unzipped = metadata.json, finder.stored, Graph.__init__, original._unzipped

        def loads(text: str, *more: Any) -> Any:
            self.parsed.append(text)
            return json.loads(text, *more)

        def unzipping(*arguments: Any) -> bytes:
            self.unpacked += 1
            content: bytes = unzipped(*arguments)
            return content

        def storing(own: Any, wanted: Collection[str] | None = None) -> Any:
            self.searched.append(wanted)
            return stored(own, wanted)

        def indexing(own: Graph, model: onnx.ModelProto) -> None:
            self.indexed.append(model)
            index(own, model)

        monkeypatch.setattr(metadata, "json", SimpleNamespace(loads=loads, dumps=json.dumps))
        monkeypatch.setattr(original, "_unzipped", unzipping)
        monkeypatch.setattr(finder, "stored", storing)
        monkeypatch.setattr(Graph, "__init__", indexing)

    @property
    def searches_of_all(self) -> int:
        return sum(wanted is None for wanted in self.searched)

    def indexed_twice(self) -> list[str]:
        """What is in the models that were indexed more than once."""
        ids = [id(model) for model in self.indexed]
        return [
            " ".join(node.op_type for node in model.graph.node)
            for place, model in enumerate(self.indexed)
            if id(model) in ids[:place]
        ]


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Callable[[], Work]:
    """Begin to count."""
    return lambda: Work(monkeypatch)


def inserted(folder: Path, make: Callable[[], onnx.ModelProto]) -> Path:
    save(sn.insert(make()), folder / "sn.onnx", verify=False)
    return folder / "sn.onnx"


def state_of(path: Path) -> Path:
    """The saved state of one run."""
    session = sn.StatefulSession(path)
    session.normalize_weights()
    session.save_state(path.with_name("state.safetensors"))
    return path.with_name("state.safetensors")


@pytest.mark.parametrize(
    "options", [[], ["--sigma", "power"], ["--sigma", "upper"], ["--state", "{state}"], ["--no-verify"]]
)
@pytest.mark.parametrize("make", MAKERS)
def test_fold_of_an_inserted_model(
    make: Callable[[], onnx.ModelProto], options: list[str], work: Callable[[], Work], tmp_path: Path
) -> None:
    path = inserted(tmp_path, make)
    arguments = [word.format(state=state_of(path)) for word in options] if "{state}" in options else options
    done = work()
    ended = invoke("fold", path, "-o", tmp_path / "out.onnx", *arguments)
    assert ended.code == 0, ended.err
    assert len(done.parsed) == 1
    assert done.unpacked == 1
    assert done.searches_of_all == 1
    assert done.indexed_twice() == []


@pytest.mark.parametrize("make", MAKERS)
def test_fold_of_a_plain_model(make: Callable[[], onnx.ModelProto], work: Callable[[], Work], tmp_path: Path) -> None:
    path = saved(make(), tmp_path / "m.onnx")
    done = work()
    ended = invoke("fold", path, "-o", tmp_path / "out.onnx")
    assert ended.code == 0, ended.err
    assert (done.parsed, done.unpacked, done.searched) == ([], 0, [None])
    assert done.indexed_twice() == []


@pytest.mark.parametrize("options", LAYOUTS, ids=lambda options: " ".join(options) or "packed")
@pytest.mark.parametrize("make", MAKERS)
def test_insert(
    make: Callable[[], onnx.ModelProto], options: list[str], work: Callable[[], Work], tmp_path: Path
) -> None:
    """Weights that were hoisted are located again, by name; the proof reads what was written, and so does its run."""
    path = saved(make(), tmp_path / "m.onnx")
    done = work()
    ended = invoke("insert", path, "-o", tmp_path / "out.onnx", *options)
    assert ended.code == 0, ended.err
    assert done.searches_of_all == 1
    assert len(done.searched) <= (2 if make in (branched, called) else 1)
    assert len(done.parsed) <= 2
    assert done.unpacked == 1
    if make in (discriminator, quantized):  # hoisting edits the graph, and looks at it again
        assert done.indexed_twice() == []


@pytest.mark.parametrize("make", MAKERS)
def test_strip(make: Callable[[], onnx.ModelProto], work: Callable[[], Work], tmp_path: Path) -> None:
    path = inserted(tmp_path, make)
    done = work()
    ended = invoke("strip", path, "-o", tmp_path / "out.onnx")
    assert ended.code == 0, ended.err
    assert (done.unpacked, done.searched) == (1, [])
    assert done.indexed_twice() == []


@pytest.mark.parametrize("make", MAKERS)
def test_inspect(make: Callable[[], onnx.ModelProto], work: Callable[[], Work], tmp_path: Path) -> None:
    path = inserted(tmp_path, make)
    done = work()
    ended = invoke("inspect", path, "--plan", tmp_path / "plan.json")
    assert ended.code == 0, ended.err
    assert (len(done.parsed), done.unpacked, done.searched) == (1, 1, [None])
    assert done.indexed_twice() == []


def test_the_counters_count(work: Callable[[], Work], tmp_path: Path) -> None:
    path = inserted(tmp_path, discriminator)
    done = work()
    model = sn.Model.open(path)
    for _ in range(2):
        sn.strip(model)
        sn.make_plan(model)
    assert len(done.parsed) == 2
    assert done.unpacked == 2
    assert done.searches_of_all == 2
    assert len(done.indexed_twice()) >= 1
