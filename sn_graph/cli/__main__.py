"""`python -m sn_graph.cli` is `sn-graph`."""

from sn_graph.cli.app import main

main()
