"""Own classes: layers of other projects that normalize their weight themselves, found by their buffers and by trial.

What is tried is a layer that is not PyTorch's alone, with one weight of two axes or more in it or in a child of its,
and a stored vector as long as one side of that weight's matrix: the `_bar` wrappers of SAGAN and its descendants, the
classes of BigGAN, mimicry and DUE. A trial tells what it does (see `trial`); nothing is known by a class's name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from sn_graph.errors import ModelError
from sn_graph.frontends.torch.copying import copied
from sn_graph.frontends.torch.framework import require_torch
from sn_graph.frontends.torch.layers import INPUT, Held, Name, Normalized, Replay
from sn_graph.frontends.torch.trial import Bench, Learned
from sn_graph.frontends.torch.watching import Call

_ORIGINAL = re.compile(r"_(orig|bar)$")
_VECTOR = re.compile(r"(^|[._])[uv]\d*$")
_ROOM = (8, 13)  # sizes of images beyond the kernel: two, to see what depends on them


@dataclass(frozen=True, eq=False)
class Candidate:
    """A layer that may normalize its weight.

    Attributes:
        path, layer: Where it is, and itself.
        weight, vectors: The names of its weight, and of what may be u or v.
    """

    path: str
    layer: Any
    weight: str
    vectors: tuple[str, ...]


def own_layers(module: Any, known: Collection[int]) -> tuple[tuple[Normalized, ...], tuple[str, ...]]:
    """Return the weights of a module that classes of other projects normalize, and the names of those that they may.

    Args:
        module: A torch.nn.Module; it is not changed, nor are PyTorch's random numbers.
        known: The ids of weights that are explained already.
    """
    torch = require_torch()
    explained, found, unknown = set(known), [], []
    with torch.random.fork_rng(devices=[]):
        for path, layer in reversed(list(module.named_modules())):  # layers before what is around them
            candidate = _candidate(path, layer)
            if candidate is None or id(Held(layer, candidate.weight).tensor) in explained:
                continue
            bench, inputs = _bench(candidate)
            if bench is None or bench.draw() is None:
                continue
            explained.add(id(Held(layer, candidate.weight).tensor))
            learned = bench.learn(tuple(_numbers(layer)))
            if learned is None:
                if _depends_on_size(bench):
                    unknown.append(f"{path}.{candidate.weight}".lstrip("."))
                continue
            found.append(_normalized(candidate, learned, _replay(candidate, bench, inputs)))
    return tuple(reversed(found)), tuple(reversed(unknown))


def _candidate(path: str, layer: Any) -> Candidate | None:
    own = not type(layer).__module__.startswith("torch.") or layer._forward_pre_hooks
    near = [("", layer), *((f"{name}.", child) for name, child in layer.named_children())]
    far = (module for _, child in near[1:] for module in child.children())
    if not own or any(_is_weight(one) for module in far for one in module.parameters()):
        return None
    held = [(prefix + name, one) for prefix, module in near for name, one in module._parameters.items()]
    weights = [(name, one) for name, one in held if _is_weight(one)]
    if len(weights) != 1:
        return None
    name, weight = weights[0]
    sides = {size for rows in weight.shape for size in (rows, weight.numel() // max(1, rows))}
    buffers = [(prefix + name, one) for prefix, module in near for name, one in module._buffers.items()]
    found = [name for name, one in (*buffers, *held) if _is_vector(one) and one.numel() in sides]
    # A layer of one row has more vectors of one element than u; then the first is meant that is named so.
    vectors = tuple(sorted(found, key=lambda name: not _VECTOR.search(name)))
    return Candidate(path, layer, name, vectors) if vectors else None


def _is_weight(tensor: Any) -> bool:
    return tensor is not None and tensor.is_floating_point() and tensor.ndim >= 2 and not _is_vector(tensor)


def _is_vector(tensor: Any) -> bool:
    """Say whether a tensor is a vector of floats, a row or a column included."""
    return (
        tensor is not None
        and tensor.is_floating_point()
        and tensor.ndim <= 2
        and tensor.numel() == max(tensor.shape, default=0)
        and not tensor.requires_grad
    )


def _bench(candidate: Candidate) -> tuple[Bench | None, list[Any]]:
    """Return a bench on which the layer runs, and an input of another size; None where it takes none that is tried."""
    try:
        layer = copied(candidate.layer).cpu().double()
    except (ModelError, RuntimeError, TypeError):
        return None, []
    for inputs in _inputs(candidate):
        bench = Bench(layer, candidate.weight, candidate.vectors, inputs[:1])
        try:
            bench.call(inputs[:1])
        except Exception:  # whatever a layer's own code raises
            continue
        return bench, inputs
    return None, []


def _inputs(candidate: Candidate) -> Iterator[list[Any]]:
    """Yield inputs that the layer may take, each with one of another size behind it."""
    torch = require_torch()
    weight, near = Held(candidate.layer, candidate.weight).tensor, [candidate.layer, *candidate.layer.children()]
    first, second, *kernel = weight.shape
    if any(isinstance(module, torch.nn.Embedding) for module in near):
        yield [torch.zeros(size, dtype=torch.long) for size in (2, 3)]
    groups = max([one for one in (getattr(module, "groups", 1) for module in near) if isinstance(one, int)])
    spread = max([1, *(size for module in near for size in _sizes(getattr(module, "dilation", 1)))])
    for channels in dict.fromkeys((second * groups, first, second)):
        yield [
            torch.ones((2 + number, channels, *(spread * (size - 1) + room for size in kernel)), dtype=torch.float64)
            for number, room in enumerate(_ROOM)
        ]
    yield [torch.zeros(size, dtype=torch.long) for size in (2, 3)]


def _sizes(value: Any) -> Sequence[int]:
    values = value if isinstance(value, (tuple, list)) else [value]
    return [one for one in values if isinstance(one, int)]


def _numbers(layer: Any) -> Iterator[float]:
    """Yield the small numbers that a layer, or a hook of its, has as attributes: of which one may be its eps."""
    holders = [layer, *layer.children(), *layer._forward_pre_hooks.values()]
    for holder in holders:
        for value in getattr(holder, "__dict__", {}).values():
            if isinstance(value, float) and 0.0 < value < 1e-2:  # above, it would be no eps
                yield value


def _depends_on_size(bench: Bench) -> bool:
    """Say whether a weight is divided by what grows with it: a norm of some kind."""
    one, other = bench.draw(1.0), bench.draw(1e3)
    return one is not None and other is not None and not math.isclose(one.divisor, other.divisor, rel_tol=0.1)


def _normalized(candidate: Candidate, learned: Learned, replay: Replay | None) -> Normalized:
    training, layer = learned.training, candidate.layer
    return Normalized(
        layer,
        candidate.path,
        _ORIGINAL.sub("", candidate.weight),
        "own",
        training.dim,
        training.count,
        learned.eps,
        Held(layer, candidate.weight),
        Held(layer, training.start),
        None if training.other is None else Held(layer, training.other),
        training.begins,
        learned.evaluation.count,
        learned.bound,
        learned.clip,
        replay,
    )


def _replay(candidate: Candidate, bench: Bench, inputs: Sequence[Any]) -> Replay | None:
    """Return the function that a layer is, if it does nothing but call it, and alike on inputs of two sizes."""
    found = []
    for one in inputs:
        output, calls = bench.call([one])
        if len(calls) != 1 or calls[0].output is not output:
            return None
        found.append(_template(candidate, bench, calls[0], one))
    first, second = found
    if first is None or second is None or first.arguments != second.arguments or first.options != second.options:
        return None
    return first


def _template(candidate: Candidate, bench: Bench, call: Call, given: Any) -> Replay | None:
    places: dict[int, Any] = {id(given): INPUT, id(call.weight): candidate.weight}
    places |= {id(one): name for name, one in bench.tensors() if name != candidate.weight}
    torch = require_torch()
    values = [*call.arguments, *call.options.values()]
    if any(isinstance(one, torch.Tensor) and id(one) not in places for one in values):
        return None

    def placed(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        place = places[id(value)]
        return place if place is INPUT else Name(_ORIGINAL.sub("", place) if place == candidate.weight else place)

    return Replay(
        call.function, tuple(map(placed, call.arguments)), {key: placed(one) for key, one in call.options.items()}
    )
