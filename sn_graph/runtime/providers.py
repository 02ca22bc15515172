"""Execution providers by short name, and onnxruntime sessions on exactly the provider asked for."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sn_graph.errors import EnvironmentUnavailable, ModelError, UsageError
from sn_graph.runtime.values import to_ort_value

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
SILENT = 4  # onnxruntime's severity "fatal": every failure is raised as well, so its log says it twice


def parse_providers(text: str) -> tuple[str, ...]:
    """Short provider names from a comma-separated list, each once, in the order given.

    Raises:
        UsageError: a name is unknown, or there is none.

    >>> parse_providers("cpu, CUDA")
    ('cpu', 'cuda')
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    for name in names:
        check_provider_name(name)
    if not names:
        raise UsageError(f"no execution provider is named; choose from {', '.join(PROVIDERS)}")
    return tuple(dict.fromkeys(names))


def check_provider_name(name: str) -> None:
    """Raise UsageError unless `name` is one of PROVIDERS."""
    if name not in PROVIDERS:
        raise UsageError(f"execution provider {name!r} is unknown to sn-graph; choose from {', '.join(PROVIDERS)}")


def available_providers() -> tuple[str, ...]:
    """Short names of the providers that the installed onnxruntime was built with (they may still fail to start)."""
    built = import_onnxruntime().get_available_providers()
    return tuple(short for short, full in PROVIDERS.items() if full in built)


def require_provider(name: str) -> None:
    """Raise EnvironmentUnavailable where onnxruntime is missing or was built without the provider `name`."""
    check_provider_name(name)
    offered = available_providers()
    if name not in offered:
        raise EnvironmentUnavailable(
            f"execution provider {name!r} can't be used: onnxruntime {import_onnxruntime().__version__} offers only "
            f"{', '.join(offered)}; install a build that has it (for cuda: pip uninstall onnxruntime, "
            "then pip install 'sn-graph[gpu]')"
        )


def import_onnxruntime() -> ModuleType:
    """The onnxruntime module, its default log silenced where this is its first import in the process."""
    first = "onnxruntime" not in sys.modules  # who imported it before us has set its log as they like
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentUnavailable(
            f"running a model needs onnxruntime, which can't be imported ({one_line(error)}); "
            "pip install 'sn-graph[cpu]' (or 'sn-graph[gpu]')"
        ) from error
    if first:
        onnxruntime.set_default_logger_severity(SILENT)
    module: ModuleType = onnxruntime
    return module


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
    """An onnxruntime session of a model, on the provider asked for and on no other in its place.

    Args:
        source: the model's file, or its serialized bytes (below 2 GiB).
        provider: a key of PROVIDERS; nodes that it has no kernel for run on the CPU.
        optimize: whether onnxruntime may rewrite the graph (its default).
        tf32: CUDA only: allow TensorFloat-32, onnxruntime's own default. Off here: it moves results by 1e-3.
        overrides: initializers, in any scope, to replace by arrays of the same shape and dtype. onnxruntime ignores
            names that it does not find, and folds constants before it looks here (a transposed weight keeps its old
            value), so overrides turn `optimize` off.
        profile_prefix: write a profile, to a file of this prefix; `session.end_profiling()` returns its name.
        threads: threads within an operator; 0 leaves it to onnxruntime.
        label: what messages call the model.

    Raises:
        EnvironmentUnavailable: onnxruntime or the provider is missing, or the provider fails to start.
        ModelError: onnxruntime can't load the model.
    """
    ort = import_onnxruntime()
    require_provider(provider)
    label = label or (str(source) if isinstance(source, Path) else "the model")
    options = ort.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = threads
    if not optimize or overrides:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    kept_alive = {name: to_ort_value(array) for name, array in (overrides or {}).items()}
    for name, value in kept_alive.items():
        options.add_initializer(name, value)
    model = str(source) if isinstance(source, Path) else source
    try:
        if provider == "cuda":
            preload_cuda(ort)
        session = ort.InferenceSession(model, options, providers=_chain(provider, tf32), enable_fallback=0)
    except Exception as error:  # onnxruntime's exceptions have no base of their own
        if provider != "cpu":
            open_session(source, "cpu", overrides=overrides, label=label)  # where the model is at fault, this says so
            raise EnvironmentUnavailable(cannot_start(provider, one_line(error))) from error
        raise ModelError(
            f"onnxruntime can't load {label}: {one_line(error)}; repair the model (onnx.checker tells more), or use "
            "an onnxruntime that has its operators"
        ) from error
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise EnvironmentUnavailable(cannot_start(provider, "onnxruntime put the CPU in its place without an error"))
    session.kept_alive = kept_alive  # onnxruntime holds bare pointers to them
    return session


def one_line(error: BaseException, limit: int = 300) -> str:
    """The text of an onnxruntime error without its codes, build paths and line breaks."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    text = re.sub(r"\S*/onnxruntime_src/\S+\s*", "", " ".join(text.split())).rstrip(" .")
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _chain(provider: str, tf32: bool) -> list[str | tuple[str, dict[str, str]]]:
    if provider == "cuda":
        return [(PROVIDERS["cuda"], {"use_tf32": str(int(tf32))}), PROVIDERS["cpu"]]
    return [PROVIDERS[provider]]


def preload_cuda(ort: ModuleType) -> None:
    """Load the CUDA libraries that come as Python packages; onnxruntime >= 1.21 prints which it lacks."""
    with contextlib.redirect_stdout(io.StringIO()):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()


def cannot_start(provider: str, reason: str) -> str:
    return (
        f"execution provider {provider!r} can't be used: {reason}; check the driver and the CUDA and cuDNN versions "
        "that this onnxruntime needs (sn-graph doctor shows what is installed)"
    )
