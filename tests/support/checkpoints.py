"""Checkpoints made for tests: headers of any kind, and networks of the usual names."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file


def raw(path: Path, header: object, data: bytes = b"", *, length: int | None = None) -> Path:
    """Write a safetensors file with a header as it is given: an object, or the bytes themselves."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, "little") + text + data)
    return path


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def llama(seed: int = 0, *, layers: int = 2, width: int = 32, dtype: Any = np.float32) -> dict[str, NDArray[Any]]:
    """Weights of a small Llama: 4 query heads, 2 key heads."""
    random = np.random.default_rng(seed)

    def made(rows: int, columns: int) -> NDArray[Any]:
        values: NDArray[np.float64] = random.standard_normal((rows, columns)) / np.sqrt(columns)
        return values.astype(dtype)

    found = {"model.embed_tokens.weight": made(50, width), "lm_head.weight": made(50, width)}
    for layer in range(layers):
        here = f"model.layers.{layer}"
        found[f"{here}.self_attn.q_proj.weight"] = made(width, width)
        found[f"{here}.self_attn.k_proj.weight"] = made(width // 2, width)
        found[f"{here}.self_attn.v_proj.weight"] = made(width // 2, width)
        found[f"{here}.self_attn.o_proj.weight"] = made(width, width)
        found[f"{here}.mlp.gate_proj.weight"] = made(2 * width, width)
        found[f"{here}.mlp.up_proj.weight"] = made(2 * width, width)
        found[f"{here}.mlp.down_proj.weight"] = made(width, 2 * width)
        found[f"{here}.input_layernorm.weight"] = np.ones(width, dtype)
    return found


CONFIG = {"num_attention_heads": 4, "num_key_value_heads": 2}


def save_sharded(folder: Path, tensors: Mapping[str, NDArray[Any]], shards: int = 3) -> Path:
    """Write tensors as shards and an index, as huggingface_hub names them."""
    names = list(tensors)
    places: dict[str, str] = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::shards]}
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": places}))
    return index


def sigma(matrix: NDArray[Any]) -> float:
    """σ by float64 SVD of the matrix (O, everything else)."""
    return float(np.linalg.norm(matrix.reshape(len(matrix), -1).astype(np.float32).astype(np.float64), 2))
