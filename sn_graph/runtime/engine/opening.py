"""Sessions: opened on the execution providers asked for, and on none in place of those."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sn_graph.errors import EnvironmentUnavailable, ModelError
from sn_graph.model import Model, temporary_folder, walk_tensors
from sn_graph.runtime.engine.providers import (
    CPU,
    CUDA,
    CUDA_GRAPH,
    SILENT,
    Chain,
    captures_graph,
    import_onnxruntime,
    one_line,
    require_provider,
    without_graph,
)
from sn_graph.runtime.engine.values import to_ort_value

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions


def open_session(
    source: Path | bytes,
    provider: str = "cpu",
    *,
    optimize: bool = True,
    tf32: bool = False,
    overrides: Mapping[str, NDArray[Any]] | None = None,
    profile_prefix: Path | None = None,
    threads: int = 0,
    label: str | None = None,
) -> InferenceSession:
    """Open an onnxruntime session of a model on one provider.

    Args:
        source: The model's file, or its serialized bytes (below 2 GiB).
        provider: A key of PROVIDERS; nodes that it has no kernel for run on the CPU.
        optimize: Whether onnxruntime may rewrite the graph (its default).
        tf32: CUDA only: allow TensorFloat-32, onnxruntime's own default. Off here, because it moves results by 1e-3.
        overrides: Initializers, in any scope, to replace by arrays of the same shape and dtype. onnxruntime ignores
            names that it does not find, and folds constants before it looks here (a transposed weight keeps its old
            value), so overrides turn `optimize` off.
        profile_prefix: Write a profile, to a file of this prefix; `session.end_profiling()` returns its name.
        threads: Threads within an operator; 0 leaves it to onnxruntime.
        label: What messages call the model.

    Raises:
        UsageError: No provider has that name.
        EnvironmentUnavailable: onnxruntime or the provider is missing, the provider fails to start, or onnxruntime put
            another in its place.
        ModelError: onnxruntime can't load the model.
    """
    require_provider(provider)
    options = quiet_options()
    options.intra_op_num_threads = threads
    if not optimize or overrides:
        options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    kept_alive = {name: to_ort_value(array) for name, array in (overrides or {}).items()}
    for name, value in kept_alive.items():
        options.add_initializer(name, value)
    cuda = ((CUDA, {"use_tf32": str(int(tf32))}),) if provider == "cuda" else ()
    label = label or (str(source) if isinstance(source, Path) else "the model")
    session = open_on(source, (*cuda, (CPU, {})), options, label)
    session.kept_alive = kept_alive  # onnxruntime holds bare pointers to them
    return session


def open_on(source: Path | bytes, chain: Chain, options: SessionOptions, label: str) -> InferenceSession:
    """Open an onnxruntime session of a model on a list of providers; messages call the model `label`.

    Raises:
        EnvironmentUnavailable: A provider fails to start, or onnxruntime put another in its place.
        ModelError: onnxruntime can't load the model, or can't capture the CUDA graph that was asked for.
    """
    ort = import_onnxruntime()
    model = _given(source)
    names = [name for name, _ in chain]
    try:
        if CUDA in names:
            _preload_cuda(ort)
        session = ort.InferenceSession(model, options, providers=list(chain), enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        if set(names) != {CPU}:
            open_on(source, ((CPU, {}),), options, label)  # where the model is at fault, this says so
            if captures_graph(chain):
                open_on(source, without_graph(chain), options, label)  # where the provider is
                raise ModelError(
                    f"no CUDA graph can be captured of {label}", one_line(error), f"open it without {CUDA_GRAPH}"
                ) from error
            raise _cannot_start(names[0], one_line(error)) from error
        raise ModelError(
            f"onnxruntime can't load {label}",
            one_line(error),
            "repair the model (onnx.checker tells more), or use an onnxruntime that has its operators",
        ) from error
    for name in names:
        if name not in session.get_providers():
            raise _cannot_start(name, "onnxruntime put another in its place without an error")
    return session


def _given(source: Path | bytes) -> str | bytes:
    """Return what onnxruntime takes; the bytes of a file whose path is not UTF-8, which it can't be given."""
    if isinstance(source, bytes):
        return source
    try:
        str(source).encode()
    except UnicodeEncodeError:
        return source.read_bytes()
    return str(source)


def _preload_cuda(ort: ModuleType) -> None:
    """Load the CUDA libraries that come as Python packages; onnxruntime >= 1.21 prints which it lacks.

    It looks for them beside itself only: installed into a folder of its own, it does not find those of PyTorch.
    """
    if not hasattr(ort, "preload_dlls"):
        return
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
        for entry in dict.fromkeys(sys.path):
            for folder in sorted(Path(entry or ".").glob("nvidia/*/lib")):
                ort.preload_dlls(directory=str(folder.resolve()))


def _cannot_start(provider: str, why: str) -> EnvironmentUnavailable:
    return EnvironmentUnavailable(
        f"execution provider {provider!r} can't be used",
        why,
        "check the driver and the CUDA and cuDNN versions that this onnxruntime needs (sn-graph doctor shows what is "
        "installed)",
    )


@contextlib.contextmanager
def source_of(model: Model) -> Iterator[Path | bytes]:
    """Give what a session of a model is opened from: its own file; where that differs, its bytes or a temporary file.

    Raises:
        EnvironmentUnavailable: The temporary file can't be written.
    """
    if model.path is not None and not model.modified:
        yield model.path
    elif weights_size(model) <= _IN_MEMORY:
        yield model.to_proto().SerializeToString()
    else:
        with _temporary_file(model) as path:
            yield path


# Bytes of weights. By way of a file, into which they are streamed, 100 MB take 0.5 times as long, and 1 MB 1.6 times.
_IN_MEMORY = 8 << 20


def weights_size(model: Model) -> int:
    """Return the bytes of a model's tensors."""
    payloads = (model.payload(tensor) for _, tensor in walk_tensors(model.proto))
    return sum(payload.size for payload in payloads if payload is not None)


@contextlib.contextmanager
def _temporary_file(model: Model) -> Iterator[Path]:
    with contextlib.ExitStack() as stack:
        try:
            path = stack.enter_context(temporary_folder()) / "model.onnx"
            model.save(path, sync=False)
        except (OSError, EnvironmentUnavailable) as error:
            raise EnvironmentUnavailable(
                f"{model.name} can't be written to a temporary file",
                error.why if isinstance(error, EnvironmentUnavailable) else str(error.strerror),
                "set TMPDIR to a folder with room for it",
            ) from error
        yield path


def quiet_options() -> SessionOptions:
    """Return onnxruntime's session options with its log silenced, because what fails is raised."""
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = SILENT
    return options
