"""scipy's BLAS, by the character of the type: not numpy's, which brings its own.

Two pools of threads wait for work by spinning, each on the cores of the other: 2x slower when they alternate.
"""

from scipy.linalg.blas import (
    daxpy,
    ddot,
    dgemv,
    dnrm2,
    dscal,
    dsymv,
    dsyrk,
    saxpy,
    sdot,
    sgemv,
    snrm2,
    sscal,
    ssymv,
    ssyrk,
)

AXPY = {"f": saxpy, "d": daxpy}
DOT = {"f": sdot, "d": ddot}
GEMV = {"f": sgemv, "d": dgemv}
NORM = {"f": snrm2, "d": dnrm2}
SCAL = {"f": sscal, "d": dscal}
SYMV = {"f": ssymv, "d": dsymv}
SYRK = {"f": ssyrk, "d": dsyrk}

# Between these, an eigenvalue of MᵀM, a trace of it (of a matrix of less than 2^60 elements) or a singular value has
# lost nothing that counts to overflow or underflow on the way, and LAPACK may square it.
SAFE_RANGE = {"f": (1e-20, 1e30), "d": (1e-120, 1e120)}
