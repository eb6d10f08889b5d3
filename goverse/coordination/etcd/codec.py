"""Values of the API from and to messages of etcd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from aetcd import rpc

from goverse.config.settings import EtcdSettings
from goverse.coordination.api import Changes, Compare, Delete, KeyValue, Put, Snapshot

_TARGETS = {
    "create_revision": rpc.Compare.CompareTarget.CREATE,
    "mod_revision": rpc.Compare.CompareTarget.MOD,
    "lease": rpc.Compare.CompareTarget.LEASE,
}
_RESULTS = {
    "==": rpc.Compare.CompareResult.EQUAL,
    "!=": rpc.Compare.CompareResult.NOT_EQUAL,
    ">": rpc.Compare.CompareResult.GREATER,
    "<": rpc.Compare.CompareResult.LESS,
}


def prefix_end(prefix: str) -> bytes:
    """The first key after all that begin with ``prefix``, which ends with a slash."""
    return prefix[:-1].encode() + b"0"  # the byte after the slash


def key_value(message: Any) -> KeyValue:
    return KeyValue(
        message.key.decode(),
        message.value,
        message.create_revision,
        message.mod_revision,
        message.lease,
    )


def snapshot(answer: Any) -> Snapshot:
    items = {item.key: item for item in map(key_value, answer.kvs)}
    return Snapshot(answer.header.revision, items)


def own_key(settings: EtcdSettings) -> bytes:
    """A key that this cluster's user may read, wherever only the header of an answer counts."""
    return settings.prefix.rstrip("/").encode() + b"/"


def transaction(
    compares: Sequence[Compare], operations: Sequence[Put | Delete], own_key: bytes
) -> Any:
    wanted = [_operation(operation) for operation in operations]
    otherwise = []
    if not wanted:
        # etcd answers a transaction without operations from what the member knows, which may be
        # old news. A read makes it linearizable.
        probe = rpc.RequestOp(request_range=rpc.RangeRequest(key=own_key, count_only=True))
        wanted, otherwise = [probe], [probe]
    return rpc.TxnRequest(
        compare=[_compare(compare) for compare in compares], success=wanted, failure=otherwise
    )


def _compare(compare: Compare) -> Any:
    message = rpc.Compare(
        key=compare.key.encode(), target=_TARGETS[compare.field], result=_RESULTS[compare.op]
    )
    setattr(message, compare.field, compare.value)
    return message


def _operation(operation: Put | Delete) -> Any:
    key = operation.key.encode()
    if isinstance(operation, Put):
        put = rpc.PutRequest(key=key, value=operation.value, lease=operation.lease)
        return rpc.RequestOp(request_put=put)
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))


class Assembler:
    """Turns watch responses into whole revisions.

    etcd puts several revisions into one response, and splits a large response into fragments,
    also within a revision. It never spreads one revision over responses that are not fragments
    of each other.
    """

    def __init__(self) -> None:
        self._events: list[Any] = []

    def add(self, response: Any) -> list[Changes]:
        self._events.extend(response.events)
        if response.fragment:
            return []
        whole: dict[int, dict[str, KeyValue | None]] = {}
        for event in self._events:
            deleted = event.type == rpc.Event.DELETE
            items = whole.setdefault(event.kv.mod_revision, {})
            items[event.kv.key.decode()] = None if deleted else key_value(event.kv)
        self._events = []
        return [Changes(revision, items) for revision, items in whole.items()]
