import os
import sys
import tempfile

import numpy as np
import pytest

from sn_graph.errors import EnvironmentUnavailable
from sn_graph.model.checkpoint import scratch
from sn_graph.model.checkpoint.scratch import IN_MEMORY


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_large_arrays_take_no_anonymous_memory() -> None:
    def anonymous() -> int:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon"))

    before = anonymous()
    array = scratch((4 * IN_MEMORY // 4,), np.float32)
    array[:] = 1.0
    assert anonymous() - before < IN_MEMORY // 2
    assert array.sum() == array.size


def test_small_arrays_are_plain() -> None:
    array = scratch((3, 4), np.float64)
    assert array.flags.writeable
    assert array.shape == (3, 4)
    assert not array.any()


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system can't reserve space")
def test_a_full_disk_is_an_error_and_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(EnvironmentUnavailable, match="No space left"):
        scratch((2 * IN_MEMORY,), np.uint8)
    assert tempfile.gettempdir()
