"""Where objects, reliable calls and fences are kept.

``api`` is the interface that everybody uses and ``values`` what passes through it; ``postgres``,
``sqlite`` and ``memory`` implement it and ``open`` chooses one by URL scheme. Nothing here runs a
method, encodes a state, or knows who owns what: see DESIGN.md.
"""

from goverse.storage.api import (
    Administration,
    Census,
    HigherEpoch,
    OutcomeUnknown,
    SchemaStatus,
    StorageUnavailable,
    Store,
    StoreRefused,
    StoreSnapshot,
)
from goverse.storage.opening import open
from goverse.storage.values import (
    Acceptance,
    AcceptResult,
    Act,
    CallStatus,
    CallStep,
    CommitResult,
    Fence,
    ObjectCommit,
    OutboxChange,
    OutboxRow,
    OutboxStep,
    Outcome,
    Payload,
    ReliableCall,
    State,
    Step,
    StepResult,
    StoredCall,
    StoredObject,
    Verdict,
)

__all__ = [
    "AcceptResult",
    "Acceptance",
    "Act",
    "Administration",
    "CallStatus",
    "CallStep",
    "Census",
    "CommitResult",
    "Fence",
    "HigherEpoch",
    "ObjectCommit",
    "OutboxChange",
    "OutboxRow",
    "OutboxStep",
    "Outcome",
    "OutcomeUnknown",
    "Payload",
    "ReliableCall",
    "SchemaStatus",
    "State",
    "Step",
    "StepResult",
    "StorageUnavailable",
    "Store",
    "StoreRefused",
    "StoreSnapshot",
    "StoredCall",
    "StoredObject",
    "Verdict",
    "open",
]
