"""Where a peer is, as carriers name it."""

from __future__ import annotations

import ipaddress
from urllib.parse import unquote

LOOPBACK_SCHEME = "loopback:"
UNIX_SCHEME = "unix:"


def plain_address(peer: str) -> str:
    """gRPC's name of a peer (``ipv4:1.2.3.4:5``, ``ipv6:%5B::1%5D:5``) as host:port."""
    for scheme in ("ipv4:", "ipv6:"):
        if peer.startswith(scheme):
            return unquote(peer[len(scheme) :])
    return peer


def is_loopback(peer: str) -> bool:
    """Whether a `Carrier.peer` that was accepted is on this machine. Names are not resolved."""
    if peer.startswith((LOOPBACK_SCHEME, UNIX_SCHEME)):
        return True
    host = plain_address(peer).rpartition(":")[0].strip("[]")
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback
