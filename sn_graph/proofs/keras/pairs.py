"""The sites of an inserted model beside the SpectralNormalization layers that they came from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.choices import ProviderChoice
from sn_graph.frontends.keras import Wrapper
from sn_graph.model import Model
from sn_graph.runtime.engine import PROVIDERS
from sn_graph.runtime.session import StatefulSession
from sn_graph.state import Inserted, State, save_state, site_vectors

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Pair:
    """A layer, its site, and what both began with.

    Attributes:
        wrapper: The SpectralNormalization layer.
        site: Its site's id; None where the model has none for it.
        kernel, u: As they were before the first call; u [n] float32.
    """

    wrapper: Wrapper
    site: str | None
    kernel: Array
    u: NDArray[np.float32]

    @property
    def inert(self) -> bool:
        """Whether Keras leaves the layer alone: its kernel is all zeros, and no site is inserted for it."""
        return self.site is None and not self.kernel.any()

    def ours(self, sigma: Mapping[str, float], state: Mapping[str, Array]) -> tuple[Array | None, Array | None]:
        """Return the kernel W₀/σ and u [n] that a session's state stands for; None for both without a site."""
        if self.inert:
            return self.kernel, self.u
        if self.site is None:
            return None, None
        wide = self.kernel.astype(np.float64) / sigma[self.site]
        return wide.astype(self.kernel.dtype), state[self.site]


def pair(model: Model, inserted: Inserted, wrappers: Sequence[Wrapper]) -> tuple[Pair, ...]:
    """Find each layer's site: the one of its name, else one that holds its u: other exporters' names tell nothing."""
    vectors = site_vectors(model, inserted)
    free = [site for site in vectors if site not in {wrapper.weight for wrapper in wrappers}]
    pairs = []
    for wrapper in wrappers:
        u = wrapper.vector_u
        site = wrapper.weight if wrapper.weight in vectors else None
        if site is None:
            site = next((one for one in free if np.array_equal(vectors[one], u)), None)
            if site is not None:
                free.remove(site)
        pairs.append(Pair(wrapper, site, wrapper.kernel, u))
    return tuple(pairs)


def open_session(model: Model, inserted: Inserted, pairs: Sequence[Pair], provider: ProviderChoice) -> StatefulSession:
    """Open an inserted model on a provider; one that requires its state begins with Keras's u."""
    session = StatefulSession(model, providers=[PROVIDERS[provider]])
    if inserted.state.mode == "required":
        vectors = {**session.state(), **{pair.site: pair.u for pair in pairs if pair.site is not None}}
        with tempfile.TemporaryDirectory() as folder:
            start = Path(folder) / "u.safetensors"
            save_state(start, State(vectors, {}), inserted.model, inserted.convention)
            session.load_state(start)
    return session


def unmatched(pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield a sentence for each layer that is normalized by Keras and not by the model."""
    for one in pairs:
        if one.site is None and not one.inert:
            yield f"layer {one.wrapper.path!r} has no site in the ONNX model, neither of its name nor with its u"
