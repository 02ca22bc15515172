"""Inputs: what folders, globs and files stand for, and where outputs go."""

from pathlib import Path

import pytest

from sn_graph.errors import UsageError
from sn_graph.fleet import find_inputs, is_many

ALL = [".onnx", ".safetensors", ".safetensors.index.json"]


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "m/a.onnx",
        "m/B.ONNX",
        "m/a.onnx.data",
        "m/a.u.safetensors",
        "m/.hidden.onnx",
        "m/.cache/c.onnx",
        "m/deep/er/a.onnx",
        "m/ck/model.safetensors.index.json",
        "m/ck/model-00001-of-00002.safetensors",
        "m/ck/model-00002-of-00002.safetensors",
        "m/ck/other.safetensors",
        "n/a.onnx",
        "with[brackets].onnx",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    (tmp_path / "m/linked").symlink_to(tmp_path / "m", target_is_directory=True)
    (tmp_path / "m/dangling.onnx").symlink_to(tmp_path / "none")
    return tmp_path


@pytest.mark.usefixtures("tree")
def test_folders_stand_for_the_models_below() -> None:
    found = [each.name for each in find_inputs(["m"], ALL)]
    assert sorted(found) == [
        *("B.ONNX", "a.onnx", "ck/model.safetensors.index.json", "ck/other.safetensors", "deep/er/a.onnx"),
    ]
    assert [each.name for each in find_inputs(["m/ck"], [".safetensors"])] == [
        *("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "other.safetensors"),
    ]


@pytest.mark.usefixtures("tree")
def test_globs_and_files() -> None:
    assert [each.location for each in find_inputs(["*/a.onnx"], ALL)] == ["m/a.onnx", "n/a.onnx"]
    assert [each.name for each in find_inputs(["m/**/a.onnx"], ALL)] == ["a.onnx", "deep/er/a.onnx"]
    assert [each.location for each in find_inputs(["with[brackets].onnx"], ALL)] == ["with[brackets].onnx"]
    assert [each.location for each in find_inputs(["m/a.onnx.data"], ALL)] == ["m/a.onnx.data"]
    assert [each.missing for each in find_inputs(["none.onnx", "none*.onnx"], ALL)] == [
        "No such file or directory",
        "no file in it ends in .onnx, .safetensors, .safetensors.index.json",
    ]


@pytest.mark.usefixtures("tree")
def test_each_file_is_there_once() -> None:
    assert [each.location for each in find_inputs(["n", "n/a.onnx", "./n/a.onnx", "n/*.onnx"], ALL)] == ["n/a.onnx"]


@pytest.mark.parametrize(
    ("arguments", "many"),
    [
        (["m/a.onnx"], False),
        (["none.onnx"], False),
        (["with[brackets].onnx"], False),
        (["m"], True),
        (["m/*.onnx"], True),
        (["m/a.onnx", "n/a.onnx"], True),
    ],
)
@pytest.mark.usefixtures("tree")
def test_more_than_one_is_many(arguments: list[str], many: bool) -> None:
    assert is_many(arguments) is many


@pytest.mark.usefixtures("tree")
def test_outputs_stand_as_the_inputs_do() -> None:
    assert [each.output for each in find_inputs(["m/deep"], [".onnx"], "out")] == ["out/er/a.onnx"]
    assert [each.output for each in find_inputs(["m/a.onnx", "n/a.onnx"], [".onnx"], "out")] == [
        *("out/m/a.onnx", "out/n/a.onnx"),
    ]
    assert [each.output for each in find_inputs(["n", "m/deep/er"], [".onnx"], "s3://b/out/")] == [
        *("s3://b/out/n/a.onnx", "s3://b/out/m/deep/er/a.onnx"),
    ]
    assert [each.output for each in find_inputs(["n/a.onnx"], [".onnx"], "out.onnx", folder=False)] == ["out.onnx"]


def test_outputs_of_before_are_no_inputs(tree: Path) -> None:
    (tree / "m/out").mkdir()
    (tree / "m/out/a.onnx").write_text("before")
    found = [each.name for each in find_inputs(["m"], [".onnx"], "m/out")]
    assert sorted(found) == ["B.ONNX", "a.onnx", "deep/er/a.onnx"]
    assert [each.output for each in find_inputs(["n"], [".onnx"], "n")] == ["n/a.onnx"]  # in place


def test_two_outputs_are_never_one_file(tree: Path) -> None:
    (tree / "n/A.onnx").write_text("two names that some file systems take for one")
    with pytest.raises(UsageError, match="two outputs would be out/"):
        find_inputs(["n"], [".onnx"], "out")
