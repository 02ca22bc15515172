"""Scaling: a safetensors file written again with some tensors multiplied; its header and all else byte for byte."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from sn_graph.errors import UsageError
from sn_graph.model import RAW_DATA, Buffer, StagedFiles
from sn_graph.model.checkpoint.checkpoint import Checkpoint
from sn_graph.progress import Progress, silent


def stage_scaled(
    checkpoint: Checkpoint, factors: Mapping[str, float], path: Path, progress: Progress = silent, *, sync: bool = True
) -> StagedFiles:
    """Write a safetensors file beside `path`, to be put in place by `commit`, or dropped.

    Args:
        checkpoint: One file, opened.
        factors: What the elements of a tensor are multiplied by, by its name.
        path: The file to come; it may be the checkpoint's own.
        progress: Told the bytes written.
        sync: Whether `commit` waits until the disk has them.

    Raises:
        UsageError: The checkpoint is not one safetensors file.
        ModelError: A scaled element is too large for its type.
        EnvironmentUnavailable: The folder can't be written, or the checkpoint was changed.
    """
    if len(checkpoint.sources) != 1 or checkpoint.path.suffix.lower() != ".safetensors":
        raise UsageError(
            f"{checkpoint.path} can't be written again", "because it is not one .safetensors file", "give its files"
        )
    total, written = len(checkpoint.sources[0].buffer), 0

    def tick(count: int) -> None:
        nonlocal written
        written += count
        progress("writing", written, total)

    staged = StagedFiles(path, sync)
    try:
        staged.write_model(_chunks(checkpoint, factors), tick)
        checkpoint.require_unchanged()
    except BaseException:
        staged.discard()
        raise
    return staged


def _chunks(checkpoint: Checkpoint, factors: Mapping[str, float]) -> Iterator[Buffer]:
    """Yield the file in order: what is not scaled as it stands there, with the header and whatever is between."""
    buffer, position = checkpoint.sources[0].buffer, 0
    scaled = (tensor for tensor in checkpoint.tensors if tensor.name in factors)
    for tensor in sorted(scaled, key=lambda each: each.payload.start):
        yield buffer[position : tensor.payload.start]
        yield from tensor.payload.scaled(factors[tensor.name]).blocks(RAW_DATA)
        position = tensor.payload.start + tensor.payload.size
    yield buffer[position:]
