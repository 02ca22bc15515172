"""Interop: sn-graph inside the pipelines of other tools."""
