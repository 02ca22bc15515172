"""Records: what a run found and did, one record a weight, as data and as JSON."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from sn_graph.report.table import Shown, Table, number, one_line, sizes

Status = Literal["eligible", "skipped", "folded", "inserted", "lifted", "unchanged"]
Verified = Literal["run", "structure", "no"]


@dataclass(frozen=True)
class Reading:
    """A weight under one convention: its matrix and, where it was computed, the exact σ."""

    convention: str
    matrix: tuple[int, int]
    sigma: float | None


@dataclass(frozen=True, repr=False)
class SiteRecord:
    """What is known of one weight, and what was done to it.

    Attributes:
        id, weight, scope, op_types, consumers, dtype, shape, groups, via: As in `Site`.
        matrix: (rows, cols) of M; None where the graph computes the weight.
        status: What happened; `reason` says why where nothing did.
        sigma: The exact spectral norm of M as it was, where it was computed.
        sigma_upper: A proven upper bound of it, where it was asked for.
        sigma_operator, sigma_operator_upper: The norm of what the consumers do, and a proven upper bound of it,
            where they were asked for.
        sigma_used: What fold divided by, before bound and clip.
        frobenius: The Frobenius norm of M, where it was computed.
        sigma_base, sigma_delta: The spectral norms of the weight of the same id in a base, and of the difference, where
            there is one; `compared` says whether one was looked for.
        sigma_heads: The spectral norm of the rows of each attention head, where they were asked for and are known.
        role: What a checkpoint's weight does, where its name tells it.
        sigma_power: What one power step estimates, where `inspect` ran it.
        hints: "zero", "rank 1" or "clustered", where `inspect` found it.
        notes: What a reader should know.
        readings: Every convention's matrix, where they don't have the same singular values.
        form: What a weight is that the graph computes: see `recognise.Form`; None where a tensor holds it.
        original: The tensor that a computed weight is made of.
        sigma_graph: The σ that the graph divides by, before cap and gain.
        gain, cap: g and c of g·W/σ, or of g·W/max(1, σ/c).
        k: The power iterations that the graph makes.
        u: The names of the vectors that are stored beside it.
    """

    id: str
    weight: str
    scope: str
    op_types: tuple[str, ...]
    consumers: tuple[str, ...]
    dtype: str | None
    shape: tuple[int, ...] | None
    matrix: tuple[int, int] | None
    groups: int
    via: tuple[str, ...]
    status: Status
    reason: str | None
    sigma: float | None = None
    sigma_upper: float | None = None
    sigma_operator: float | None = None
    sigma_operator_upper: float | None = None
    sigma_used: float | None = None
    sigma_power: float | None = None
    hints: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    readings: tuple[Reading, ...] = ()
    form: str | None = None
    original: str | None = None
    sigma_graph: float | None = None
    gain: float | None = None
    cap: float | None = None
    k: int | None = None
    u: tuple[str, ...] | None = None
    frobenius: float | None = None
    sigma_base: float | None = None
    sigma_delta: float | None = None
    compared: bool = False
    sigma_heads: tuple[float, ...] = ()
    role: str | None = None

    @property
    def stable_rank(self) -> float | None:
        """‖M‖_F²/σ², between 1 and the rank of M; None where it is not known, and for a zero matrix."""
        if not self.sigma or self.frobenius is None:
            return None
        return (self.frobenius / self.sigma) ** 2

    @property
    def sigma_scaled(self) -> float | None:
        """σ·√(columns/rows): the norm of M from one root mean square to the other, after spectral µP.

        Yang, Simon and Bernstein, 2023, https://arxiv.org/abs/2310.17813, eq. 2.
        """
        if self.sigma is None or self.matrix is None or not self.matrix[0]:
            return None
        return self.sigma * math.sqrt(self.matrix[1] / self.matrix[0])

    def __repr__(self) -> str:
        return one_line("SiteRecord", *self.cells)

    @property
    def cells(self) -> tuple[str, ...]:
        """The record as a row of a table, under `SITE_HEADINGS`."""
        sigmas = (self.sigma, self.sigma_operator, self.sigma_used)
        remarks = "; ".join([*([self.reason] if self.reason else ()), *self.notes])
        what = ("+".join(self.op_types) or self.role or "", self.dtype or "", sizes(self.shape), sizes(self.matrix))
        return (self.id, *what, *map(number, sigmas), self.status, remarks)

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON-ready data: see `to_json`."""
        return self.to_json()

    def to_json(self) -> dict[str, Any]:
        """Return the record with design's JSON words; `readings` and what only `inspect` finds where there are any.

        What tells of a computed weight is there where it is one.
        """
        record = {**asdict(self), "stable_rank": self.stable_rank, "sigma_scaled": self.sigma_scaled}
        if not record.pop("compared"):
            del record["sigma_base"], record["sigma_delta"]
        if self.op_types:  # of a checkpoint's weight it is there, known or not
            del record["role"]
        if self.form is None:
            for name in ("original", "sigma_graph", "gain", "cap", "k", "u"):
                del record[name]
        for name in ("readings", "sigma_power", "sigma_heads", "hints"):
            if not record[name] and record[name] != 0.0:
                del record[name]
        return plain(record)  # type: ignore[no-any-return]


SITE_HEADINGS = ("weight", "op", "type", "shape", "matrix", "σ", "operator", "σ used", "status", "remarks")


@dataclass(frozen=True, repr=False)
class Report(Shown):
    """What `inspect`, `fold`, `insert` and `lift` say: one object.

    Attributes:
        model, output: The files that were read and written; None where nothing was.
        opset: Versions by domain, "" for ONNX's own.
        convention, convention_reason: Whose matrices were taken, and why.
        verified: How the written file was checked.
        sites: One record a weight.
        totals: Sums over a checkpoint.

    >>> import sn_graph as sn
    >>> sn.inspect("models/keras_sn_mixed.onnx", include=["conv"]).to_dict()["convention"]
    'keras'
    """

    model: str
    output: str | None
    opset: dict[str, int]
    convention: str
    convention_reason: str
    verified: Verified | None
    sites: tuple[SiteRecord, ...]
    totals: dict[str, Any] | None = None

    @classmethod
    def of(
        cls, model: str, opset: dict[str, int], convention: str, convention_reason: str, sites: Iterable[SiteRecord]
    ) -> "Report":
        """Return the report on a model to which nothing was written."""
        return cls(model, None, opset, convention, convention_reason, None, tuple(sites))

    @property
    def table(self) -> Table:
        """The weights as a table."""
        counts = Counter[str](site.status for site in self.sites)
        done = ", ".join(f"{count} {status}" for status, count in counts.items()) or "no weights"
        where = self.model if self.output is None else f"{self.model} → {self.output}"
        whose = f"; convention {self.convention}" if self.convention else ""
        return Table(f"{where}: {done}{whose}", SITE_HEADINGS, [site.cells for site in self.sites])

    def to_dict(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        return self.to_json()

    def _records(self) -> list[dict[str, Any]]:
        return [site.to_json() for site in self.sites]

    def to_json(self) -> dict[str, Any]:
        """Return the object that `--json` prints."""
        head = plain(
            {name: getattr(self, name) for name in self.__dataclass_fields__ if name not in ("sites", "totals")}
        )
        sums = {} if self.totals is None else {"totals": plain(self.totals)}
        return {**head, **sums, "sites": [site.to_json() for site in self.sites]}


def plain(value: Any) -> Any:
    """Return JSON-ready data: tuples as lists, NaN and infinities as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
