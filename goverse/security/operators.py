"""Who may change the cluster: somebody on this machine, or whoever holds the operator's token.

Addresses are those that the transport saw. Nothing that a peer says of itself counts, with one
exception: the token, compared in constant time.
"""

from __future__ import annotations

import hmac
import ipaddress
import os
import stat
import urllib.parse
from dataclasses import dataclass, field
from pathlib import Path

from goverse.errors import PermissionDenied

_MIN_TOKEN_CHARS = 16


class TokenFileError(ValueError):
    """The file cannot be used; the text says what to do."""


def read_token(path: str) -> str:
    """The first line of the file at ``path``, which nobody but its owner may read or write."""
    try:
        with Path(path).open(encoding="utf-8") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            token = file.readline(4096).strip()
    except (OSError, UnicodeDecodeError) as error:
        raise TokenFileError(f"token file {path}: {error}") from error
    if mode & 0o077:
        raise TokenFileError(
            f"token file {path} has mode {mode:04o}, so others can read or change it; "
            f"run: chmod 600 {path}"
        )
    if len(token) < _MIN_TOKEN_CHARS:
        raise TokenFileError(
            f"token file {path}: the first line must have {_MIN_TOKEN_CHARS} characters or more"
        )
    return token


def is_loopback(peer: str) -> bool:
    """Whether ``peer`` is on this machine.

    Takes gRPC's spelling (``ipv4:127.0.0.1:1234``, ``ipv6:%5B::1%5D:1234``, ``unix:...``), plain
    host:port, and a bare address. What cannot be understood is not loopback.
    """
    if peer.startswith("unix:"):
        return True
    text = urllib.parse.unquote(peer)
    text = text.removeprefix("ipv4:").removeprefix("ipv6:")
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


@dataclass(frozen=True)
class OperatorRule:
    """Decides whether a peer may change something.

    :param token: the operators' token; empty: only loopback peers may.
    """

    token: str = field(default="", repr=False)

    def check(self, peer: str, authorization: str, action: str) -> str:
        """How ``peer`` proved to be an operator. Raises PermissionDenied unless it is loopback or
        shows the token.

        :param authorization: the value of the authorization header or metadata, or "".
        """
        if is_loopback(peer):
            return "loopback"
        scheme, _, shown = authorization.partition(" ")
        if (
            self.token
            and scheme.lower() == "bearer"
            and hmac.compare_digest(shown.strip().encode(), self.token.encode())
        ):
            return "token"
        raise PermissionDenied(
            f"{action} needs a peer on the same machine or the operators' token "
            "(security.admin_token_file; with goverse-cli: --token-file)"
        )
