"""`python -m sn_graph.cli` is `sn-graph`."""

from sn_graph.cli.start import main

main()
