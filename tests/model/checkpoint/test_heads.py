import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import save_file

from sn_graph.errors import ModelError
from sn_graph.model.checkpoint import Checkpoint, Heads
from tests.support.checkpoints import llama

Q, K, V = (f"model.layers.0.self_attn.{letter}_proj.weight" for letter in "qkv")


def opened(folder: Path, config: Any) -> Heads:
    save_file(llama(), folder / "model.safetensors")
    if config is not None:
        (folder / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return Checkpoint.open(folder / "model.safetensors").heads


@pytest.mark.parametrize(
    ("config", "queries", "keys"),
    [
        ({"num_attention_heads": 8, "num_key_value_heads": 2}, 8, 2),
        ({"num_attention_heads": 8}, 8, 8),
        ({"n_head": 4}, 4, 4),
        ({"text_config": {"num_attention_heads": 4, "num_key_value_heads": 1}}, 4, 1),
        ({"num_attention_heads": 3}, None, None),  # does not divide the rows
        ({"num_attention_heads": "8"}, None, None),
        ({"num_attention_heads": True}, None, None),
        ({"num_attention_heads": 0}, None, None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_heads_come_from_the_config_beside_the_file(
    tmp_path: Path, config: Any, queries: int | None, keys: int | None
) -> None:
    heads = opened(tmp_path, config)
    assert (heads.of(Q, 32), heads.of(K, 16), heads.of(V, 16)) == (queries, keys, None)


@pytest.mark.parametrize("text", ["[]", "{", '{"a":1,"a":2}', "[" * 100_000])
def test_a_broken_config_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(ModelError, match=r"config\.json"):
        opened(tmp_path, text)
