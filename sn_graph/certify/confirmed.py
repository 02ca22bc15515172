"""Confirmed witnesses: the attained end by two runs of the model itself, held against float64."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.certify.network import Network
from sn_graph.certify.steps import Array
from sn_graph.certify.witness import Witness, distance_of, measured, quotient_of

Run = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]
"""Runs the model: returns the output in question for an array by each input's name."""

# How far the quotient of two runs may be from that of float64. Where rounding makes more of a difference, the inputs go
# further apart, by these factors: the rounding stays, and the difference of the outputs grows.
CLOSE = 1e-4
FACTORS = (1.0, 4.0, 16.0, 64.0, 256.0)
# By how much of itself a quotient of float64 may exceed what is proven before the proof is held to be wrong, and by how
# much of the largest value over the distance.
SLACK, NOISE = 1e-6, 1e-10


def confirm(
    network: Network, candidates: Sequence[Witness], run: Run, proven: float, seconds: float
) -> tuple[Witness, float]:
    """Choose the witness with the largest quotient of two runs, among those where float64 says the same.

    Args:
        network: The network.
        candidates: One at least; the first is always tried.
        run: Runs the model.
        proven: What the constant does not exceed.
        seconds: When to try no more.

    Returns:
        The witness, with the quotient of the runs; and how far that is from float64's, as a part of it.

    Raises:
        RuntimeError: A quotient of float64 exceeds what is proven: the proof is wrong, or the reference is.
        ModelError: The model does not run.
    """
    end = time.monotonic() + seconds
    best: tuple[bool, float] = (False, -1.0)
    chosen: tuple[Witness, float] | None = None
    for candidate in candidates:
        for factor in FACTORS:
            witness = candidate if factor == 1.0 else _further(network, candidate, factor)
            _require_below(network, witness, proven)
            ran, exact = _ran(witness, run), witness.quotient
            off = abs(ran - exact) / exact if exact > 0.0 else math.inf
            found = (off <= CLOSE, min(ran, exact))
            if found > best or chosen is None:
                best, chosen = found, (replace(witness, quotient=ran), off)
            if off <= CLOSE or time.monotonic() > end:
                break
        if time.monotonic() > end:
            break
    if chosen is None:
        raise ValueError("there is no candidate")
    return chosen


def _ran(witness: Witness, run: Run) -> float:
    outputs = [run({**witness.parameters, **x}) for x in (witness.x0, witness.x1)]
    return quotient_of(*((witness.x0[name], witness.x1[name]) for name in witness.x0), outputs)


def _further(network: Network, witness: Witness, factor: float) -> Witness:
    """Return two inputs on the same line, so many times as far apart, about the same middle."""
    ends: list[list[Array]] = [[], []]
    for a, b in zip(_own(network, witness.x0), _own(network, witness.x1), strict=True):
        middle, half = (a + b) / 2.0, (b - a) * (factor / 2.0)
        ends[0].append(middle - half)
        ends[1].append(middle + half)
    return measured(network, *ends)


def _own(network: Network, x: Mapping[str, NDArray[Any]]) -> list[Array]:
    """Return a witness's inputs as the network reads them: as many samples, float64."""
    return [np.asarray(x[one.name][tuple(map(slice, one.shape[:1]))], np.float64) for one in network.sources]


def _require_below(network: Network, witness: Witness, proven: float) -> None:
    if witness.quotient <= proven * (1.0 + SLACK):
        return
    x = _own(network, witness.x0)
    size = max(float(np.linalg.norm(value)) for value in network.values(x).values())
    distance = distance_of((witness.x0[name], witness.x1[name]) for name in witness.x0)
    if witness.quotient > proven * (1.0 + SLACK) + NOISE * size / distance:
        raise RuntimeError(
            f"two inputs whose outputs are {witness.quotient:.9g} times as far apart contradict the bound {proven:.9g}"
        )
