"""The BLAS of scipy, by the character of the type: not numpy's, which brings its own.

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
