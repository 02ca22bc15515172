"""Exports of spectrally normalized PyTorch modules: layers, APIs, exporters, modes and options, to try `lift` on."""
