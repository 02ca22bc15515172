"""State tensors: the one place that knows where each site's u and σ stand in an inserted model.

In the packed layout one tensor holds every u, end to end, and one every σ; in the other each site has its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sn_graph.model import Model
from sn_graph.spectral.matrix import seeded_state
from sn_graph.state.metadata import Inserted


@dataclass(frozen=True)
class StateTensor:
    """One state input of an inserted model, and the outputs that go with it.

    Attributes:
        input, output: The names of u and u.next, [length, 1].
        sigma: The name of σ, [count].
        sites: For each site's id, its elements of u and its place in σ.
    """

    input: str
    output: str
    sigma: str
    sites: Mapping[str, tuple[slice, int]]

    @property
    def shape(self) -> tuple[int, int]:
        """The shape of u, [length, 1]."""
        return max(part.stop for part, _ in self.sites.values()), 1

    def pack(self, u: Mapping[str, NDArray[np.floating]]) -> NDArray[np.float32]:
        """Return the tensor [length, 1] that holds each site's u [n]."""
        packed = np.empty(self.shape, np.float32)
        for site, (part, _) in self.sites.items():
            packed[part, 0] = u[site].reshape(-1)
        return packed

    def split(self, packed: NDArray[np.floating]) -> dict[str, NDArray[np.floating]]:
        """Return each site's u [n], a view of the tensor that holds them."""
        flat = packed.reshape(-1)
        return {site: flat[part] for site, (part, _) in self.sites.items()}

    def seeded(self, seed: int) -> NDArray[np.float32]:
        """Return the tensor that holds the u of a seed."""
        return self.pack({site: seeded_state(seed, site, p.stop - p.start) for site, (p, _) in self.sites.items()})


def state_tensors(inserted: Inserted) -> tuple[StateTensor, ...]:
    """Return the state's tensors: one for all sites, or one for each."""
    sites: dict[tuple[str, str, str], dict[str, tuple[slice, int]]] = {}
    for site in inserted.sites:
        first, second = site.u
        if isinstance(first, int) and isinstance(second, int) and isinstance(site.sigma, int):
            state = inserted.state
            names = (str(state.input), str(state.output), str(state.sigma))
            place = slice(first, first + second), site.sigma
        else:
            names, place = (str(first), str(second), str(site.sigma)), (slice(0, site.length), 0)
        sites.setdefault(names, {})[site.id] = place
    return tuple(StateTensor(*names, held) for names, held in sites.items())


def state_names(inserted: Inserted) -> tuple[dict[str, str], set[str]]:
    """Return which output follows which state input, and the outputs that hold σ."""
    tensors = state_tensors(inserted)
    return {tensor.input: tensor.output for tensor in tensors}, {tensor.sigma for tensor in tensors}


def initial_state(model: Model, inserted: Inserted, seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return what the state inputs hold at the beginning: their defaults, or where there are none the seeded u."""
    defaults = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    return {
        tensor.input: model.array(defaults[tensor.input]).astype(np.float32)
        if tensor.input in defaults
        else tensor.seeded(seed)
        for tensor in state_tensors(inserted)
    }


def site_vectors(model: Model, inserted: Inserted, seed: int = 0) -> dict[str, NDArray[np.floating]]:
    """Return the u [n] that each site begins with, by its id."""
    start = initial_state(model, inserted, seed)
    found: dict[str, NDArray[np.floating]] = {}
    for tensor in state_tensors(inserted):
        found |= tensor.split(start[tensor.input])
    return found
