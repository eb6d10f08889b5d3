"""Channels to one member: where TLS and gRPC's options are decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import grpc
import grpc.aio

from goverse.config.settings import EtcdSettings

#: The member must know a leader, or refuse: one that is cut off from the others would otherwise
#: keep requests and say nothing on watches.
METADATA = (("hasleader", "true"),)

# No HTTP/2 pings: etcd ends connections that ping more often than every 5 s, which is too slow to
# rely on. Silence is noticed by asking the member something instead.
_OPTIONS: Sequence[tuple[str, int]] = (
    # A new channel must be a new connection, not the stuck one of a channel before it.
    ("grpc.use_local_subchannel_pool", 1),
    # Nothing is ever sent again behind our back.
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    # By default a connection attempt may take 20 s, and after an outage of 30 s the next one
    # comes 12 s late.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # 65,536 claims in one listing are about 15 MB; gRPC's default is 4 MiB.
    ("grpc.max_receive_message_length", 256 * 1024 * 1024),
)


def open_channel(address: str, settings: EtcdSettings) -> grpc.aio.Channel:
    """A channel for the event loop. Raises OSError when a TLS file cannot be read."""
    credentials = _credentials(address, settings)
    target = _target(address)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=_OPTIONS)
    return grpc.aio.secure_channel(target, credentials, options=_OPTIONS)


def open_blocking_channel(address: str, settings: EtcdSettings) -> grpc.Channel:
    """A channel for a thread. Raises OSError when a TLS file cannot be read."""
    credentials = _credentials(address, settings)
    target = _target(address)
    if credentials is None:
        return grpc.insecure_channel(target, options=_OPTIONS)
    return grpc.secure_channel(target, credentials, options=_OPTIONS)


def _target(address: str) -> str:
    """host:port of an endpoint, which may be written as etcd's tools write it, as a URL."""
    return address.removeprefix("https://").removeprefix("http://").rstrip("/")


def _credentials(address: str, settings: EtcdSettings) -> grpc.ChannelCredentials | None:
    # Read for every channel: a renewed certificate is used from the next connection on.
    if not settings.ca_file and not address.startswith("https://"):
        return None
    return grpc.ssl_channel_credentials(
        root_certificates=_read(settings.ca_file),
        private_key=_read(settings.key_file),
        certificate_chain=_read(settings.cert_file),
    )


def _read(path: str) -> bytes | None:
    return Path(path).read_bytes() if path else None
