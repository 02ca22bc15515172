"""Weights one by one: a checkpoint divided gives the report of the whole, here and from a store."""

import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

import sn_graph as sn
from sn_graph.fleet import WeightWork, find_inputs, run_many
from tests.support.checkpoints import CONFIG, llama, save_sharded
from tests.support.stores import bucket, s3_server

__all__ = ["bucket", "s3_server"]


@pytest.fixture
def index(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return save_sharded(tmp_path, llama())


def divided(place: str, **arguments: Any) -> dict[str, Any]:
    work = WeightWork(arguments, large=1000)
    (outcome,) = run_many(work, find_inputs([place], [".json"]), jobs=2)
    return outcome.line


def test_a_divided_checkpoint_gives_the_report_of_the_whole(index: Path) -> None:
    arguments = {"per_head": True, "sigma": "upper", "exclude": ["embed"]}
    assert len(WeightWork(arguments, large=1000).parts(index)) == 16
    assert WeightWork(arguments).parts(index) == ()
    line = divided(str(index), **arguments)
    wanted = sn.inspect(index, per_head=True, sigma="upper", exclude=["embed"]).to_json()
    assert {name: line[name] for name in wanted} == wanted
    assert line["sha256"] is not None
    assert len(line["beside"]) == 4


def test_a_divided_checkpoint_is_fetched_by_slices(index: Path, bucket: str) -> None:
    for path in index.parent.iterdir():
        with fsspec.open(f"{bucket}/{path.name}", "wb") as file:
            file.write(path.read_bytes())
    line = divided(f"{bucket}/{index.name}", per_head=True)
    wanted = sn.inspect(index, per_head=True).to_json()
    assert line["error"] is None
    assert line["sites"] == wanted["sites"]
    assert line["model"] == f"{bucket}/{index.name}"


def test_a_weight_that_can_not_be_measured_is_the_files_error(tmp_path: Path) -> None:
    weights = llama()
    weights["lm_head.weight"][0, 0] = float("nan")
    line = divided(str(save_sharded(tmp_path, weights)))
    assert line["error"]["exit_code"] == 3
    assert "lm_head.weight" in line["error"]["what"]
