"""Who owns what: a small linearizable key-value store with leases and watches.

``api`` is the interface that everybody uses; ``etcd`` and ``memory`` implement it and
``open`` chooses one by URL scheme. Nothing here knows what the keys mean.
"""

from goverse.coordination.api import (
    MAX_TXN_OPERATIONS,
    Changes,
    Compare,
    Coordinator,
    CoordinatorSnapshot,
    CoordinatorUnavailable,
    Delete,
    KeyValue,
    Lease,
    LeaseSnapshot,
    Put,
    Snapshot,
    TransactionTooLarge,
    TxnResult,
    Watch,
    WatchSnapshot,
)
from goverse.coordination.opening import open

__all__ = [
    "MAX_TXN_OPERATIONS",
    "Changes",
    "Compare",
    "Coordinator",
    "CoordinatorSnapshot",
    "CoordinatorUnavailable",
    "Delete",
    "KeyValue",
    "Lease",
    "LeaseSnapshot",
    "Put",
    "Snapshot",
    "TransactionTooLarge",
    "TxnResult",
    "Watch",
    "WatchSnapshot",
    "open",
]
