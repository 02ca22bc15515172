"""Drawings of weights: what an HTML report shows of each beyond its record.

Singular values and estimates cost a Gram matrix and its eigenvectors, so weights with a shorter side beyond 2,048 have
none, and a page stops drawing them once it has spent what about ten seconds of one core can do.
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from sn_graph.model import Model
from sn_graph.plan import Plan, Target
from sn_graph.progress import Progress, silent
from sn_graph.report import Drawn, Estimates, SiteRecord
from sn_graph.sites import Surroundings
from sn_graph.spectral.matrix import Spectrum, seeded_state
from sn_graph.state import State

CALLS = tuple(dict.fromkeys(round(10.0 ** (step / 8.0)) for step in range(21)))  # 1 … 316
_STARTS = 3
_SHOWN = 64  # singular values
_LONGEST_SIDE = 2048
_OPERATIONS = 2e11  # multiplications of one page


def draw(
    records: Iterable[SiteRecord],
    model: Model,
    plan: Plan,
    *,
    changed: Model | None = None,
    after: Mapping[str, float] | None = None,
    state: State | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Drawn]:
    """Return what is drawn of each weight, by id.

    Args:
        records: The weights, as a run reports them.
        model, plan: The model before anything was done, and its plan.
        changed: What became of it, where something did: the graphs are drawn from that.
        after: The norms of what it holds now, by id.
        state: Where the estimates start from; three random u of a weight that it lacks.
        seed: Of the first of those; the others are the next.
        progress: Told the weights drawn.
    """
    known, targets = after or {}, {target.id: target for target in plan.targets()}
    before = Surroundings(model.graph)
    now = before if changed is None else Surroundings(changed.graph)
    drawn: dict[str, Drawn] = {}
    records, left = tuple(records), _OPERATIONS
    for done, site in enumerate(records):
        progress("drawing", done, len(records))
        picture = now.picture(site) or before.picture(site)
        target = targets.get(site.id)
        plain = Drawn(site.sigma, known.get(site.id), picture=picture)
        if target is None:
            drawn[site.id] = plain
            continue
        cost = _operations(target)
        if min(target.view.rows, target.view.cols) > _LONGEST_SIDE:
            reason = f"Singular values are not drawn: the shorter side of its matrix is longer than {_LONGEST_SIDE:,}."
            drawn[site.id] = Drawn(plain.sigma, plain.after, picture=picture, left_out=reason)
        elif cost > left:
            reason = "Singular values are not drawn: those of the weights above have taken the time that there is."
            drawn[site.id] = Drawn(plain.sigma, plain.after, picture=picture, left_out=reason)
        else:
            left -= cost
            drawn[site.id] = _measured(plain, target, model, state, seed)
    progress("drawing", len(records), len(records))
    return drawn


def _measured(plain: Drawn, target: Target, model: Model, state: State | None, seed: int) -> Drawn:
    """Return a drawing with the singular values of a weight, and with what frameworks estimate of the first."""
    matrix = target.matrix(model)
    if not np.isfinite(matrix).all() or matrix.size == 0:
        return plain
    spectrum = Spectrum.of(matrix)
    starts, told = _starts(target, state, seed)
    runs = [spectrum.estimates(start, target.view.side, np.array(CALLS)) for start in starts]
    largest = float(spectrum.values[0])
    return Drawn(
        plain.sigma if plain.sigma is not None else largest,
        plain.after,
        tuple(float(value) for value in spectrum.values[:_SHOWN]),
        len(spectrum.values),
        Estimates(CALLS, tuple(tuple(map(float, run)) for run in runs), told) if largest > 0.0 else None,
        plain.picture,
    )


def _starts(target: Target, state: State | None, seed: int) -> tuple[list[NDArray[np.floating]], str]:
    length = target.view.state_length
    u = None if state is None else state.u.get(target.id)
    if u is not None and u.size == length and np.isfinite(u).all() and u.any():
        return [u], "its own u"
    return [seeded_state(seed + more, target.id, length) for more in range(_STARTS)], f"{_STARTS} random u"


def _operations(target: Target) -> float:
    """Return about how many multiplications the spectrum of a weight takes: the Gram matrix, and its eigenvectors."""
    short = min(target.view.rows, target.view.cols)
    return float(math.prod((target.view.rows, target.view.cols)) * short + 10 * short**3)
