"""A checkpoint: its tensors, and the files that they are in."""

import os
from dataclasses import dataclass
from pathlib import Path

from sn_graph.errors import ModelError
from sn_graph.model import Source
from sn_graph.model.checkpoint.gguf import read_gguf
from sn_graph.model.checkpoint.heads import Heads, heads_beside, heads_of_gguf
from sn_graph.model.checkpoint.safetensors import read_tensors
from sn_graph.model.checkpoint.sharded import read_index
from sn_graph.model.checkpoint.stored import StoredTensor


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The weights of a file, or of several that belong together.

    Attributes:
        path: The file that was given.
        tensors: All its tensors, in the file's order.
        sources: The mapped files.
        heads: What is told of attention heads.
        url: Where the file is a copy of.
        held: What the copy goes with.
    """

    path: Path
    tensors: tuple[StoredTensor, ...]
    sources: tuple[Source, ...]
    heads: Heads
    url: str | None = None
    held: object = None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Checkpoint":
        """Open a `.safetensors` file, a `.safetensors.index.json`, or a `.gguf` file; only its header is read.

        Raises:
            ModelError: It can't be read, or is not exactly as its format says.
        """
        place = Path(path)
        try:
            return cls._opened(place)
        except OSError as error:
            why = str(error.strerror or error)
            raise ModelError(f"{place} can't be read", why, "give the path of a checkpoint") from None
        except ModelError as error:
            raise error.about(str(place)) from None

    @classmethod
    def open_safetensors(cls, path: Path) -> "Checkpoint":
        """Open a safetensors file of any name, one in the making; otherwise as `open`."""
        try:
            source = Source.map(path)
            return cls(path, read_tensors(source), (source,), Heads())
        except OSError as error:
            raise ModelError(f"{path} can't be read", str(error.strerror)) from None

    @classmethod
    def _opened(cls, path: Path) -> "Checkpoint":
        name = path.name.lower()
        if name.endswith(".json"):
            tensors, sources = read_index(path)
            return cls(path, tensors, sources, heads_beside(path))
        source = Source.map(path)
        if name.endswith(".gguf"):
            header = read_gguf(source)
            return cls(path, header.tensors, (source,), heads_of_gguf(header.pairs))
        return cls(path, read_tensors(source), (source,), heads_beside(path))

    @property
    def name(self) -> str:
        """The file's path or URL."""
        return str(self.path) if self.url is None else self.url

    @property
    def weights(self) -> tuple[StoredTensor, ...]:
        """The tensors that have a matrix: those of rank 2 and more."""
        return tuple(tensor for tensor in self.tensors if len(tensor.shape) >= 2)

    def require_unchanged(self) -> None:
        """Raise EnvironmentUnavailable where one of the files was changed since it was opened."""
        for source in self.sources:
            source.require_unchanged()
