"""``storage.url`` for MariaDB: where the server is, and how the way to it is protected.

``mysql://user@host:3306/database?sslmode=verify-full&sslrootcert=/path``; parameters have the names
that PostgreSQL's have.
"""

from __future__ import annotations

import ipaddress
import ssl
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

#: ``prefer`` would fall back to plain text, for an attacker too.
_MODES = ("disable", "require", "verify-ca", "verify-full")
_KNOWN = ("sslmode", "sslrootcert", "sslcert", "sslkey", "socket")


@dataclass(frozen=True, slots=True)
class Address:
    """:param socket: of the server on this machine, instead of host and port.
    :param tls: None: plain text."""

    host: str
    port: int
    user: str
    database: str
    socket: str = ""
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def parameters(self) -> dict[str, Any]:
        """What asyncmy wants to know of it."""
        where: dict[str, Any] = {"host": self.host, "port": self.port}
        if self.socket:
            where = {"unix_socket": self.socket}
        return {**where, "user": self.user, "database": self.database, "ssl": self.tls}


def address(url: str) -> Address:
    """Raises ValueError, which says what would be right."""
    parts = urlsplit(url)
    try:
        port = parts.port or 3306
    except ValueError:
        raise ValueError("storage.url: the port is no number from 1 to 65535") from None
    given: dict[str, str] = {}
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name not in _KNOWN:
            raise ValueError(f"storage.url: {name!r} is unknown; known are {', '.join(_KNOWN)}")
        given[name] = value
    database = unquote(parts.path.removeprefix("/"))
    if not database or "/" in database:
        raise ValueError("storage.url names no database: write mysql://user@host:3306/database")
    host, socket = parts.hostname or "localhost", given.get("socket", "")
    tls = None if socket else _tls(host, given)
    return Address(host, port, unquote(parts.username or ""), database, socket, tls)


def _tls(host: str, given: dict[str, str]) -> ssl.SSLContext | None:
    mode = given.get("sslmode", "")
    if not mode:
        if not _is_loopback(host):
            raise ValueError(
                f"storage.url: sslmode is not stated, and {host} is another machine: add "
                "?sslmode=verify-full&sslrootcert=/path/to/ca.pem, or, in a network that nobody "
                "else is in, ?sslmode=disable"
            )
        mode = "disable"
    if mode not in _MODES:
        raise ValueError(f"storage.url: sslmode is {mode!r}; it is one of {', '.join(_MODES)}")
    if mode == "disable":
        return None
    try:
        context = ssl.create_default_context(cafile=given.get("sslrootcert") or None)
        if "sslcert" in given:
            context.load_cert_chain(given["sslcert"], given.get("sslkey") or None)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(
            f"storage.url: sslrootcert, sslcert or sslkey cannot be used: {error}"
        ) from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = mode == "verify-full"
    if mode == "require":
        context.verify_mode = ssl.CERT_NONE
    return context


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
