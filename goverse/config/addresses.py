"""host:port, and what a process is called and reached by when nobody says."""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple

from goverse.config.faults import BadValue

_HINT = "write host:port, with an IPv6 address in brackets"
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9._-]{0,252})\Z")


class Address(NamedTuple):
    """One end of a connection. ``host`` is a name or an address without brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can be meant. Names other than localhost can be anything."""
        if self.host.lower() == "localhost":
            return True
        address = _ip(self.host)
        return address is not None and address.is_loopback

    @property
    def is_wildcard(self) -> bool:
        """Whether every address of the machine is meant."""
        address = _ip(self.host)
        return address is not None and address.is_unspecified


def parse_address(text: str, *, default_port: int | None = None) -> Address:
    """Raises `BadValue`. A missing port is accepted where there is a default one."""
    host, colon, port = text.rpartition(":")
    if default_port is not None and (not colon or _ip(text) is not None or text.endswith("]")):
        host, port = text, str(default_port)
    if "://" in text:
        raise BadValue(f"{text!r} is a URL", _HINT)
    if default_port is None and not colon:
        raise BadValue(f"{text!r} has no port", _HINT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not isinstance(_ip(host), ipaddress.IPv6Address):
            raise BadValue(f"{text!r} has no IPv6 address in its brackets", _HINT)
    elif _ip(host) is None and not _HOST.match(host):
        what = "has no host" if not host else "is not host:port"
        raise BadValue(
            f"{text!r} {what}", "write 0.0.0.0:port for every address" if not host else _HINT
        )
    elif ":" in host and default_port is None:
        raise BadValue(f"{text!r} has an IPv6 address without brackets", _HINT)
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
        raise BadValue(f"{text!r} has no port from 0 to 65535", _HINT)
    return Address(host, int(port))


def member_name(configured: str, bound: str) -> str:
    """What a node or gate is called: as configured, else by its host's name and its port."""
    if configured:
        return configured
    host = re.sub(r"[^A-Za-z0-9.-]", "-", socket.gethostname()).strip(".-") or "localhost"
    return f"{host[:100]}-{parse_address(bound).port}"


def advertised(configured: str, bound: str) -> str:
    """What others reach a process by that listens on ``bound``.

    As configured, with the port that is really bound if none is given; else the bound address;
    and where that is every address, the host's name.
    """
    actual = parse_address(bound)
    if configured:
        address = parse_address(configured, default_port=actual.port)
        return str(address if address.port else address._replace(port=actual.port))
    if actual.is_wildcard:
        return str(actual._replace(host=socket.gethostname()))
    return str(actual)


def _ip(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return None
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is not None:
        return found.ipv4_mapped
    return found
