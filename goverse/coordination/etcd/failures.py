"""What an error of gRPC means for the request that met it."""

from __future__ import annotations

import enum

import grpc


class Fate(enum.Enum):
    """What became of a request that failed."""

    NOT_TAKEN = "not taken"  # certainly not carried out; another member may take it
    REFUSED = "refused"  # certainly not carried out; asking again is of no use
    UNKNOWN = "unknown"  # may have been carried out, or may yet be


REVISION_COMPACTED = "etcdserver: mvcc: required revision has been compacted"
LEASE_NOT_FOUND = "etcdserver: requested lease not found"

# Sent by etcd before it proposes anything. "no leader" comes from the interceptor that honours
# `hasleader`; once a request was proposed, losing the leader is a timeout.
_NOT_TAKEN = (
    "etcdserver: no leader",
    "etcdserver: not capable",
    "etcdserver: rpc not supported for learner",
    "etcdserver: too many requests",
)
_STALE_TOKEN = (
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
)
# The member did its part; another one would have said the same.
_NOBODYS_FAULT = ("etcdserver: leader changed", "etcdserver: too many requests")

_REFUSALS = (
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.UNIMPLEMENTED,
)


class RequestFailed(Exception):
    """One request to one member failed.

    :param stale_token: refused because of the token; a new one may help.
    :param blames_member: another member should be used from now on.
    """

    def __init__(
        self, text: str, fate: Fate, *, stale_token: bool = False, blames_member: bool = True
    ) -> None:
        super().__init__(text)
        self.text = text
        self.fate = fate
        self.stale_token = stale_token
        self.blames_member = blames_member


def explain(code: grpc.StatusCode | None, details: str | None) -> RequestFailed:
    """Translate a status that is not OK."""
    text = details or (code.name if code is not None else "no status")
    if text.startswith(_STALE_TOKEN):
        return RequestFailed(text, Fate.REFUSED, stale_token=True, blames_member=False)
    if text.startswith(_NOT_TAKEN):
        fate = Fate.NOT_TAKEN
    elif code in _REFUSALS:
        return RequestFailed(text, Fate.REFUSED, blames_member=False)
    else:
        fate = Fate.UNKNOWN
    # A deadline says only that it took long; whether the member is there is found out separately.
    blames_member = code is not grpc.StatusCode.DEADLINE_EXCEEDED and not text.startswith(
        _NOBODYS_FAULT
    )
    return RequestFailed(text, fate, blames_member=blames_member)
