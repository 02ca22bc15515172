"""`python -m sn_graph` is `sn-graph`."""

from sn_graph.cli import main

main()
