"""Heads: how many attention heads the rows of a query or key projection belong to, as the model's own words tell."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.model import READING
from sn_graph.model.checkpoint.bounded import decode_object
from sn_graph.model.checkpoint.gguf import Value
from sn_graph.model.checkpoint.roles import layer_of, role_of

_CONFIG_LIMIT = 1 << 22  # bytes; a config has some thousand


@dataclass(frozen=True)
class Heads:
    """Numbers of heads, of all layers or layer by layer.

    Attributes:
        queries: Of the query projections; empty where nothing tells.
        keys: Of the key projections: fewer where heads share them.
    """

    queries: tuple[int, ...] = ()
    keys: tuple[int, ...] = ()

    def of(self, name: str, rows: int) -> int | None:
        """Return the number of heads of a weight, None where it has none, it is not known, or they don't fit."""
        counts = {"q_proj": self.queries, "k_proj": self.keys}.get(role_of(name) or "", ())
        layer = 0 if len(counts) == 1 else layer_of(name)
        if layer is None or layer >= len(counts):
            return None
        count = counts[layer]
        return count if 0 < count <= rows and rows % count == 0 else None


def heads_beside(path: Path) -> Heads:
    """Return what a `config.json` beside a checkpoint tells; nothing where there is none.

    Raises:
        ModelError: There is one, and it can't be read.
    """
    config = path.parent / "config.json"
    try:
        with open(os.open(config, READING), "rb") as file:
            text = file.read(_CONFIG_LIMIT + 1)
    except OSError:
        return Heads()
    if len(text) > _CONFIG_LIMIT:
        raise ModelError(f"{config} has more than {_CONFIG_LIMIT:,} bytes", do="put the model's own config there")
    return _of_config(decode_object(text, str(config)))


def _of_config(config: Mapping[str, Any]) -> Heads:
    inner = config.get("text_config")
    for level in (config, inner if isinstance(inner, dict) else {}):
        told = (_count(level.get(key)) for key in ("num_attention_heads", "n_head", "num_heads"))
        queries = next(filter(None, told), None)
        if queries is not None:
            return Heads((queries,), (_count(level.get("num_key_value_heads")) or queries,))
    return Heads()


def heads_of_gguf(pairs: Mapping[str, Value]) -> Heads:
    """Return what the key-value pairs of a GGUF file tell."""
    architecture = pairs.get("general.architecture")
    queries = _counts(pairs.get(f"{architecture}.attention.head_count"))
    return Heads(queries, _counts(pairs.get(f"{architecture}.attention.head_count_kv")) or queries)


def _counts(value: Value | None) -> tuple[int, ...]:
    if isinstance(value, int):
        return (value,)
    return tuple(int(each) for each in value) if isinstance(value, tuple) else ()


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
