from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from typing import ClassVar as _ClassVar, Iterable as _Iterable, Mapping as _Mapping, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class GetStatusRequest(_message.Message):
    __slots__ = ("local_only",)
    LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    local_only: bool
    def __init__(self, local_only: bool = ...) -> None: ...

class ClusterStatus(_message.Message):
    __slots__ = ("cluster_id", "generation", "num_shards", "revision", "current", "leader", "source", "nodes", "gates", "shards", "warnings", "held")
    CLUSTER_ID_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    REVISION_FIELD_NUMBER: _ClassVar[int]
    CURRENT_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    GATES_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    cluster_id: str
    generation: int
    num_shards: int
    revision: int
    current: bool
    leader: str
    source: str
    nodes: _containers.RepeatedCompositeFieldContainer[Member]
    gates: _containers.RepeatedCompositeFieldContainer[Member]
    shards: ShardCounts
    warnings: _containers.RepeatedCompositeFieldContainer[Warning]
    held: _containers.RepeatedCompositeFieldContainer[Held]
    def __init__(self, cluster_id: _Optional[str] = ..., generation: _Optional[int] = ..., num_shards: _Optional[int] = ..., revision: _Optional[int] = ..., current: bool = ..., leader: _Optional[str] = ..., source: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., gates: _Optional[_Iterable[_Union[Member, _Mapping]]] = ..., shards: _Optional[_Union[ShardCounts, _Mapping]] = ..., warnings: _Optional[_Iterable[_Union[Warning, _Mapping]]] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ...) -> None: ...

class Held(_message.Message):
    __slots__ = ("reason", "shards")
    REASON_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    reason: str
    shards: int
    def __init__(self, reason: _Optional[str] = ..., shards: _Optional[int] = ...) -> None: ...

class Member(_message.Message):
    __slots__ = ("name", "incarnation", "kind", "address", "ops_address", "weight", "version", "state", "leader", "claimed", "targeted")
    NAME_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    OPS_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    CLAIMED_FIELD_NUMBER: _ClassVar[int]
    TARGETED_FIELD_NUMBER: _ClassVar[int]
    name: str
    incarnation: str
    kind: str
    address: str
    ops_address: str
    weight: float
    version: str
    state: str
    leader: bool
    claimed: int
    targeted: int
    def __init__(self, name: _Optional[str] = ..., incarnation: _Optional[str] = ..., kind: _Optional[str] = ..., address: _Optional[str] = ..., ops_address: _Optional[str] = ..., weight: _Optional[float] = ..., version: _Optional[str] = ..., state: _Optional[str] = ..., leader: bool = ..., claimed: _Optional[int] = ..., targeted: _Optional[int] = ...) -> None: ...

class ShardCounts(_message.Message):
    __slots__ = ("total", "claimed", "pinned", "owned", "migrating", "unclaimed", "unassigned")
    TOTAL_FIELD_NUMBER: _ClassVar[int]
    CLAIMED_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    OWNED_FIELD_NUMBER: _ClassVar[int]
    MIGRATING_FIELD_NUMBER: _ClassVar[int]
    UNCLAIMED_FIELD_NUMBER: _ClassVar[int]
    UNASSIGNED_FIELD_NUMBER: _ClassVar[int]
    total: int
    claimed: int
    pinned: int
    owned: int
    migrating: int
    unclaimed: int
    unassigned: int
    def __init__(self, total: _Optional[int] = ..., claimed: _Optional[int] = ..., pinned: _Optional[int] = ..., owned: _Optional[int] = ..., migrating: _Optional[int] = ..., unclaimed: _Optional[int] = ..., unassigned: _Optional[int] = ...) -> None: ...

class Warning(_message.Message):
    __slots__ = ("code", "message", "shards")
    CODE_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    code: str
    message: str
    shards: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, code: _Optional[str] = ..., message: _Optional[str] = ..., shards: _Optional[_Iterable[int]] = ...) -> None: ...

class CordonNodeRequest(_message.Message):
    __slots__ = ("node", "drain")
    NODE_FIELD_NUMBER: _ClassVar[int]
    DRAIN_FIELD_NUMBER: _ClassVar[int]
    node: str
    drain: bool
    def __init__(self, node: _Optional[str] = ..., drain: bool = ...) -> None: ...

class UncordonNodeRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class DecommissionNodeRequest(_message.Message):
    __slots__ = ("node",)
    NODE_FIELD_NUMBER: _ClassVar[int]
    node: str
    def __init__(self, node: _Optional[str] = ...) -> None: ...

class ListNodesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListGatesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class MemberList(_message.Message):
    __slots__ = ("members",)
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    members: _containers.RepeatedCompositeFieldContainer[Member]
    def __init__(self, members: _Optional[_Iterable[_Union[Member, _Mapping]]] = ...) -> None: ...

class ListShardsRequest(_message.Message):
    __slots__ = ("node", "state", "page_size", "page_token")
    NODE_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    node: str
    state: str
    page_size: int
    page_token: str
    def __init__(self, node: _Optional[str] = ..., state: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ...) -> None: ...

class ShardPage(_message.Message):
    __slots__ = ("shards", "next_page_token")
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    shards: _containers.RepeatedCompositeFieldContainer[Shard]
    next_page_token: str
    def __init__(self, shards: _Optional[_Iterable[_Union[Shard, _Mapping]]] = ..., next_page_token: _Optional[str] = ...) -> None: ...

class GetShardRequest(_message.Message):
    __slots__ = ("shard", "local_only")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    shard: int
    local_only: bool
    def __init__(self, shard: _Optional[int] = ..., local_only: bool = ...) -> None: ...

class ListLocksRequest(_message.Message):
    __slots__ = ("node", "limit", "local_only")
    NODE_FIELD_NUMBER: _ClassVar[int]
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    node: str
    limit: int
    local_only: bool
    def __init__(self, node: _Optional[str] = ..., limit: _Optional[int] = ..., local_only: bool = ...) -> None: ...

class LockList(_message.Message):
    __slots__ = ("locks", "unreachable")
    LOCKS_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    locks: _containers.RepeatedCompositeFieldContainer[Lock]
    unreachable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, locks: _Optional[_Iterable[_Union[Lock, _Mapping]]] = ..., unreachable: _Optional[_Iterable[str]] = ...) -> None: ...

class Lock(_message.Message):
    __slots__ = ("shard", "node", "epoch", "state", "purpose", "waits_s", "wanted_s", "sealed", "holders", "held", "object", "method", "call_id", "age_s")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    PURPOSE_FIELD_NUMBER: _ClassVar[int]
    WAITS_S_FIELD_NUMBER: _ClassVar[int]
    WANTED_S_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    shard: int
    node: str
    epoch: str
    state: str
    purpose: str
    waits_s: float
    wanted_s: float
    sealed: bool
    holders: int
    held: int
    object: str
    method: str
    call_id: str
    age_s: float
    def __init__(self, shard: _Optional[int] = ..., node: _Optional[str] = ..., epoch: _Optional[str] = ..., state: _Optional[str] = ..., purpose: _Optional[str] = ..., waits_s: _Optional[float] = ..., wanted_s: _Optional[float] = ..., sealed: bool = ..., holders: _Optional[int] = ..., held: _Optional[int] = ..., object: _Optional[str] = ..., method: _Optional[str] = ..., call_id: _Optional[str] = ..., age_s: _Optional[float] = ...) -> None: ...

class Shard(_message.Message):
    __slots__ = ("shard", "state", "target", "owner", "owner_address", "epoch", "pinned", "pinned_node", "failed_over", "why")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    OWNER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    PINNED_NODE_FIELD_NUMBER: _ClassVar[int]
    FAILED_OVER_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    shard: int
    state: str
    target: str
    owner: str
    owner_address: str
    epoch: str
    pinned: bool
    pinned_node: str
    failed_over: bool
    why: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, shard: _Optional[int] = ..., state: _Optional[str] = ..., target: _Optional[str] = ..., owner: _Optional[str] = ..., owner_address: _Optional[str] = ..., epoch: _Optional[str] = ..., pinned: bool = ..., pinned_node: _Optional[str] = ..., failed_over: bool = ..., why: _Optional[_Iterable[str]] = ...) -> None: ...

class PinShardRequest(_message.Message):
    __slots__ = ("shard", "node")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    node: str
    def __init__(self, shard: _Optional[int] = ..., node: _Optional[str] = ...) -> None: ...

class UnpinShardRequest(_message.Message):
    __slots__ = ("shard",)
    SHARD_FIELD_NUMBER: _ClassVar[int]
    shard: int
    def __init__(self, shard: _Optional[int] = ...) -> None: ...

class PlanShardsRequest(_message.Message):
    __slots__ = ("local_only",)
    LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    local_only: bool
    def __init__(self, local_only: bool = ...) -> None: ...

class RebalanceShardsRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ShardPlan(_message.Message):
    __slots__ = ("strategy", "leader", "stable", "balanced", "decisions", "nodes", "wanted", "moves", "held")
    STRATEGY_FIELD_NUMBER: _ClassVar[int]
    LEADER_FIELD_NUMBER: _ClassVar[int]
    STABLE_FIELD_NUMBER: _ClassVar[int]
    BALANCED_FIELD_NUMBER: _ClassVar[int]
    DECISIONS_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    WANTED_FIELD_NUMBER: _ClassVar[int]
    MOVES_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    strategy: str
    leader: str
    stable: bool
    balanced: bool
    decisions: _containers.RepeatedScalarFieldContainer[str]
    nodes: _containers.RepeatedCompositeFieldContainer[NodeShare]
    wanted: int
    moves: _containers.RepeatedCompositeFieldContainer[ShardMove]
    held: _containers.RepeatedCompositeFieldContainer[Held]
    def __init__(self, strategy: _Optional[str] = ..., leader: _Optional[str] = ..., stable: bool = ..., balanced: bool = ..., decisions: _Optional[_Iterable[str]] = ..., nodes: _Optional[_Iterable[_Union[NodeShare, _Mapping]]] = ..., wanted: _Optional[int] = ..., moves: _Optional[_Iterable[_Union[ShardMove, _Mapping]]] = ..., held: _Optional[_Iterable[_Union[Held, _Mapping]]] = ...) -> None: ...

class ShardMove(_message.Message):
    __slots__ = ("shard", "source", "target", "reason", "held", "load")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    SOURCE_FIELD_NUMBER: _ClassVar[int]
    TARGET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    HELD_FIELD_NUMBER: _ClassVar[int]
    LOAD_FIELD_NUMBER: _ClassVar[int]
    shard: int
    source: str
    target: str
    reason: str
    held: str
    load: float
    def __init__(self, shard: _Optional[int] = ..., source: _Optional[str] = ..., target: _Optional[str] = ..., reason: _Optional[str] = ..., held: _Optional[str] = ..., load: _Optional[float] = ...) -> None: ...

class NodeShare(_message.Message):
    __slots__ = ("node", "weight", "accepts", "shards", "shards_after", "level", "level_after", "cpu", "memory")
    NODE_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    ACCEPTS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARDS_AFTER_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    LEVEL_AFTER_FIELD_NUMBER: _ClassVar[int]
    CPU_FIELD_NUMBER: _ClassVar[int]
    MEMORY_FIELD_NUMBER: _ClassVar[int]
    node: str
    weight: float
    accepts: bool
    shards: int
    shards_after: int
    level: float
    level_after: float
    cpu: float
    memory: float
    def __init__(self, node: _Optional[str] = ..., weight: _Optional[float] = ..., accepts: bool = ..., shards: _Optional[int] = ..., shards_after: _Optional[int] = ..., level: _Optional[float] = ..., level_after: _Optional[float] = ..., cpu: _Optional[float] = ..., memory: _Optional[float] = ...) -> None: ...

class LocateObjectRequest(_message.Message):
    __slots__ = ("type", "id")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    type: str
    id: str
    def __init__(self, type: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class Location(_message.Message):
    __slots__ = ("type", "id", "slot", "shard", "owner", "owner_address", "epoch")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    SLOT_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    OWNER_ADDRESS_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    type: str
    id: str
    slot: int
    shard: int
    owner: str
    owner_address: str
    epoch: str
    def __init__(self, type: _Optional[str] = ..., id: _Optional[str] = ..., slot: _Optional[int] = ..., shard: _Optional[int] = ..., owner: _Optional[str] = ..., owner_address: _Optional[str] = ..., epoch: _Optional[str] = ...) -> None: ...

class ListObjectsRequest(_message.Message):
    __slots__ = ("node", "type", "id_prefix", "page_size", "page_token", "local_only")
    NODE_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_PREFIX_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    LOCAL_ONLY_FIELD_NUMBER: _ClassVar[int]
    node: str
    type: str
    id_prefix: str
    page_size: int
    page_token: str
    local_only: bool
    def __init__(self, node: _Optional[str] = ..., type: _Optional[str] = ..., id_prefix: _Optional[str] = ..., page_size: _Optional[int] = ..., page_token: _Optional[str] = ..., local_only: bool = ...) -> None: ...

class ObjectPage(_message.Message):
    __slots__ = ("objects", "next_page_token", "unreachable")
    OBJECTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_PAGE_TOKEN_FIELD_NUMBER: _ClassVar[int]
    UNREACHABLE_FIELD_NUMBER: _ClassVar[int]
    objects: _containers.RepeatedCompositeFieldContainer[ObjectInfo]
    next_page_token: str
    unreachable: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, objects: _Optional[_Iterable[_Union[ObjectInfo, _Mapping]]] = ..., next_page_token: _Optional[str] = ..., unreachable: _Optional[_Iterable[str]] = ...) -> None: ...

class ObjectInfo(_message.Message):
    __slots__ = ("type", "id", "node", "shard", "epoch", "state", "queued", "running", "idle_s")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STATE_FIELD_NUMBER: _ClassVar[int]
    QUEUED_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    type: str
    id: str
    node: str
    shard: int
    epoch: str
    state: str
    queued: int
    running: int
    idle_s: float
    def __init__(self, type: _Optional[str] = ..., id: _Optional[str] = ..., node: _Optional[str] = ..., shard: _Optional[int] = ..., epoch: _Optional[str] = ..., state: _Optional[str] = ..., queued: _Optional[int] = ..., running: _Optional[int] = ..., idle_s: _Optional[float] = ...) -> None: ...

class CallObjectRequest(_message.Message):
    __slots__ = ("type", "id", "method", "args")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    ARGS_FIELD_NUMBER: _ClassVar[int]
    type: str
    id: str
    method: str
    args: bytes
    def __init__(self, type: _Optional[str] = ..., id: _Optional[str] = ..., method: _Optional[str] = ..., args: _Optional[bytes] = ...) -> None: ...

class CallResult(_message.Message):
    __slots__ = ("result",)
    RESULT_FIELD_NUMBER: _ClassVar[int]
    result: bytes
    def __init__(self, result: _Optional[bytes] = ...) -> None: ...

class CreateObjectRequest(_message.Message):
    __slots__ = ("type", "id")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    type: str
    id: str
    def __init__(self, type: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class DeleteObjectRequest(_message.Message):
    __slots__ = ("type", "id")
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    type: str
    id: str
    def __init__(self, type: _Optional[str] = ..., id: _Optional[str] = ...) -> None: ...

class CancelCallRequest(_message.Message):
    __slots__ = ("call_id", "type", "id", "reason")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    type: str
    id: str
    reason: str
    def __init__(self, call_id: _Optional[str] = ..., type: _Optional[str] = ..., id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class RetryCallRequest(_message.Message):
    __slots__ = ("call_id",)
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    def __init__(self, call_id: _Optional[str] = ...) -> None: ...

class CallChange(_message.Message):
    __slots__ = ("call_id", "type", "id", "method", "status", "changed", "message", "delivery")
    CALL_ID_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    ID_FIELD_NUMBER: _ClassVar[int]
    METHOD_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    MESSAGE_FIELD_NUMBER: _ClassVar[int]
    DELIVERY_FIELD_NUMBER: _ClassVar[int]
    call_id: str
    type: str
    id: str
    method: str
    status: str
    changed: bool
    message: str
    delivery: bool
    def __init__(self, call_id: _Optional[str] = ..., type: _Optional[str] = ..., id: _Optional[str] = ..., method: _Optional[str] = ..., status: _Optional[str] = ..., changed: bool = ..., message: _Optional[str] = ..., delivery: bool = ...) -> None: ...

class CleanupCallsRequest(_message.Message):
    __slots__ = ("older_than_s", "statuses", "dry_run", "max_calls")
    OLDER_THAN_S_FIELD_NUMBER: _ClassVar[int]
    STATUSES_FIELD_NUMBER: _ClassVar[int]
    DRY_RUN_FIELD_NUMBER: _ClassVar[int]
    MAX_CALLS_FIELD_NUMBER: _ClassVar[int]
    older_than_s: float
    statuses: _containers.RepeatedScalarFieldContainer[str]
    dry_run: bool
    max_calls: int
    def __init__(self, older_than_s: _Optional[float] = ..., statuses: _Optional[_Iterable[str]] = ..., dry_run: bool = ..., max_calls: _Optional[int] = ...) -> None: ...

class CleanupResult(_message.Message):
    __slots__ = ("finished_before", "calls", "spared", "counts", "oldest", "newest", "table_bytes", "index_bytes", "deleted", "complete")
    FINISHED_BEFORE_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    SPARED_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    OLDEST_FIELD_NUMBER: _ClassVar[int]
    NEWEST_FIELD_NUMBER: _ClassVar[int]
    TABLE_BYTES_FIELD_NUMBER: _ClassVar[int]
    INDEX_BYTES_FIELD_NUMBER: _ClassVar[int]
    DELETED_FIELD_NUMBER: _ClassVar[int]
    COMPLETE_FIELD_NUMBER: _ClassVar[int]
    finished_before: float
    calls: int
    spared: int
    counts: _containers.RepeatedCompositeFieldContainer[CleanupCount]
    oldest: float
    newest: float
    table_bytes: int
    index_bytes: int
    deleted: int
    complete: bool
    def __init__(self, finished_before: _Optional[float] = ..., calls: _Optional[int] = ..., spared: _Optional[int] = ..., counts: _Optional[_Iterable[_Union[CleanupCount, _Mapping]]] = ..., oldest: _Optional[float] = ..., newest: _Optional[float] = ..., table_bytes: _Optional[int] = ..., index_bytes: _Optional[int] = ..., deleted: _Optional[int] = ..., complete: bool = ...) -> None: ...

class CleanupCount(_message.Message):
    __slots__ = ("status", "older_than_s", "younger_than_s", "calls")
    STATUS_FIELD_NUMBER: _ClassVar[int]
    OLDER_THAN_S_FIELD_NUMBER: _ClassVar[int]
    YOUNGER_THAN_S_FIELD_NUMBER: _ClassVar[int]
    CALLS_FIELD_NUMBER: _ClassVar[int]
    status: str
    older_than_s: float
    younger_than_s: float
    calls: int
    def __init__(self, status: _Optional[str] = ..., older_than_s: _Optional[float] = ..., younger_than_s: _Optional[float] = ..., calls: _Optional[int] = ...) -> None: ...

class DescribeTypesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class TypeDescriptions(_message.Message):
    __slots__ = ("digest", "types")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    TYPES_FIELD_NUMBER: _ClassVar[int]
    digest: str
    types: _containers.RepeatedCompositeFieldContainer[TypeInfo]
    def __init__(self, digest: _Optional[str] = ..., types: _Optional[_Iterable[_Union[TypeInfo, _Mapping]]] = ...) -> None: ...

class TypeInfo(_message.Message):
    __slots__ = ("name", "doc", "durability", "concurrent", "reentrancy", "idle_timeout_s", "fields", "methods")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DOC_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    REENTRANCY_FIELD_NUMBER: _ClassVar[int]
    IDLE_TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    FIELDS_FIELD_NUMBER: _ClassVar[int]
    METHODS_FIELD_NUMBER: _ClassVar[int]
    name: str
    doc: str
    durability: str
    concurrent: bool
    reentrancy: str
    idle_timeout_s: float
    fields: _containers.RepeatedCompositeFieldContainer[FieldInfo]
    methods: _containers.RepeatedCompositeFieldContainer[MethodInfo]
    def __init__(self, name: _Optional[str] = ..., doc: _Optional[str] = ..., durability: _Optional[str] = ..., concurrent: bool = ..., reentrancy: _Optional[str] = ..., idle_timeout_s: _Optional[float] = ..., fields: _Optional[_Iterable[_Union[FieldInfo, _Mapping]]] = ..., methods: _Optional[_Iterable[_Union[MethodInfo, _Mapping]]] = ...) -> None: ...

class FieldInfo(_message.Message):
    __slots__ = ("name", "schema")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    name: str
    schema: bytes
    def __init__(self, name: _Optional[str] = ..., schema: _Optional[bytes] = ...) -> None: ...

class MethodInfo(_message.Message):
    __slots__ = ("name", "doc", "read_only", "rollback", "timeout_s", "arguments", "result")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DOC_FIELD_NUMBER: _ClassVar[int]
    READ_ONLY_FIELD_NUMBER: _ClassVar[int]
    ROLLBACK_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    ARGUMENTS_FIELD_NUMBER: _ClassVar[int]
    RESULT_FIELD_NUMBER: _ClassVar[int]
    name: str
    doc: str
    read_only: bool
    rollback: bool
    timeout_s: float
    arguments: bytes
    result: bytes
    def __init__(self, name: _Optional[str] = ..., doc: _Optional[str] = ..., read_only: bool = ..., rollback: bool = ..., timeout_s: _Optional[float] = ..., arguments: _Optional[bytes] = ..., result: _Optional[bytes] = ...) -> None: ...
