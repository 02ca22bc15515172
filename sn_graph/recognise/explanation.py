"""Explanations: what the arithmetic in front of a weight input is, with the parts that it is made of."""

from dataclasses import dataclass

from sn_graph.recognise.chains import Chain
from sn_graph.recognise.divisors import Divisor
from sn_graph.recognise.forms import Form
from sn_graph.recognise.sigma import Estimate
from sn_graph.recognise.trace import Value
from sn_graph.sites import MatrixView


@dataclass(frozen=True, eq=False)
class Explanation:
    """What the arithmetic in front of a weight input is.

    Attributes:
        form: What it is.
        why: What it is, in words, where that is more than the form says.
        slot: The value that the weight input reads.
        original: The stored tensor that it is made of; None where that is not one.
        shape, dtype: Of what the weight input reads, where known.
        chain, divisor, estimate: The spectral norm's parts, where it is one.
        tensor_shape: The shape of what the chain divides.
        sigma_graph: The σ that the graph computes, before cap and gain.
        gain, cap: g and c of g·W/σ, or g·W/max(1, σ/c).
        k: The iterations that were baked in, or are run each time.
        u: The names of the stored vectors.
        turn: Which call of a layer that is called several times, each with iterations of its own, from 0.
        parts: The explanations of what is joined, where gates are; else its own alone.
        notes: What a reader should know.
    """

    form: Form
    why: str
    slot: Value
    original: Value | None = None
    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    chain: Chain | None = None
    divisor: Divisor | None = None
    estimate: Estimate | None = None
    tensor_shape: tuple[int, ...] | None = None
    sigma_graph: float | None = None
    gain: float | None = None
    cap: float | None = None
    k: int | None = None
    u: tuple[str, ...] | None = None
    turn: int = 0
    parts: "tuple[Explanation, ...]" = ()
    notes: tuple[str, ...] = ()

    @property
    def reason(self) -> str:
        """Why the weight is skipped by what normalizes stored ones."""
        if self.form.is_spectral_norm:
            return "computed in the graph; looks like an exported spectral norm: run lift first"
        return f"computed in the graph: {self.why}" if self.why else "computed in the graph"

    @property
    def view(self) -> MatrixView | None:
        """The matrix that the chain takes of the tensor it divides."""
        return None if self.estimate is None else self.estimate.view
