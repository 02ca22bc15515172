"""What holds for every test: one BLAS thread, set before numpy is imported, for test matrices are small."""

import os

for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")
