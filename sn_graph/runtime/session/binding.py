"""The state of one stream in onnxruntime's hands: u and σ in buffers on the device, which no run copies.

A run reads u from one set of buffers and writes u.next and σ into the other; then the two change places, so a run that
fails has touched nothing. CUDA graphs replay fixed addresses: for them u and u.next share a buffer. That is right
because u.next = n(M v) needs v, and v = n(Mᵀu) needs every reader of u to be done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import UsageError
from sn_graph.runtime.engine import from_ort_value, import_onnxruntime, to_ort_value
from sn_graph.state import StateTensor

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, IOBinding, OrtValue, RunOptions

Device = tuple[str, int]  # onnxruntime's name and id


class StateBuffers:
    """u and σ of one stream."""

    def __init__(self, tensors: Sequence[StateTensor], device: Device, *, in_place: bool) -> None:
        """Make the buffers; `in_place`: a run writes over what it reads, at addresses that never change."""
        self.tensors = tensors
        self.device = device
        self._in_place = in_place
        make = import_onnxruntime().OrtValue.ortvalue_from_shape_and_type
        shapes: dict[str, tuple[int, ...]] = {tensor.output: tensor.shape for tensor in tensors}
        shapes |= {tensor.sigma: (len(tensor.sites),) for tensor in tensors}

        def made() -> dict[str, OrtValue]:
            return {name: make(shape, np.float32, *device) for name, shape in shapes.items()}

        # By the name of the output: what the last run gave, and where the next one writes.
        self._values = made()
        self._spare = self._values if in_place else made()

    def names(self) -> tuple[str, ...]:
        """Return the outputs that the buffers take."""
        return tuple(self._values)

    def bind(self, binding: IOBinding) -> None:
        """Make a run read u, and write u.next and σ to where `turn` makes them the state."""
        for tensor in self.tensors:
            binding.bind_ortvalue_input(tensor.input, self._values[tensor.output])
        for name, value in self._spare.items():
            binding.bind_ortvalue_output(name, value)

    def turn(self) -> None:
        """Make what a run has written behind `bind` the state."""
        self._values, self._spare = self._spare, self._values

    def devices(self) -> set[str]:
        """Return onnxruntime's names of the devices that hold u and σ."""
        return {value.device_name() for values in (self._values, self._spare) for value in values.values()}

    def feeds(self) -> dict[str, NDArray[np.float32]]:
        """Return a copy of each u, by the name of its input."""
        return {tensor.input: self.array(tensor.output) for tensor in self.tensors}

    def array(self, output: str) -> NDArray[np.float32]:
        """Return a copy of what stands in the buffer of an output."""
        array: NDArray[np.float32] = self._values[output].numpy().copy()  # on the CPU, numpy() is a view
        return array

    def read(self) -> dict[str, NDArray[np.float32]]:
        """Return a copy of everything, by the names of the outputs."""
        return {name: self.array(name) for name in self._values}

    def write(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Put back what `read` gave."""
        for name, array in arrays.items():
            self._values[name].update_inplace(array)

    def u(self) -> dict[str, NDArray[np.float32]]:
        """Return a copy of each site's u, [n]."""
        found: dict[str, NDArray[Any]] = {}
        for tensor in self.tensors:
            found |= {site: part.copy() for site, part in tensor.split(self.array(tensor.output)).items()}
        return found

    def sigma(self) -> dict[str, float]:
        """Return each site's σ."""
        found: dict[str, float] = {}
        for tensor in self.tensors:
            norms = self.array(tensor.sigma)
            found |= {site: float(norms[place]) for site, (_, place) in tensor.sites.items()}
        return found

    def put(self, u: Mapping[str, NDArray[np.floating]], sigma: Mapping[str, float]) -> None:
        """Replace each site's u, and σ where it is given."""
        for tensor in self.tensors:
            norms = np.zeros(len(tensor.sites), np.float32)
            for site, (_, place) in tensor.sites.items():
                norms[place] = sigma.get(site, np.nan)
            self.write({tensor.output: tensor.pack(u), tensor.sigma: norms})

    def twin(self) -> StateBuffers:
        """Return buffers of their own with the same content."""
        twin = StateBuffers(self.tensors, self.device, in_place=self._in_place)
        twin.write(self.read())
        return twin


def run_bound(
    session: InferenceSession,
    buffers: StateBuffers,
    names: Sequence[str],
    feed: Mapping[str, NDArray[Any] | OrtValue],
    run_options: RunOptions | None = None,
) -> dict[str, Any]:
    """Run once with the buffers bound; return a copy of each output in `names`."""
    binding = session.io_binding()
    kept_alive = []  # onnxruntime holds a bare pointer
    for name, value in feed.items():
        if isinstance(value, np.ndarray) and value.dtype.isbuiltin == 1:
            binding.bind_cpu_input(name, np.asarray(value, order="C"))
        else:
            kept_alive.append(to_ort_value(value) if isinstance(value, np.ndarray) else value)
            binding.bind_ortvalue_input(name, kept_alive[-1])
    buffers.bind(binding)
    own = [name for name in dict.fromkeys(names) if name not in buffers.names()]
    for name in own:
        binding.bind_output(name, "cpu")
    session.run_with_iobinding(binding, run_options)
    buffers.turn()
    return _collect(binding, buffers, names, own)


def run_fed(
    session: InferenceSession,
    buffers: StateBuffers,
    names: Sequence[str],
    feed: Mapping[str, Any],
    run_options: RunOptions | None = None,
) -> dict[str, Any]:
    """Run once with u fed and fetched: for strings, sequences and maps, which IOBinding does not take."""
    own = [name for name in dict.fromkeys(names) if name not in buffers.names()]
    values = session.run([*own, *buffers.names()], {**feed, **buffers.feeds()}, run_options)
    buffers.write(dict(zip(buffers.names(), values[len(own) :], strict=True)))
    return dict(zip(own, values, strict=False)) | {name: buffers.array(name) for name in {*names} - {*own}}


class FixedBinding:
    """One binding for all runs, of inputs and outputs that stay where they are, as CUDA graphs need it."""

    def __init__(
        self,
        session: InferenceSession,
        buffers: StateBuffers,
        outputs: Sequence[str],
        feed: Mapping[str, NDArray[Any]],
        run_options: RunOptions | None = None,
    ) -> None:
        make = import_onnxruntime().OrtValue.ortvalue_from_numpy
        self._session, self._buffers, self._outputs = session, buffers, outputs
        self._kind = _kind(feed)
        self._inputs = {name: make(array.copy(), *buffers.device) for name, array in feed.items()}
        self._binding = session.io_binding()
        for name, value in self._inputs.items():
            self._binding.bind_ortvalue_input(name, value)
        buffers.bind(self._binding)
        for name in outputs:
            self._binding.bind_output(name, *buffers.device)
        before = buffers.read()
        try:
            session.run_with_iobinding(self._binding, run_options)
        finally:
            buffers.write(before)  # to capture its graph, onnxruntime has run it more than once

    def run(
        self, names: Sequence[str], feed: Mapping[str, NDArray[Any]], run_options: RunOptions | None = None
    ) -> dict[str, Any]:
        """Run once; return a copy of each output in `names`.

        Raises:
            UsageError: The feed has other names, types or shapes than the first.
        """
        if _kind(feed) != self._kind:
            raise UsageError(
                "the CUDA graph was captured for other inputs",
                do="feed the names, types and shapes of the first run, or open another session for these",
            )
        for name, array in feed.items():
            self._inputs[name].update_inplace(np.ascontiguousarray(array))
        self._session.run_with_iobinding(self._binding, run_options)
        return _collect(self._binding, self._buffers, names, self._outputs)


def _kind(feed: Mapping[str, NDArray[Any]]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {name: (array.shape, array.dtype) for name, array in feed.items()}


def _collect(
    binding: IOBinding, buffers: StateBuffers, names: Sequence[str], own: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Copy the outputs `names` of a run; `own` are those bound behind the buffers."""
    values = dict(zip(own, binding.get_outputs()[len(buffers.names()) :], strict=True))
    return {
        name: from_ort_value(values[name]) if name in values else buffers.array(name) for name in dict.fromkeys(names)
    }
