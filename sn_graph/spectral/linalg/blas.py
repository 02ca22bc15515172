"""scipy's BLAS, by the character of the type: not numpy's, which brings its own.

Two pools of threads wait for work by spinning, each on the cores of the other: 2x slower when they alternate.
"""

from sn_graph.spectral.linalg.compiled import BLAS

AXPY = {"f": BLAS.saxpy, "d": BLAS.daxpy}
DOT = {"f": BLAS.sdot, "d": BLAS.ddot}
GEMV = {"f": BLAS.sgemv, "d": BLAS.dgemv}
NORM = {"f": BLAS.snrm2, "d": BLAS.dnrm2}
SCAL = {"f": BLAS.sscal, "d": BLAS.dscal}
SYMV = {"f": BLAS.ssymv, "d": BLAS.dsymv}
SYRK = {"f": BLAS.ssyrk, "d": BLAS.dsyrk}

# Between these, an eigenvalue of MᵀM, a trace of it (of a matrix of less than 2^60 elements) or a singular value has
# lost nothing that counts to overflow or underflow on the way, and LAPACK may square it.
SAFE_RANGE = {"f": (1e-20, 1e30), "d": (1e-120, 1e120)}
