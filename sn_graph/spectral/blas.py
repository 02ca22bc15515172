"""The BLAS of scipy, by the character of the type: always scipy's, since numpy brings its own.

Two pools of threads wait for work by spinning, each on the cores of the other: 2x slower when they alternate.
"""

from scipy.linalg.blas import daxpy, ddot, dgemv, dsymv, dsyrk, saxpy, sdot, sgemv, ssymv, ssyrk

AXPY = {"f": saxpy, "d": daxpy}
DOT = {"f": sdot, "d": ddot}
GEMV = {"f": sgemv, "d": dgemv}
SYMV = {"f": ssymv, "d": dsymv}
SYRK = {"f": ssyrk, "d": dsyrk}
