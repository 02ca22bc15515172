"""What holds for every test: one BLAS thread, set before numpy is imported, for test matrices are small."""

import os

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

from tests.support.onnx_text import op, text  # noqa: E402

__all__ = ["op", "text"]
