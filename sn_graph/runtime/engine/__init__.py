"""The engine: onnxruntime's sessions, providers and values, with failures in one line."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.runtime.engine.opening import open_on, open_session, quiet_options, source_of, weights_size
    from sn_graph.runtime.engine.providers import (
        CPU,
        PROVIDERS,
        Chain,
        Providers,
        available_providers,
        captures_graph,
        import_onnxruntime,
        one_line,
        parse_providers,
        provider_chain,
        require_provider,
        state_device,
        without_graph,
    )
    from sn_graph.runtime.engine.running import run_named
    from sn_graph.runtime.engine.values import EXTENDED, element_dtype, from_ort_value, to_ort_value

__all__ = [
    "CPU",
    "EXTENDED",
    "PROVIDERS",
    "Chain",
    "Providers",
    "available_providers",
    "captures_graph",
    "element_dtype",
    "from_ort_value",
    "import_onnxruntime",
    "one_line",
    "open_on",
    "open_session",
    "parse_providers",
    "provider_chain",
    "quiet_options",
    "require_provider",
    "run_named",
    "source_of",
    "state_device",
    "to_ort_value",
    "weights_size",
    "without_graph",
]
