"""Sharded checkpoints: a `….safetensors.index.json` that says which file beside it holds which tensor.

{"metadata": {…}, "weight_map": {tensor: file, …}}          as huggingface_hub writes it
"""

import os
from pathlib import Path

from sn_graph.errors import ModelError
from sn_graph.model import READING, Source
from sn_graph.model.checkpoint.bounded import HEADER_LIMIT, decode_object
from sn_graph.model.checkpoint.safetensors import read_tensors
from sn_graph.model.checkpoint.stored import StoredTensor

_SHARDS = 10_000


def shards_of(path: Path) -> dict[str, Path]:
    """Return the file of each tensor of an index, in the index's order.

    Raises:
        ModelError: The index is not one, or names files elsewhere.
        OSError: It can't be read.
    """
    with open(os.open(path, READING), "rb") as file:
        text = file.read(HEADER_LIMIT + 1)
    found = decode_object(text, "the index").get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found.values()):
        raise ModelError("the index has no weight_map of files by tensor", do="download it again")
    files = set(found.values())
    if len(files) > _SHARDS:
        raise ModelError(f"the index names {len(files):,} files", f"where at most {_SHARDS:,} are opened")
    for name in files:
        # A link is the user's own (huggingface_hub's cache is made of them), a name that leads elsewhere is not.
        if not name or name in (".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise ModelError(f"the index names the file '{name[:200]}'", "which is not a name in its own folder")
        if not name.lower().endswith(".safetensors"):
            raise ModelError(
                f"the index names the file '{name[:200]}'",
                "which is no safetensors file",
                "give the index of safetensors files",
            )
    return {tensor: path.parent / name for tensor, name in found.items()}


def read_index(path: Path) -> tuple[tuple[StoredTensor, ...], tuple[Source, ...]]:
    """Return the tensors of an index, in its order, and the files that they are in.

    Raises:
        ModelError: The index or a file is not as it should be, or they disagree.
        OSError: The index can't be read.
    """
    places = shards_of(path)
    sources: dict[Path, Source] = {}
    found: dict[Path, dict[str, StoredTensor]] = {}
    for file in dict.fromkeys(places.values()):
        try:
            sources[file] = Source.map(file)
            found[file] = {tensor.name: tensor for tensor in read_tensors(sources[file])}
        except OSError as error:
            raise ModelError(
                f"the file {file.name} that the index names can't be read", str(error.strerror), "put it beside it"
            ) from None
        except ModelError as error:
            raise error.about(file.name) from None
    for name, file in places.items():
        if name not in found[file]:
            raise ModelError(
                f"the index says that {file.name} holds '{name[:200]}'", "and it does not", "download it again"
            )
    return tuple(found[file][name] for name, file in places.items()), tuple(sources.values())
