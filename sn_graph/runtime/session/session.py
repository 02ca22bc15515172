"""A session that runs an inserted model as onnxruntime would, and keeps its state from run to run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from sn_graph.errors import ModelError, SnGraphError, UsageError
from sn_graph.model import Model, ModelSource
from sn_graph.rewrite import bake
from sn_graph.runtime.engine import (
    CPU,
    Providers,
    captures_graph,
    import_onnxruntime,
    one_line,
    open_on,
    provider_chain,
    quiet_options,
    source_of,
    state_device,
)
from sn_graph.runtime.session.binding import FixedBinding, StateBuffers, run_bound, run_fed
from sn_graph.runtime.session.stepping import Stepper, reads_state
from sn_graph.state import State, StateSource, read_inserted, read_state, save_state, state_tensors

if TYPE_CHECKING:
    from onnxruntime import NodeArg, RunOptions, SessionOptions


class StatefulSession:
    """An onnxruntime session of a model that insert wrote; each run advances the vectors u by one step.

    `run` has onnxruntime's signature. Threads may share a session: its runs go one after the other, each of them one
    step. Threads that want to run side by side take a `fork` each.

    Args:
        source: A path, a ModelProto, a Model or a PassResult that holds an inserted iteration.
        providers: As onnxruntime takes them: names, or pairs of a name and its options. CUDA runs without TF32 unless
            its options turn `use_tf32` on; the state stays on the device of the first provider.
        session_options: onnxruntime's; by default its log is silent, since what fails is raised.
        state: A state file, or arrays u by site id, to start from; the model's own u by default.

    Raises:
        ModelError: The model holds no insertion, another tool removed its state, onnxruntime can't load it, or the
            state file does not fit.
        EnvironmentUnavailable: onnxruntime or a provider is missing, or a provider can't start.
        UsageError: onnxruntime has no provider of that name.

    >>> import sn_graph as sn
    >>> session = sn.StatefulSession(sn.insert("models/keras_dcgan_discriminator.onnx").to_proto())
    >>> (logits,) = session.run(None, {"image": np.zeros((1, 32, 32, 3), np.float32)})
    >>> logits.shape, session.step, len(session.sigma)
    ((1, 1), 1, 4)
    """

    def __init__(
        self,
        source: ModelSource,
        providers: Providers = (CPU,),
        session_options: SessionOptions | None = None,
        state: StateSource | None = None,
    ) -> None:
        self._model = Model.open(source).copy()
        found = read_inserted(self._model)
        if found is None:
            raise ModelError(
                f"{self._model.name} holds no inserted iteration",
                "so there is no state to keep",
                "insert it first (sn-graph insert), or run the model with onnxruntime itself",
            )
        self._inserted = found
        chain, tensors = provider_chain(providers), state_tensors(found)
        with source_of(self._model) as opened_from:
            self._session = open_on(opened_from, chain, session_options or quiet_options(), self._model.name)
        self._stepper = Stepper(self._model, tensors, chain, session_options)
        self._fixed = captures_graph(chain)
        self._graph: FixedBinding | None = None
        self._lock = RLock()
        self._inputs = {tensor.input for tensor in tensors}
        self._buffers = StateBuffers(tensors, state_device(chain), in_place=self._fixed)
        self._require_state()
        self._outputs = [output.name for output in self.get_outputs()]
        self._required = [value.name for value in self.get_inputs() if not value.type.startswith("optional")]
        values = [*self.get_inputs(), *self.get_outputs()]
        self._bindable = all(value.type.startswith("tensor(") and "string" not in value.type for value in values)
        self._bindable_types = (np.ndarray, import_onnxruntime().OrtValue)
        self._step, self._ran = 0, False
        self.reset()
        if state is not None:
            self.load_state(state)

    def _require_state(self) -> None:
        inputs = [*self._session.get_inputs(), *self._session.get_overridable_initializers()]
        there = {value.name for value in [*inputs, *self._session.get_outputs()]}
        lost = sorted({*self._inputs, *self._buffers.names()} - there)
        if lost:
            raise ModelError(
                f"{self._model.name} lost its state '{lost[0]}'",
                "another tool froze or removed it",
                "insert after that tool has run, or with --state-mode required",
            )
        frozen = next((tensor for tensor in self._buffers.tensors if not reads_state(self._model, tensor)), None)
        if frozen is not None:
            raise ModelError(
                f"{self._model.name} has a frozen state",
                f"because nothing that '{frozen.output}' is computed from reads '{frozen.input}' any more",
                "insert after the tool has run that froze it, or with --state-mode required",
            )

    # Running

    def run(
        self, output_names: Sequence[str] | None, input_feed: Mapping[str, Any], run_options: RunOptions | None = None
    ) -> list[Any]:
        """Run the model once and advance the state by one step; a run that fails leaves the state as it was.

        Args:
            output_names: Which outputs; None for the model's own, in its order, without the state's. The state's may be
                named too.
            input_feed: An array for each of `get_inputs`.
            run_options: onnxruntime's.

        Returns:
            The outputs, as onnxruntime's `run` gives them; no later run changes them.

        Raises:
            ModelError: onnxruntime refuses the feed or fails in a node.
            UsageError: The feed holds the state, or does not fit the CUDA graph of the first run.
        """
        fed = sorted(self._inputs & input_feed.keys())
        if fed:
            raise UsageError(f"'{fed[0]}' is the state", "which the session itself keeps", "use load_state or reset")
        names = list(output_names or self._outputs)
        with self._lock:
            try:
                values = self._run(names, input_feed, run_options)
            except SnGraphError:
                raise
            except Exception as error:
                raise self._explained(error, input_feed) from error
            self._advance()
        return [values[name] for name in names]

    def _run(self, names: list[str], feed: Mapping[str, Any], options: RunOptions | None) -> dict[str, Any]:
        missing = [name for name in self._required if name not in feed]
        if missing:
            raise ValueError(f"input '{missing[0]}' is missing")
        if self._fixed:
            arrays = {name: np.asarray(value) for name, value in feed.items()}
            self._graph = self._graph or FixedBinding(self._session, self._buffers, self._outputs, arrays, options)
            return self._graph.run(names, arrays, options)
        # Lists and numbers are for onnxruntime to convert.
        bindable = self._bindable and all(isinstance(value, self._bindable_types) for value in feed.values())
        return (run_bound if bindable else run_fed)(self._session, self._buffers, names, feed, options)

    def _explained(self, error: Exception, feed: Mapping[str, Any]) -> ModelError:
        shapes = ", ".join(f"{name} {list(getattr(value, 'shape', ()))}" for name, value in feed.items())
        return ModelError(
            f"onnxruntime can't run {self._model.name} on {shapes or 'no inputs'}",
            one_line(error).removeprefix("Error in execution: "),
            "feed the names, types and shapes of get_inputs()",
        )

    def _advance(self) -> None:
        self._step, self._ran = self._step + 1, True

    def normalize_weights(self) -> None:
        """Advance the state by one step without an input: the iterations run, the rest of the network does not.

        This is `normalize_weights` of Keras's wrapper. The first call opens a session of the iterations alone.
        """
        with self._lock:
            if self._inserted.sites:  # none where every weight was all zeros
                run_bound(self._stepper.session(), self._buffers, (), {})
            self._advance()

    def fork(self) -> StatefulSession:
        """Return an independent stream on the same onnxruntime session; it begins with a copy of this one's state.

        Raises:
            UsageError: The session replays a CUDA graph, which is captured for one stream's addresses.
        """
        if self._fixed:
            raise UsageError(
                "a CUDA graph holds the addresses of one stream", do="open another StatefulSession instead"
            )
        with self._lock:
            twin = object.__new__(type(self))
            twin.__dict__.update(self.__dict__, _lock=RLock(), _buffers=self._buffers.twin())
        return twin

    def __copy__(self) -> StatefulSession:
        """Return a `fork`, because two sessions that share buffers would advance each other's state."""
        return self.fork()

    def __deepcopy__(self, _: dict[int, Any]) -> NoReturn:
        """Raise UsageError: onnxruntime's session can't be copied."""
        raise UsageError("a StatefulSession can't be copied deeply", do="take a fork() of it")

    def __reduce__(self) -> NoReturn:
        """Raise UsageError: onnxruntime's session can't be pickled."""
        raise UsageError(
            "a StatefulSession can't be pickled",
            do="save its state with save_state(path), and give that to a StatefulSession of the same model there",
        )

    # The state

    @property
    def step(self) -> int:
        """The number of steps since the last reset, those of a loaded state included."""
        return self._step

    @property
    def sigma(self) -> dict[str, float]:
        """σ of the last run by site id, before bound and clip.

        Raises:
            UsageError: Nothing has been run since the session was opened or reset, and no σ was loaded.
        """
        with self._lock:
            if not self._ran:
                raise UsageError("no σ is known before the first run", do="run the model or normalize_weights() first")
            return self._buffers.sigma()

    def state(self) -> dict[str, NDArray[np.float32]]:
        """Return a copy of each site's u, float32 [n], by site id."""
        with self._lock:
            return self._buffers.u()

    def reset(self, seed: int | None = None) -> None:
        """Begin again at step 0: with the model's own u, or with those of a seed.

        A model that insert wrote with `required` state has no u of its own; None is seed 0 then.
        """
        own = {} if seed is not None else {tensor.name: tensor for tensor in self._model.proto.graph.initializer}
        u: dict[str, NDArray[np.floating]] = {}
        for tensor in self._buffers.tensors:
            stored = own.get(tensor.input)
            whole = tensor.seeded(seed or 0) if stored is None else self._model.array(stored).astype(np.float32)
            u |= tensor.split(whole)
        self._put(State(u, {}))

    def _put(self, state: State) -> None:
        with self._lock:
            self._buffers.put(state.u, state.sigma)
            self._step, self._ran = state.step, len(state.sigma) == len(self._inserted.sites)

    def save_state(self, path: str | os.PathLike[str]) -> None:
        """Write u, σ and the step to a safetensors file, atomically.

        Raises:
            EnvironmentUnavailable: The folder can't be written.
        """
        with self._lock:
            state = State(self._buffers.u(), self._buffers.sigma() if self._ran else {}, self._step)
        save_state(Path(path), state, self._inserted.model, self._inserted.convention)

    def load_state(self, state: StateSource) -> None:
        """Go on from a state file, or from arrays by site id: of this model, or of the model before the insertion.

        Raises:
            ModelError: The file can't be read, is of another model, lacks a site, or holds a vector of another length;
                the session's state stays as it was.
        """
        lengths = {site.id: site.length for site in self._inserted.sites}
        self._put(read_state(state, lengths, self._inserted.model, self._model.name))

    def bake(self, path: str | os.PathLike[str]) -> None:
        """Write the plain model whose weights are those that the last run used.

        Raises:
            UsageError: Nothing was run yet.
            ModelError: The model was changed since the insertion.
        """
        bake(self._model, self._inserted, self.sigma).save(path)

    # What onnxruntime's session says of itself, without the state

    def get_inputs(self) -> list[NodeArg]:
        """Return the inputs that `run` must be fed."""
        return [value for value in self._session.get_inputs() if value.name not in self._inputs]

    def get_outputs(self) -> list[NodeArg]:
        """Return the outputs that `run(None, …)` gives."""
        return [value for value in self._session.get_outputs() if value.name not in self._buffers.names()]

    def get_providers(self) -> list[str]:
        """Return onnxruntime's execution providers, in order."""
        names: list[str] = self._session.get_providers()
        return names
