"""Residual steps that go back by the convolution that they came by: SLL, CPL and their like.

    y = x + B z,   z = φ(A x),   B = R − AᵀD,   D ≥ 0 diagonal, slopes in [0, 1]

For the differences of two runs δz_i(δz_i − (A δx)_i) ≤ 0, so that with ν ≥ ‖D^{1/2}A‖

    ‖δx − AᵀDδz‖² = ‖δx‖² − 2⟨DAδx, δz⟩ + ‖AᵀDδz‖² ≤ ‖δx‖² + (ν² − 2)‖D^{1/2}δz‖² ≤ (1 + max(0, ν² − 2) ν²)‖δx‖²   (1)

because ⟨DAδx, δz⟩ ≥ ‖D^{1/2}δz‖² and ‖D^{1/2}δz‖ ≤ ‖D^{1/2}Aδx‖. With ‖δz‖ ≤ ‖A‖‖δx‖ the step has at most the
constant √(1 + max(0, ν² − 2) ν²) + ‖R‖‖A‖. Any D will do; R is what the weights' own rounding leaves. This is Meunier
et al.'s argument (2022, 2110.12690, CPL, D = 2/‖A‖²) and Araujo et al.'s (2023, 2303.03169, SLL), for the norms of the
zero-padded operators themselves: the inequality of each frequency (`frequencies`) knows those of a circular embedding
only, which are larger.
"""

import math
from dataclasses import replace

import numpy as np

from sn_graph.certify.expansion import Expansion, Kind, expand
from sn_graph.certify.lowered import lowered
from sn_graph.certify.matrices import Matrices, Matrix
from sn_graph.certify.segments import Segment
from sn_graph.certify.stencils import Stencil, Stencils
from sn_graph.certify.steps import Array, Elementwise, product, raised, total
from sn_graph.spectral.linalg import UNIT

# Elements of a matrix whose norm is certified if that of the stencil is not enough.
DENSE = 1 << 23


def mirrored_bound(segment: Segment) -> float | None:
    """Bound the Lipschitz constant of a residual step that goes back as it came; None for anything else."""
    whole = lowered(segment)
    found = None if whole is None else expand(whole, Stencils())
    if whole is None or found is None or len(found.atoms) != 2:
        return None
    start, bent = found.atoms.values()
    if start.kind is not Kind.START or bent.kind is not Kind.STEP or not isinstance(bent.step, Elementwise):
        return None
    if not (np.min(bent.step.low) >= 0.0 and np.max(bent.step.high) <= 1.0):
        return None
    keys = tuple(found.atoms)
    there, end = found.terms[bent.step.operands[0]], found.terms[whole.end]
    if set(there) != {keys[0]} or set(end) != set(keys) or not _is_identity(end[keys[0]]):
        return None
    return _bound(there[keys[0]], end[keys[1]], whole, bent.step)


def _bound(forth: Stencil, back: Stencil, segment: Segment, step: Elementwise) -> float | None:
    if any(stride != 1 for stride in (*forth.strides, *back.strides)):
        return None
    turned = _adjoint(forth)
    scales = _scales(turned, back)
    rest = Stencils().added(back, _scaled(turned, scales))
    if rest is None:
        return None
    weighted = _scaled_rows(forth, np.sqrt(scales))
    norm = weighted.norm()
    if norm * norm > 2.0:
        norm = min(norm, _written_out(segment, step, np.sqrt(scales)))
    square = product(norm, norm)
    # √(1 + e) and the sums are rounded upwards.
    excess = product(max(0.0, square - 2.0) * (1.0 + 4.0 * UNIT), square)
    return total((raised(math.sqrt(raised(1.0 + excess))) if excess else 1.0, product(rest.norm(), forth.norm())))


def _is_identity(form: Stencil) -> bool:
    channels = len(form.kernel)
    eye = np.eye(channels).reshape(channels, channels, *(1,) * len(form.strides))
    return form.is_pointwise and np.array_equal(form.kernel, eye) and not form.error.any()


def _adjoint(form: Stencil) -> Stencil:
    """Aᵀ of a stencil of stride 1: x[i, p] = Σ k[o, i, t] y[o, p − r − t]."""
    rank = len(form.strides)
    offsets = tuple(-(first + taps - 1) for first, taps in zip(form.offsets, form.taps, strict=True))
    kernel = np.flip(form.kernel.swapaxes(0, 1), tuple(range(2, 2 + rank)))
    return replace(
        form,
        kernel=kernel,
        offsets=offsets,
        input_size=form.output_size,
        output_size=form.input_size,
        error=form.error.T,
    )


def _scales(turned: Stencil, back: Stencil) -> Array:
    """D [channels], for which B + AᵀD is about least; 0 where that would be negative."""
    axes = (0, *range(2, turned.kernel.ndim))
    squares, own = (np.square(one.kernel).sum(axis=axes) for one in (turned, back))
    # T as long as B, so that neither is lost where ‖T + B‖² − ‖T‖² − ‖B‖² = 2⟨T, B⟩ is taken, whatever the windows are.
    alike = np.sqrt(own / np.maximum(squares, 1e-300))
    joined = Stencils().added(_scaled(turned, alike), back)
    if joined is None:
        return np.zeros(len(own))
    crossed = np.square(joined.kernel).sum(axis=axes) / np.maximum(own, 1e-300) / 2.0 - 1.0
    return np.asarray(np.maximum(0.0, -crossed * alike))


def _scaled(form: Stencil, columns: Array) -> Stencil:
    """Multiply the input's channels by numbers from 0 on."""
    factor = columns.reshape(1, -1, *(1,) * len(form.strides))
    error = (form.error + 2.0 * UNIT * form.sizes) * columns * (1.0 + 8.0 * UNIT)
    return replace(form, kernel=form.kernel * factor, error=error)


def _scaled_rows(form: Stencil, rows: Array) -> Stencil:
    """Multiply the output's channels by roots, as rounded: what is a root is √d to a part of u."""
    factor = rows.reshape(-1, 1, *(1,) * len(form.strides))
    error = (form.error + 4.0 * UNIT * form.sizes) * rows[:, None] * (1.0 + 8.0 * UNIT)
    return replace(form, kernel=form.kernel * factor, error=error)


def _written_out(segment: Segment, step: Elementwise, rows: Array) -> float:
    """‖D^{1/2}A‖ by the matrix written out; infinity where it is too large."""
    found: Expansion[Matrix] | None = expand(segment, Matrices(DENSE))
    if found is None:
        return math.inf
    (form,) = found.terms[step.operands[0]].values()
    places = form.output_size // len(rows)
    repeated = np.repeat(rows, places)
    values = form.dense() * repeated[:, None]
    most = float(rows.max())
    error = total((product(form.error, most), 4.0 * UNIT * form.frobenius * most))
    return Matrix(form.input_size, form.output_size, values, raised(error)).norm()
