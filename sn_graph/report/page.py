"""Pages: everything that an HTML report shows, as data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from sn_graph.report.records import Report

Kind = Literal["input", "output", "node", "added", "weight", "arithmetic"]


@dataclass(frozen=True)
class Box:
    """A part of a graph, drawn as a box.

    Attributes:
        title: What it is: an operator, or what kind of thing.
        name: What it is called in the file; "" where it has no name.
        kind: What it is drawn as; "added" is what a pass wrote.
        column, row: Where it stands, from 0; data run from left to right.
    """

    title: str
    name: str
    kind: Kind
    column: int
    row: int


@dataclass(frozen=True)
class Picture:
    """The graph around a weight.

    Attributes:
        boxes: What is drawn.
        arrows: From and to, as places in `boxes`.
        more: How many uses of the weight are not drawn.
    """

    boxes: tuple[Box, ...]
    arrows: tuple[tuple[int, int], ...]
    more: int = 0


@dataclass(frozen=True)
class Estimates:
    """What the frameworks' power iteration estimates of one weight, over its calls.

    Attributes:
        calls: The numbers of calls, ascending.
        runs: For each start the estimate after each number of calls.
        start: Where they start from, in words.
    """

    calls: tuple[int, ...]
    runs: tuple[tuple[float, ...], ...]
    start: str


@dataclass(frozen=True)
class Drawn:
    """What is drawn of one weight.

    Attributes:
        sigma: Its spectral norm before anything was done; None where it isn't known.
        after: That of what the file holds now, or of what a first run leaves; None where nothing was done.
        values: Its largest singular values, the largest first.
        rank: How many singular values it has.
        estimates: What power iteration makes of the first.
        picture: The graph around it.
        left_out: Why there are no singular values, in a sentence.
    """

    sigma: float | None = None
    after: float | None = None
    values: tuple[float, ...] = ()
    rank: int = 0
    estimates: Estimates | None = None
    picture: Picture | None = None
    left_out: str | None = None


class Compared(Protocol):
    """A row of a parity table, as `runtime.Comparison` is."""

    @property
    def left(self) -> str: ...  # noqa: D102
    @property
    def right(self) -> str: ...  # noqa: D102
    @property
    def provider(self) -> str: ...  # noqa: D102
    @property
    def step(self) -> int: ...  # noqa: D102
    @property
    def output(self) -> str: ...  # noqa: D102
    @property
    def max_abs(self) -> float: ...  # noqa: D102
    @property
    def max_rel_norm(self) -> float: ...  # noqa: D102
    @property
    def rtol(self) -> float: ...  # noqa: D102
    @property
    def atol(self) -> float: ...  # noqa: D102
    @property
    def ok(self) -> bool: ...  # noqa: D102
    @property
    def notes(self) -> tuple[str, ...]: ...  # noqa: D102


@dataclass(frozen=True)
class CertifiedNode:
    """A row of a certificate: a node, the constant of its rule, and the bound of the network up to there."""

    node: str
    op_type: str
    rule: str
    constant: float | None
    bound: float | None
    note: str = ""


@dataclass(frozen=True)
class Certificate:
    """A proven Lipschitz constant of a network, between what an input pair attains and what is proven.

    Attributes:
        attained, proven: Both ends; `proven` is None where the network is unbounded.
        levels: What each level of proof gives.
        nodes: The network's nodes, in graph order.
        verdict: What follows, in a sentence.
    """

    attained: float | None
    proven: float | None
    levels: Mapping[str, float | None]
    nodes: tuple[CertifiedNode, ...]
    verdict: str


@dataclass(frozen=True)
class Page:
    """An HTML report.

    Attributes:
        command: The command's name.
        title: What it is about: the model's file name.
        summary: What came of it, in a sentence.
        ok: Whether what was asked for holds; None where nothing was asked.
        verdict: That in a word.
        invocation: The command line, as it was typed.
        versions: Of everything that took part, by name.
        facts: What else a reader wants to know, by name.
        report: The weights; None where the command is not about them.
        drawn: What is drawn of each weight, by id.
        bound: The norm that weights were to get; None where they were to get none.
        parity: Outputs compared.
        parity_notes: What a reader must know to judge them.
        certificate: A proven Lipschitz constant.
    """

    command: str
    title: str
    summary: str
    ok: bool | None
    verdict: str
    invocation: str
    versions: Mapping[str, str]
    facts: Mapping[str, str] = field(default_factory=dict)
    report: Report | None = None
    drawn: Mapping[str, Drawn] = field(default_factory=dict)
    bound: float | None = None
    parity: Sequence[Compared] = ()
    parity_notes: Sequence[str] = ()
    certificate: Certificate | None = None
