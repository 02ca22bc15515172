"""The `sn-graph` command: one file a command, what they share in `app`, `options` and `console`."""

try:
    from sn_graph.cli.start import main
except KeyboardInterrupt:  # in the first milliseconds, before main takes over
    import sys

    print("sn-graph: interrupted", file=sys.stderr)
    sys.exit(130)

__all__ = ["main"]
