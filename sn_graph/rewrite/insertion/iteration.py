"""Iterations: the power iteration of one weight as nodes, in the form that reads the least memory.

    t = M v,  σ = ‖t‖,  u' = t / σ        with v = n(Mᵀu), n(x) = x / max(‖x‖, eps)

is two passes over M. Where u is on the shorter side of M, G = M Mᵀ is no larger than M, and made of constants, so that
runtimes compute it once, when they load the model; then with w = G u and q = uᵀw = ‖Mᵀu‖²

    σ = ‖w‖ / √q,  u' = w / ‖w‖

is one pass over G: n² elements in place of 2·n·m. G is made in float64: rounding in float32 moves the fixed point by
3e-5. In q the products cancel, though, where u has little of what M reaches: by √n/√r, r = ‖M‖_F²/σ² the stable rank,
of a u at random. So matrices near to rank 1 are passed over twice: of 1024 × 1024 of rank 1, σ of a first run was off
by up to 1.7e-3. For the norm of a convolution M is the node itself, and Mᵀ its transpose as another node.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from onnx import TensorProto

from sn_graph.rewrite import Emitter
from sn_graph.rewrite.insertion.adjoint import LinearNode, adjoint_node, forward_node
from sn_graph.rewrite.insertion.entry import Entry
from sn_graph.sites import MatrixView

if TYPE_CHECKING:
    from sn_graph.spectral.convolution import Convolution

# Multiplications, n²·m for each G, that loading a model may take: 4 s on one core (and each run without optimizations).
GRAM_WORK = 10**11
_GRAM_RANGE = (1e-6, 1e9)  # of float32 weights: within it, σ⁴ is far from where float32 ends
# The least stable rank: so many directions are not all missed by a u at random (a chance of 1e-8).
_GRAM_RANK = 8.0
_GRAM_FLOOR = 1e-6  # of the largest element: below it, eps acts on vectors of rounding errors only
# From here on G does not stay in the cache, and as operand B, which is packed, it is read 1.25 times as fast.
_LONG = 2048

Advance = Callable[[str, int], tuple[str, str]]


def bytes_read(view: MatrixView) -> int:
    """Return what an iteration reads in each run, in bytes of float32."""
    return 4 * (view.state_length**2 if _gram_pays(view) else 2 * view.rows * view.cols)


def choose_gram(entries: Sequence[Entry], opset: int) -> set[str]:
    """Return the ids of the sites where the pass over G shall replace the two over M: the cheapest to make first."""
    chosen, work = set(), 0
    for entry in sorted(filter(partial(_gram_fits, opset), entries), key=lambda entry: _gram_work(entry.view)):
        work += _gram_work(entry.view)
        if work <= GRAM_WORK:
            chosen.add(entry.id)
    return chosen


def _gram_work(view: MatrixView) -> int:
    return view.state_length * view.rows * view.cols


def _gram_pays(view: MatrixView) -> bool:
    """Say whether G is no larger than M, and soon made."""
    return view.state_length**2 <= view.rows * view.cols and _gram_work(view) <= GRAM_WORK


def _gram_fits(opset: int, entry: Entry) -> bool:
    """Say whether G pays, and is as exact as M."""
    start = entry.start
    if start.through is not None or not _gram_pays(entry.view) or start.floor > _GRAM_FLOOR * start.largest:
        return False
    if entry.double:
        return opset >= 8  # below, onnxruntime has no Min of float64
    if start.stable_rank < _GRAM_RANK:
        return False
    # Behind DequantizeLinear runtimes fold nothing, and would make G anew in each run.
    quantized = entry.site.quantization is not None
    return not quantized and start.largest >= _GRAM_RANGE[0] and entry.highest <= _GRAM_RANGE[1]


@dataclass(frozen=True)
class Iteration:
    """What emits the iteration of one site.

    Attributes:
        emitter, entry: Where the nodes go, and the site.
        matrix: M [rows, cols], or the kernel as a convolution reads it; float32 (float64 for float64 weights).
    """

    emitter: Emitter
    entry: Entry
    matrix: str

    def by_passes(self) -> Advance:
        """Return what emits a number of iterations from a u [n, 1], and returns the new u and σ [1, 1]."""

        def advance(u: str, count: int) -> tuple[str, str]:
            for _ in range(count):
                t = self.product(self.v(u), "t", first=False)
                u, sigma = self.normalized(t, self.entry.view.state_length, "sigma", "u_next")
            return u, sigma

        return advance

    def v(self, u: str) -> str:
        """Emit v = n(Mᵀu), a column."""
        view = self.entry.view
        size = view.rows * view.cols // view.state_length
        return self.normalized(self.product(u, "across", first=True), size, "length", "v")[0]

    def product(self, column: str, name: str, *, first: bool) -> str:
        """Emit Mᵀu, or M v; with M transposed where u is on the columns."""
        transposed = first is (self.entry.view.side == "rows")
        return self.emitter.gemv(self.matrix, column, self._name(name), transposed=transposed, double=self.entry.double)

    def normalized(self, vector: str, size: int, length_name: str, name: str) -> tuple[str, str]:
        """Emit n(x) and ‖x‖ of a column of `size` elements."""
        length = self.emitter.norm(vector, size, self._name(length_name))
        floored = self._at_least(length, self._scalar("sn/eps", self.entry.start.floor), f"{length_name}_floored")
        return self.emitter.op("Div", [vector, floored], self._name(name)), length

    def by_convolution(self, through: "Convolution") -> Advance:
        """Return what `by_passes` does, through a convolution; u is its output, flat."""
        emitter, inside, outside = self.emitter, through.input_shape, through.output_shape

        def apply(node: LinearNode, column: str, shape: tuple[int, ...], name: str) -> str:
            image = emitter.reshape(column, (1, *shape), self._name(f"{name}_image"))
            made = emitter.op(node.op_type, [image, self.matrix], self._name(f"{name}_made"), **node.attributes)
            if node.crop is not None:
                made = emitter.crop(made, node.crop, self._name(f"{name}_cropped"))
            return emitter.reshape(made, (-1, 1), self._name(name))

        def advance(u: str, count: int) -> tuple[str, str]:
            for _ in range(count):
                across = apply(adjoint_node(through), u, outside, "across")
                v, _ = self.normalized(across, math.prod(inside), "length", "v")
                t = apply(forward_node(through), v, inside, "t")
                u, sigma = self.normalized(t, math.prod(outside), "sigma", "u_next")
            return u, sigma

        return advance

    def by_gram(self) -> Advance:
        """Emit G; return what `by_passes` does."""
        emitter, double, size = self.emitter, self.entry.double, self.entry.length
        rows = self.entry.view.side == "rows"
        exact = self.matrix if double else emitter.cast(self.matrix, TensorProto.DOUBLE, self._name("float64"))
        gram = emitter.gemm(exact, exact, self._name("gram"), transposed=(not rows, rows), double=True)
        if not double:
            gram = emitter.cast(gram, TensorProto.FLOAT, self._name("gram_float32"))
        # ‖G‖ of Frobenius is at least σ²: it keeps the estimate sane where u is so close to orthogonal to all that M
        # reaches that q is rounding error.
        most = emitter.op("Sqrt", [emitter.norm(gram, size * size, self._name("gram_norm"))], self._name("most"))
        real = np.float64 if double else np.float32
        least = self._scalar("sn/eps_squared", max(self.entry.start.floor**2, 1e8 * float(np.finfo(real).tiny)))
        eps = self._scalar("sn/eps", self.entry.start.floor)

        def advance(u: str, count: int) -> tuple[str, str]:
            for _ in range(count - 1):
                w = self._gram_product(gram, u)
                length = self._at_least(emitter.norm(w, size, self._name("length")), least, "length_floored")
                u = emitter.op("Div", [w, length], self._name("u_between"))
            w = self._gram_product(gram, u)
            q = emitter.gemv(u, w, self._name("q"), transposed=True, double=double)
            across = emitter.op("Sqrt", [self._at_least(q, least, "q_floored")], self._name("across_length"))
            length = emitter.norm(w, size, self._name("length"))
            estimate = emitter.op("Div", [length, across], self._name("estimate"))
            # With t = w/‖Mᵀu‖, t / max(‖t‖, eps) = w / max(‖w‖, eps·‖Mᵀu‖); and u', which a session may write over u,
            # has to wait for q, which reads u.
            floor = emitter.op("Mul", [across, eps], self._name("floor"))
            u_next = emitter.op("Div", [w, self._at_least(length, floor, "length_floored")], self._name("u_next"))
            return u_next, emitter.op("Min", [estimate, most], self._name("sigma"))

        return advance

    def _gram_product(self, gram: str, u: str) -> str:
        """Emit G u, a column."""
        emitter, size, double = self.emitter, self.entry.length, self.entry.double
        if size < _LONG:
            return emitter.gemv(gram, u, self._name("w"), transposed=False, double=double)
        row = emitter.reshape(u, (1, size), self._name("u_row"))
        row = emitter.gemm(row, gram, self._name("w_row"), transposed=(False, False), double=double)
        return emitter.reshape(row, (size, 1), self._name("w"))

    def _at_least(self, value: str, least: str, name: str) -> str:
        return self.emitter.maximum(value, least, self._name(name), double=self.entry.double)

    def _scalar(self, name: str, value: float) -> str:
        return self.emitter.constant(name, np.full((1, 1), value, np.float64 if self.entry.double else np.float32))

    def _name(self, name: str) -> str:
        return f"{self.entry.at}/{name}"
