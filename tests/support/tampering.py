"""Tampering: a writer that writes what it should, and then changes it, before any proof looks at the file."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sn_graph.model.files import StagedFiles

Change = Callable[[onnx.ModelProto], None]


def tamper(monkeypatch: pytest.MonkeyPatch, change: Change) -> None:
    """Let every model file that is written be changed at once, its data brought inline."""
    write = StagedFiles.write_model

    def spoil(self: StagedFiles, *arguments: Any) -> None:
        write(self, *arguments)
        proto = onnx.load(self.model)
        change(proto)
        onnx.save(proto, self.model)

    monkeypatch.setattr(StagedFiles, "write_model", spoil)


def scale_first_weight(proto: onnx.ModelProto) -> None:
    tensor = proto.graph.initializer[0]
    tensor.raw_data = (numpy_helper.to_array(tensor) * np.float32(1.01)).tobytes()


@pytest.fixture
def tampering(monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that changes the first weight by 1 %."""
    tamper(monkeypatch, scale_first_weight)
