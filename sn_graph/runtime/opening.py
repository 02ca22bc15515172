"""Open a session on a list of execution providers, in onnxruntime's own form, and on none in place of those."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError
from sn_graph.model import Model
from sn_graph.runtime.providers import (
    PROVIDERS,
    SILENT,
    cannot_start,
    import_onnxruntime,
    one_line,
    preload_cuda,
    require_provider,
)

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, SessionOptions

Providers = Sequence[str | tuple[str, Mapping[str, Any]]]
Chain = tuple[tuple[str, dict[str, Any]], ...]
CPU, CUDA = PROVIDERS["cpu"], PROVIDERS["cuda"]


def provider_chain(providers: Providers) -> Chain:
    """Return each provider with its options; CUDA's TF32 is off unless they turn it on.

    Raises:
        UsageError: There is none, or onnxruntime knows none of that name.
        EnvironmentUnavailable: The installed onnxruntime was built without one of them.
    """
    ort = import_onnxruntime()
    pairs = [(provider, {}) if isinstance(provider, str) else provider for provider in providers]
    if not pairs or isinstance(providers, str):
        raise UsageError(f"providers {providers!r} are no list; give onnxruntime's names, such as ['{CPU}']")
    shorts = {name: short for short, name in PROVIDERS.items()}
    for name, _ in pairs:
        if name in shorts:
            require_provider(shorts[name])
        elif name not in ort.get_all_providers():
            raise UsageError(f"onnxruntime knows no execution provider {name!r}; it has {', '.join(shorts)} and others")
        elif name not in ort.get_available_providers():
            offered = ", ".join(ort.get_available_providers())
            raise EnvironmentUnavailable(
                f"execution provider {name!r} can't be used: this onnxruntime offers only {offered}; install a build "
                "that has it"
            )
    # TensorFloat-32, onnxruntime's default, moves σ by up to 3e-5 and u by 6e-4.
    return tuple((name, {"use_tf32": "0", **options} if name == CUDA else dict(options)) for name, options in pairs)


def state_device(chain: Chain) -> tuple[str, int]:
    """Return where the first provider keeps its tensors, as onnxruntime's device name and id."""
    name, options = chain[0]
    return ("cuda", int(options.get("device_id", 0))) if name == CUDA else ("cpu", 0)


def captures_graph(chain: Chain) -> bool:
    """Say whether a provider is asked to replay a CUDA graph, so that every tensor must stay where it is."""
    return any(str(options.get(CUDA_GRAPH, "")).lower() in ("1", "true") for _, options in chain)


def without_graph(chain: Chain) -> Chain:
    """Return the same providers, with no CUDA graph."""
    return tuple((name, {key: value for key, value in own.items() if key != CUDA_GRAPH}) for name, own in chain)


CUDA_GRAPH = "enable_cuda_graph"


def quiet_options() -> SessionOptions:
    """Return onnxruntime's session options with its log silenced: what fails is raised."""
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = SILENT
    return options


def open_on(model: Model, chain: Chain, options: SessionOptions) -> InferenceSession:
    """Open a session of a model, from its file unless it was modified.

    Raises:
        EnvironmentUnavailable: A provider fails to start, or onnxruntime put another in its place.
        ModelError: onnxruntime can't load the model.
    """
    ort = import_onnxruntime()
    with _file_of(model) as path:
        try:
            if any(name == CUDA for name, _ in chain):
                preload_cuda(ort)
            session = ort.InferenceSession(str(path), options, providers=list(chain), enable_fallback=0)
        except Exception as error:  # onnxruntime's exceptions have no base of their own
            if any(name != CPU for name, _ in chain):
                open_on(model, ((CPU, {}),), options)  # where the model is at fault, this says so
                raise EnvironmentUnavailable(cannot_start(chain[0][0], one_line(error))) from error
            raise ModelError(
                f"onnxruntime can't load {model.name}: {one_line(error)}; repair the model (onnx.checker tells more), "
                "or use an onnxruntime that has its operators"
            ) from error
    for name, _ in chain:
        if name not in session.get_providers():
            raise EnvironmentUnavailable(cannot_start(name, "onnxruntime put another in its place without an error"))
    return session


@contextlib.contextmanager
def _file_of(model: Model) -> Iterator[Path]:
    """Give a file of the model: its own, or a temporary one, for weights of any size are streamed into that."""
    if model.path is not None and not model.modified:
        yield model.path
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        model.save(Path(folder) / "model.onnx")
        yield Path(folder) / "model.onnx"
