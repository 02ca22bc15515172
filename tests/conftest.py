"""What holds for every test: one BLAS thread, set before numpy is imported, for test matrices are small."""

import importlib.util
import os

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import pytest  # noqa: E402

from tests.support.onnx_text import op, text  # noqa: E402

__all__ = ["op", "text"]

# Its docstrings are looked at for doctests, for which it is imported.
collect_ignore = [] if importlib.util.find_spec("torch") else ["support/torch_discriminators.py"]


@pytest.fixture(autouse=True)
def disk_in_no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test waits for the disk: a busy one takes a second for each of the thousands of files that tests save."""
    monkeypatch.setattr("os.fsync", lambda _: None)
