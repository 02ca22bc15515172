"""Execution providers: by short name, in onnxruntime's own form, and onnxruntime itself, imported when needed."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any

from sn_graph.choices import ProviderChoice
from sn_graph.errors import EnvironmentUnavailable, UsageError

PROVIDERS: Mapping[ProviderChoice, str] = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CPU, CUDA = PROVIDERS["cpu"], PROVIDERS["cuda"]
CUDA_GRAPH = "enable_cuda_graph"  # the option that has CUDA record the kernels of a run and replay them
SILENT = 4  # onnxruntime's severity "fatal": every failure is raised as well, so its log says it twice

Providers = Sequence[str | tuple[str, Mapping[str, Any]]]
Chain = tuple[tuple[str, dict[str, Any]], ...]


def parse_providers(text: str) -> tuple[ProviderChoice, ...]:
    """Return the short provider names in a comma-separated list, each once, in the order given.

    Raises:
        UsageError: A name is unknown, or there is none.

    >>> parse_providers("cpu, CUDA")
    ('cpu', 'cuda')
    """
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError("no execution provider is named", do=f"choose from {', '.join(PROVIDERS)}")
    return tuple(dict.fromkeys(map(_known, names)))


def available_providers() -> tuple[ProviderChoice, ...]:
    """Return the short names of the providers that onnxruntime was built with; they may still fail to start.

    Raises:
        EnvironmentUnavailable: onnxruntime is missing.
    """
    built = import_onnxruntime().get_available_providers()
    return tuple(short for short, full in PROVIDERS.items() if full in built)


def require_provider(name: str) -> None:
    """Check that a provider can be asked for, by its short name.

    Raises:
        UsageError: No provider has that name.
        EnvironmentUnavailable: onnxruntime is missing, or was built without the provider.
    """
    _known(name)
    offered = available_providers()
    if name not in offered:
        raise EnvironmentUnavailable(
            f"execution provider {name!r} can't be used",
            f"onnxruntime {import_onnxruntime().__version__} offers only {', '.join(offered)}",
            "install a build that has it (for cuda: pip uninstall onnxruntime, then pip install 'sn-graph[gpu]')",
        )


def _known(name: str) -> ProviderChoice:
    for provider in PROVIDERS:
        if name == provider:
            return provider
    raise UsageError(f"execution provider {name!r} is unknown to sn-graph", do=f"choose from {', '.join(PROVIDERS)}")


def provider_chain(providers: Providers) -> Chain:
    """Return each provider with its options; CUDA's TF32 is off unless they turn it on.

    Raises:
        UsageError: There is none, or onnxruntime knows none of that name.
        EnvironmentUnavailable: The installed onnxruntime was built without one of them.
    """
    ort = import_onnxruntime()
    pairs = [(provider, {}) if isinstance(provider, str) else provider for provider in providers]
    if not pairs or isinstance(providers, str):
        raise UsageError(f"providers {providers!r} are not a list", do=f"give onnxruntime's names, such as ['{CPU}']")
    shorts = {name: short for short, name in PROVIDERS.items()}
    for name, _ in pairs:
        if name in shorts:
            require_provider(shorts[name])
        elif name not in ort.get_all_providers():
            raise UsageError(
                f"onnxruntime knows no execution provider {name!r}",
                do=f"it has {', '.join(shorts)} and others",
            )
        elif name not in ort.get_available_providers():
            offered = ", ".join(ort.get_available_providers())
            raise EnvironmentUnavailable(
                f"execution provider {name!r} can't be used",
                f"this onnxruntime offers only {offered}",
                "install a build that has it",
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


def import_onnxruntime() -> ModuleType:
    """Return the module onnxruntime, its default log silenced where this is its first import in the process.

    Raises:
        EnvironmentUnavailable: It can't be imported.
    """
    first = "onnxruntime" not in sys.modules  # who imported it before us has set its log as they like
    try:
        import onnxruntime
    except ImportError as error:
        raise EnvironmentUnavailable(
            "running a model needs onnxruntime",
            f"which can't be imported ({one_line(error)})",
            "pip install 'sn-graph[cpu]' (or 'sn-graph[gpu]')",
        ) from error
    if first:
        onnxruntime.set_default_logger_severity(SILENT)
    module: ModuleType = onnxruntime
    return module


def one_line(error: BaseException, limit: int = 300) -> str:
    """Return the text of an onnxruntime error without its codes, build paths and line breaks."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error).strip())
    text = " ".join(word for word in text.split() if "/onnxruntime_src/" not in word).rstrip(" .")
    return text if len(text) <= limit else text[: limit - 1] + "…"
