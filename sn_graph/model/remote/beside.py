"""What belongs to a model beside its own file: data files, shards, and the config.json that tells of heads."""

from pathlib import Path

from sn_graph.model import data_files
from sn_graph.model.checkpoint import is_checkpoint, shards_of


def files_beside(path: Path) -> dict[str, bool]:
    """Return the names of the files that belong to a model, relative to its folder, and whether each must be there.

    Raises:
        ModelError: It is the index of a checkpoint, and not a sound one.
        OSError: It is one, and can't be read.
    """
    if path.name.lower().endswith(".json"):
        return {**{shard.name: True for shard in shards_of(path).values()}, "config.json": False}
    if is_checkpoint(path):
        return {} if path.suffix.lower() == ".gguf" else {"config.json": False}
    folder = path.parent.resolve()
    inside = sorted(place for place in data_files(path) or () if place.is_relative_to(folder) and place != path)
    return {place.relative_to(folder).as_posix(): False for place in inside}  # what is missing, opening tells
