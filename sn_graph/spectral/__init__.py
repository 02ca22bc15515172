"""Spectral norms: linear algebra (`linalg`), matrices (`matrix`) and convolutions (`convolution`)."""
