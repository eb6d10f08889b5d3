"""What operators see and do, from Python: the mirror of the gRPC service goverse.v1.Admin.

::

    async with goverse.admin.connect("localhost:48000") as admin:
        await admin.pin_shard(42, node="n2")

Here live the model (what answers look like), the interface `Admin`, and its remote client. The
service that answers is part of the node process.
"""

from goverse.admin.api import (
    Admin,
    CallChange,
    CallResult,
    CleanupCount,
    CleanupResult,
    ClusterStatus,
    FieldInfo,
    Held,
    Location,
    Lock,
    LockList,
    Member,
    MemberList,
    MethodInfo,
    NodeShare,
    ObjectInfo,
    ObjectPage,
    Shard,
    ShardCounts,
    ShardMove,
    ShardPage,
    ShardPlan,
    TypeDescriptions,
    TypeInfo,
    Warning,
)
from goverse.admin.client import AdminClient, connect

__all__ = [
    "Admin",
    "AdminClient",
    "CallChange",
    "CallResult",
    "CleanupCount",
    "CleanupResult",
    "ClusterStatus",
    "FieldInfo",
    "Held",
    "Location",
    "Lock",
    "LockList",
    "Member",
    "MemberList",
    "MethodInfo",
    "NodeShare",
    "ObjectInfo",
    "ObjectPage",
    "Shard",
    "ShardCounts",
    "ShardMove",
    "ShardPage",
    "ShardPlan",
    "TypeDescriptions",
    "TypeInfo",
    "Warning",
    "connect",
]
