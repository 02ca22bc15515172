"""Is the state of an inserted model still alive, or did a tool freeze it?

Optimizers and converters that take an input's default for a constant leave a model that runs, keeps its metadata, and
never iterates again. Feeding another u and looking whether u.next and σ move tells.
"""

import os
from collections.abc import Mapping, Sequence

import numpy as np
import onnx

from sn_graph.errors import ModelError
from sn_graph.inserted import initial_state, read_inserted, state_names
from sn_graph.model import Model
from sn_graph.runtime.parity import Comparison, Inputs, ParityResult, make_feeds
from sn_graph.runtime.providers import require_provider
from sn_graph.runtime.running import run_named
from sn_graph.runtime.side import Side

Source = str | os.PathLike[str] | onnx.ModelProto | Model


def verify_state(
    source: Source,
    *,
    providers: Sequence[str] = ("cpu",),
    inputs: Inputs | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
) -> ParityResult:
    """Run an inserted model from two different u, and say for each state output whether it moved.

    Args:
        source: A model that `insert` wrote, as some tool left it.
        providers, inputs, seed, dims: As for `verify`.

    Returns:
        A comparison for each state output and provider, `ok` where it depends on u; `raise_if_different` raises where
        one does not.

    Raises:
        ModelError: The model's metadata say nothing of an insertion, or it can't be run.
    """
    model = Model.open(source)
    inserted = read_inserted(model)
    if inserted is None:
        raise ModelError(f"{model.name} holds nothing that insert wrote, so it has no state to check")
    pairs, sigmas = state_names(inserted)
    label = model.name
    taken = {value.name for value in model.proto.graph.input}
    rows: list[Comparison] = []
    notes = [f"the state input {name!r} is gone: a tool froze it" for name in pairs if name not in taken]
    for provider in providers:
        require_provider(provider)
        if notes:
            rows += [_row(label, provider, output, 0.0, False) for output in pairs.values()]
            continue
        session = Side(model, label, provider).open()
        (feed,) = make_feeds(model, inputs=inputs, seed=seed, dims=dims)
        start = initial_state(model, inserted)
        # The far side of the sphere would give the same σ, so another direction.
        generator = np.random.default_rng([seed, 1])
        other = {name: generator.standard_normal(u.shape).astype(np.float32) for name, u in start.items()}
        first, second = (run_named(session, {**feed, **state}, label=label) for state in (start, other))
        for output in (*pairs.values(), *sorted(sigmas)):
            if output not in first:
                notes.append(f"the state output {output!r} is gone: a tool cut it off")
                rows.append(_row(label, provider, output, 0.0, False))
                continue
            change = float(np.max(np.abs(first[output] - second[output]), initial=0.0))
            largest = float(np.max(np.abs(second[output]), initial=0.0))
            rows.append(_row(label, provider, output, change, change > 0.0, largest))
    frozen = [row.output for row in rows if not row.ok]
    if frozen and not notes:
        notes.append(f"{', '.join(frozen)} do not depend on the u that is fed: a tool froze the state")
    return ParityResult(tuple(rows), tuple(notes))


def _row(label: str, provider: str, output: str, change: float, ok: bool, largest: float = 1.0) -> Comparison:
    relative = change / largest if largest else 0.0
    return Comparison(f"{label} (its u)", f"{label} (another u)", provider, 0, output, change, relative, 0.0, 0.0, ok)
