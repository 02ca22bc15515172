"""Certificates: what is proven of a network, and what was attained."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sn_graph.certify.witness import Witness
from sn_graph.report import Certificate as DrawnCertificate
from sn_graph.report import CertifiedNode

NORM = "l2"
CAVEAT = (
    "the constant is that of the function in exact arithmetic; what floats compute can differ by their rounding"
    " (Murray, 2026, 2603.13334)"
)


@dataclass(frozen=True)
class Stop:
    """The node at which a network stops having a constant, or a known one.

    Attributes:
        node, op_type: Which.
        reason: Why, as a phrase.
        do: What would change it; "" where nothing is known that would.
    """

    node: str
    op_type: str
    reason: str
    do: str = ""


@dataclass(frozen=True, eq=False)
class Certificate:
    """An enclosure of the Lipschitz constant between a model's input and output, or why there is none.

    Attributes:
        model: The file's name, or "model".
        input, output: Between what; of several inputs jointly, their names with commas.
        attained: The quotient of the witness; None where no search was made or nothing was found.
        proven: What the constant does not exceed; None where it is unbounded.
        level: Which level proved it: "product", "fused", "fast" or "lmi"; None where none did.
        unbounded: The node that leaves it without a bound; None where there is a bound.
        nodes: Each node between input and output, in the graph's order.
        levels: What each level that was tried gives.
        witness: The inputs that attain the lower end.
        sizes: The sizes of dynamic dimensions at which the network was looked at.
        open: The dynamic dimensions for any size of which `proven` holds.
        notes: Sentences on what the numbers are.
        at_most: The constant that was asked for; None for none.
    """

    model: str
    input: str
    output: str
    attained: float | None
    proven: float | None
    level: str | None
    unbounded: Stop | None = None
    nodes: tuple[CertifiedNode, ...] = ()
    levels: Mapping[str, float] = field(default_factory=dict)
    witness: Witness | None = field(default=None, repr=False)
    sizes: Mapping[str, int] = field(default_factory=dict)
    open: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    at_most: float | None = None

    @property
    def norm(self) -> str:
        """The norm of inputs and outputs: "l2"."""
        return NORM

    @property
    def ok(self) -> bool | None:
        """Whether the proven constant is at most that which was asked for; None where none was."""
        return None if self.at_most is None else self.proven is not None and self.proven <= self.at_most

    def __repr__(self) -> str:
        return f"<Certificate of {self.model}: {self.sentence}>"

    @property
    def sentence(self) -> str:
        """The answer in one sentence."""
        if self.unbounded is not None:
            return f"unbounded at {self.unbounded.node}: {self.unbounded.reason}"
        return f"Lipschitz constant (l2) between {downwards(self.attained or 0.0)} and {upwards(self.proven or 0.0)}"

    def drawn(self) -> DrawnCertificate:
        """Return what an HTML report shows of it."""
        return DrawnCertificate(self.attained, self.proven, self.levels, self.nodes, f"{self.sentence}.")

    def to_json(self) -> dict[str, Any]:
        """Return the object that `certify --json` prints."""
        stop = self.unbounded
        return {
            "model": self.model,
            "input": self.input,
            "output": self.output,
            "norm": self.norm,
            "level": self.level,
            "attained": self.attained,
            "proven": self.proven,
            "unbounded": None if stop is None else {"node": stop.node, "op_type": stop.op_type, "reason": stop.reason},
            "at_most": self.at_most,
            "ok": self.ok,
            "nodes": [vars(node) for node in self.nodes],
            "levels": dict(self.levels),
            "notes": list(self.notes),
        }


def downwards(value: float) -> str:
    """Return a number with 7 digits, rounded downwards.

    >>> downwards(0.99999999), downwards(2.0)
    ('0.9999999', '2')
    """
    text = f"{value:.7g}"
    if float(text) <= value or not math.isfinite(value):
        return text
    return f"{value - 10.0 ** (math.floor(math.log10(value)) - 6):.7g}"


def upwards(value: float) -> str:
    """Return a number with 7 digits, rounded upwards.

    >>> upwards(1.00000001), upwards(2.0), upwards(61399.21)
    ('1.000001', '2', '61399.21')
    """
    text = f"{value:.7g}"
    if float(text) >= value or not math.isfinite(value):
        return text
    step = 10.0 ** (math.floor(math.log10(value)) - 6)
    return f"{value + step:.7g}"
