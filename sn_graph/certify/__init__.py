"""Certify: a proven Lipschitz constant of a whole network."""

from sn_graph.lazy import lazily

with lazily(__name__):
    from sn_graph.certify.build import network_of
    from sn_graph.certify.certificate import Certificate, Stop, upwards
    from sn_graph.certify.certify import Level, certify
    from sn_graph.certify.confirmed import CLOSE, confirm
    from sn_graph.certify.network import Network, Source
    from sn_graph.certify.target import fold_to
    from sn_graph.certify.witness import Witness, witnesses

__all__ = [
    "CLOSE",
    "Certificate",
    "Level",
    "Network",
    "Source",
    "Stop",
    "Witness",
    "certify",
    "confirm",
    "fold_to",
    "network_of",
    "upwards",
    "witnesses",
]
