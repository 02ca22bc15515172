import json
from pathlib import Path

import numpy as np
import pytest

from sn_graph.errors import ModelError
from sn_graph.model.checkpoint import Checkpoint
from tests.support.checkpoints import llama, save_sharded


def test_shards_are_one_checkpoint(tmp_path: Path) -> None:
    tensors = llama()
    found = Checkpoint.open(save_sharded(tmp_path, tensors))
    assert {tensor.name for tensor in found.tensors} == set(tensors)
    for tensor in found.tensors:
        np.testing.assert_array_equal(tensor.values(), tensors[tensor.name])


def test_links_are_followed_as_in_the_hubs_cache(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    index = save_sharded(tmp_path / "snapshot", llama())
    for shard in (tmp_path / "snapshot").glob("*.safetensors"):
        blob = tmp_path / "blobs" / shard.name
        shard.rename(blob)
        shard.symlink_to(blob)
    assert len(Checkpoint.open(index).tensors) == len(llama())


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "a/b.safetensors",
        "..",
        "",
        "a\0.safetensors",
        "model.bin",
        "C:\\a.safetensors",
    ],
)
def test_names_that_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(ModelError, match="the index names the file"):
        Checkpoint.open(index)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": 1}}',
        "{",
        '{"weight_map": {"a": "x.safetensors", "a": "y.safetensors"}}',
    ],
)
def test_what_is_no_index_is_refused(tmp_path: Path, text: str) -> None:
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(ModelError):
        Checkpoint.open(index)


def test_missing_shards_and_tensors_are_named(tmp_path: Path) -> None:
    index = save_sharded(tmp_path, llama())
    told = json.loads(index.read_text())
    told["weight_map"]["nowhere.weight"] = "model-00001-of-00003.safetensors"
    index.write_text(json.dumps(told))
    with pytest.raises(ModelError, match=r"nowhere\.weight"):
        Checkpoint.open(index)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(ModelError, match="model-00002-of-00003"):
        Checkpoint.open(index)
