"""Names of files that are checkpoints."""

import os
from typing import TypeGuard

_SUFFIXES = (".safetensors", ".safetensors.index.json", ".gguf")


def is_checkpoint(source: object) -> TypeGuard[str | os.PathLike[str]]:
    """Say whether a source is a path whose name is that of a checkpoint.

    >>> is_checkpoint("model.safetensors"), is_checkpoint("model.onnx")
    (True, False)
    """
    return isinstance(source, str | os.PathLike) and os.fspath(source).lower().endswith(_SUFFIXES)
