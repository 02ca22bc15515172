"""Linear algebra: BLAS and its threads, eigenvalue iterations, and proofs about eigenvalues."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.spectral.linalg.blas import SAFE_RANGE, SYMV
    from sn_graph.spectral.linalg.blocks import BlockedMatrix, count_nonfinite, flushes_subnormals
    from sn_graph.spectral.linalg.compiled import BLAS, LAPACK
    from sn_graph.spectral.linalg.definite import UNIT, GramProof, gamma
    from sn_graph.spectral.linalg.dense import dense_eigenpair, dense_eigenvalue
    from sn_graph.spectral.linalg.hermitian import (
        EIGENVALUE_ORDER,
        estimated_largest,
        proven_below,
        raised_limit,
        rounded_root,
    )
    from sn_graph.spectral.linalg.lanczos import Eigenpair, Operator, largest_eigenpair
    from sn_graph.spectral.linalg.recurrence import LeadingValue, leading_value, leading_vector, settled_value
    from sn_graph.spectral.linalg.stopping import FAILURE, start_vector
    from sn_graph.spectral.linalg.threads import one_thread, threads_for

__all__ = [
    "BLAS",
    "EIGENVALUE_ORDER",
    "FAILURE",
    "LAPACK",
    "SAFE_RANGE",
    "SYMV",
    "UNIT",
    "BlockedMatrix",
    "Eigenpair",
    "GramProof",
    "LeadingValue",
    "Operator",
    "count_nonfinite",
    "dense_eigenpair",
    "dense_eigenvalue",
    "estimated_largest",
    "flushes_subnormals",
    "gamma",
    "largest_eigenpair",
    "leading_value",
    "leading_vector",
    "one_thread",
    "proven_below",
    "raised_limit",
    "rounded_root",
    "settled_value",
    "start_vector",
    "threads_for",
]
