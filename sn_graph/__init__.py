"""sn-graph: a compiler for spectral normalization on ONNX graphs."""

__version__ = "0.1.0"
