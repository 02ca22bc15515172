"""Convolutions: what they do to their input, and its norm enclosed from both sides."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.spectral.convolution.convolution import Convolution, adjoint, forward, operator_norm
    from sn_graph.spectral.convolution.geometry import conv_output, resolve_pads, resolve_transposed_pads
    from sn_graph.spectral.convolution.norm import Bracket

__all__ = [
    "Bracket",
    "Convolution",
    "adjoint",
    "conv_output",
    "forward",
    "operator_norm",
    "resolve_pads",
    "resolve_transposed_pads",
]
