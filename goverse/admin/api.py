"""The model of the admin API, and the interface that a node, a client and the CLI's fakes share.

Fields are those of ``proto/goverse/v1/admin.proto``, name by name; a test holds them together.
They are also the keys of the CLI's JSON output, so they are never renamed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

DEFAULT_SHARDS = 1_000
MAX_SHARDS = 10_000
MAX_MOVES = 10_000
DEFAULT_OBJECTS = 100
MAX_OBJECTS = 1_000
DEFAULT_LOCKS = 100
MAX_LOCKS = 1_000


@dataclass(frozen=True, kw_only=True)
class Member:
    """A registered node or gate, and how many shards are its own."""

    name: str
    incarnation: str = ""
    kind: str = "node"
    address: str = ""
    ops_address: str = ""
    weight: float = 1.0
    version: str = ""
    state: str = ""
    leader: bool = False
    claimed: int = 0
    targeted: int = 0


@dataclass(frozen=True, kw_only=True)
class MemberList:
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShardCounts:
    """``claimed`` and ``pinned`` overlap with the states; the four states add up to ``total``."""

    total: int = 0
    claimed: int = 0
    pinned: int = 0
    owned: int = 0
    migrating: int = 0
    unclaimed: int = 0
    unassigned: int = 0


@dataclass(frozen=True, kw_only=True)
class Warning:
    """Something an operator may want to act upon."""

    code: str
    message: str
    shards: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Held:
    """How many shards are not where balance wants them, and why they are left there."""

    reason: str
    shards: int


@dataclass(frozen=True, kw_only=True)
class ClusterStatus:
    """The cluster at a glance, as ``source`` (a node's name, or etcd) sees it."""

    cluster_id: str = ""
    generation: int = 0
    num_shards: int = 0
    revision: int = 0
    current: bool = True
    leader: str = ""
    source: str = ""
    nodes: tuple[Member, ...] = ()
    gates: tuple[Member, ...] = ()
    shards: ShardCounts = ShardCounts()
    warnings: tuple[Warning, ...] = ()
    held: tuple[Held, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Shard:
    """Where a shard should be and where it is.

    ``owned`` by its target, ``migrating`` (claimed by somebody else), ``unclaimed`` (a target
    and no claim) or ``unassigned`` (neither). ``why``: sentences on what keeps it where it is,
    from `Admin.get_shard` only.
    """

    shard: int
    state: str = "unassigned"
    target: str = ""
    owner: str = ""
    owner_address: str = ""
    epoch: str = ""
    pinned: bool = False
    pinned_node: str = ""
    failed_over: bool = False
    why: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShardPage:
    shards: tuple[Shard, ...] = ()
    next_page_token: str = ""


@dataclass(frozen=True, kw_only=True)
class Lock:
    """A shard of ``node`` that is held by turns, or wanted by somebody alone.

    ``state`` as of the shard, or ``cut_loose``: what runs there holds it no more. ``purpose`` of
    who wants it: ``open``, ``close``, ``hand_over`` or none; ``waits_s`` for how long, this time,
    and ``wanted_s`` with the attempts that were called off. ``object`` (type/id), ``method`` and
    ``call_id`` are those of the oldest holder that has begun, which has run for ``age_s``."""

    shard: int
    node: str = ""
    epoch: str = ""
    state: str = ""
    purpose: str = ""
    waits_s: float = 0.0
    wanted_s: float = 0.0
    sealed: bool = False
    holders: int = 0
    held: int = 0
    object: str = ""
    method: str = ""
    call_id: str = ""
    age_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class LockList:
    """``unreachable`` names the nodes that did not answer: their shards are missing."""

    locks: tuple[Lock, ...] = ()
    unreachable: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ShardMove:
    """A move that is wanted. ``held``: why it does not begin now; empty: it does. ``load``: 1 is
    the mean of all shards."""

    shard: int
    source: str = ""
    target: str = ""
    reason: str = ""
    held: str = ""
    load: float = 1.0


@dataclass(frozen=True, kw_only=True)
class NodeShare:
    """What a node has, as a multiple of its share, and once every wanted move is done."""

    node: str
    weight: float = 1.0
    accepts: bool = True
    shards: int = 0
    shards_after: int = 0
    level: float = 0.0
    level_after: float = 0.0
    cpu: float = 0.0
    memory: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ShardPlan:
    """What the leader does at one moment, and what it leaves alone and why."""

    strategy: str = ""
    leader: str = ""
    stable: bool = False
    balanced: bool = False
    decisions: tuple[str, ...] = ()
    nodes: tuple[NodeShare, ...] = ()
    wanted: int = 0
    moves: tuple[ShardMove, ...] = ()
    held: tuple[Held, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Location:
    """Where an object lives or would live. Slot and shard are -1 for ``node#`` ids."""

    type: str
    id: str
    slot: int = -1
    shard: int = -1
    owner: str = ""
    owner_address: str = ""
    epoch: str = ""


@dataclass(frozen=True, kw_only=True)
class ObjectInfo:
    """One activation."""

    type: str
    id: str
    node: str = ""
    shard: int = 0
    epoch: str = ""
    state: str = ""
    queued: int = 0
    running: int = 0
    idle_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class ObjectPage:
    """``unreachable`` names the nodes that did not answer: their objects are missing."""

    objects: tuple[ObjectInfo, ...] = ()
    next_page_token: str = ""
    unreachable: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CallResult:
    """``result`` is the JSON value that the method returned, still encoded."""

    result: bytes = b"null"


@dataclass(frozen=True, kw_only=True)
class FieldInfo:
    """A field of declared state; ``schema`` is a JSON schema, still encoded."""

    name: str
    schema: bytes = b"{}"


@dataclass(frozen=True, kw_only=True)
class MethodInfo:
    """A method; ``arguments`` and ``result`` are JSON schemas, still encoded: of the object of
    arguments by name, and of what is returned. ``timeout_s`` 0: no limit of its own."""

    name: str
    doc: str = ""
    read_only: bool = False
    rollback: bool = False
    timeout_s: float = 0.0
    arguments: bytes = b"{}"
    result: bytes = b"{}"


@dataclass(frozen=True, kw_only=True)
class TypeInfo:
    """An object type. ``idle_timeout_s`` 0: the node's setting."""

    name: str
    doc: str = ""
    durability: str = "none"
    concurrent: bool = False
    reentrancy: str = "refuse"
    idle_timeout_s: float = 0.0
    fields: tuple[FieldInfo, ...] = ()
    methods: tuple[MethodInfo, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TypeDescriptions:
    """What one node hosts; ``digest`` is equal on nodes that host the same."""

    digest: str = ""
    types: tuple[TypeInfo, ...] = ()


@dataclass(frozen=True, kw_only=True)
class CallChange:
    """What became of a reliable call that was to be cancelled or retried.

    :param status: as it stands now; ``changed``: this request made it so.
    :param delivery: it was about a row in the outbox of the object, which issued the call.
    """

    call_id: str = ""
    type: str = ""
    id: str = ""
    method: str = ""
    status: str = ""
    changed: bool = False
    message: str = ""
    delivery: bool = False


@dataclass(frozen=True, kw_only=True)
class CleanupCount:
    """Calls of one status and age. ``younger_than_s`` 0: however old."""

    status: str
    older_than_s: float = 0.0
    younger_than_s: float = 0.0
    calls: int = 0


@dataclass(frozen=True, kw_only=True)
class CleanupResult:
    """What a cleanup would delete (``calls`` to ``index_bytes``), or has deleted.

    Moments are seconds since 1970; 0: there are no calls. Sizes in bytes; -1: not known.
    """

    finished_before: float = 0.0
    calls: int = 0
    spared: int = 0
    counts: tuple[CleanupCount, ...] = ()
    oldest: float = 0.0
    newest: float = 0.0
    table_bytes: int = -1
    index_bytes: int = -1
    deleted: int = 0
    complete: bool = False


class Admin(Protocol):
    """What operators see and do. Every method raises errors of `goverse.errors`."""

    async def get_status(self, *, local_only: bool = False) -> ClusterStatus:
        """``local_only``: as far as the node that is asked knows, without asking the leader."""
        ...

    async def list_nodes(self) -> MemberList: ...

    async def list_gates(self) -> MemberList: ...

    async def cordon_node(self, node: str, *, drain: bool = False) -> Member:
        """Give ``node`` no new shards; with ``drain`` also move away those that it has, which
        happens later. Idempotent. Raises NotFound for a node that is not there,
        FailedPrecondition where no other node could take its shards."""
        ...

    async def uncordon_node(self, node: str) -> Member:
        """Let ``node`` have shards again, also one that is away. Idempotent."""
        ...

    async def decommission_node(self, node: str) -> Member:
        """Have ``node``, which must be the one that is asked, leave and exit. Raises
        FailedPrecondition unless it is drained, and has no shard any more."""
        ...

    async def list_shards(
        self, *, node: str = "", state: str = "", page_size: int = 0, page_token: str = ""
    ) -> ShardPage:
        """One page, by number. ``node``: owner, target or pin; ``state``: one, or ``pinned``."""
        ...

    async def get_shard(self, shard: int, *, local_only: bool = False) -> Shard:
        """With ``why``; ``local_only``: as far as the node that is asked knows."""
        ...

    async def pin_shard(self, shard: int, *, node: str) -> Shard:
        """Keep ``shard`` on ``node``; the move happens later. Idempotent."""
        ...

    async def unpin_shard(self, shard: int) -> Shard:
        """Give ``shard`` back to the balance. Idempotent."""
        ...

    async def plan_shards(self, *, local_only: bool = False) -> ShardPlan:
        """What the leader would do now. ``local_only``: the node that is asked must lead."""
        ...

    async def rebalance_shards(self) -> ShardPlan:
        """Plan now, without waiting for stability or a cooldown: what that plan is. Raises
        FailedPrecondition on a node that does not lead."""
        ...

    async def list_locks(
        self, *, node: str = "", limit: int = 0, local_only: bool = False
    ) -> LockList:
        """Shards that are held or wanted: first those that are waited for, then those that have
        been held longest. ``local_only``: of the node that is asked."""
        ...

    async def locate_object(self, type: str, id: str) -> Location: ...

    async def list_objects(
        self,
        *,
        node: str = "",
        type: str = "",
        id_prefix: str = "",
        page_size: int = 0,
        page_token: str = "",
        local_only: bool = False,
    ) -> ObjectPage:
        """Active objects by node, type and id. ``local_only``: of the node that is asked."""
        ...

    async def call_object(
        self, type: str, id: str, method: str, args: bytes = b"", *, timeout_s: float = 0.0
    ) -> CallResult:
        """Call a method with a JSON object of arguments by name."""
        ...

    async def create_object(self, type: str, id: str, *, timeout_s: float = 0.0) -> Location:
        """Make an object active; where it is. Raises Conflict if it is active already."""
        ...

    async def delete_object(self, type: str, id: str, *, timeout_s: float = 0.0) -> Location:
        """End an object; where it was, or would be. Idempotent."""
        ...

    async def cancel_call(
        self, call_id: str, *, type: str = "", id: str = "", reason: str = "", timeout_s: float = 0
    ) -> CallChange:
        """Keep a reliable call from running; a turn that runs already may win.

        With ``type`` and ``id`` of its object also a call that is not known yet. Idempotent."""
        ...

    async def retry_call(self, call_id: str, *, timeout_s: float = 0) -> CallChange:
        """Run a parked call again, or deliver a parked delivery again. Idempotent."""
        ...

    async def cleanup_calls(
        self,
        *,
        older_than_s: float,
        statuses: Sequence[str] = (),
        dry_run: bool = False,
        max_calls: int = 0,
        timeout_s: float = 0,
    ) -> CleanupResult:
        """Delete finished calls, as many as the time allows; again until it is ``complete``. A
        call id that was deleted is as new: repeated after that, it runs again."""
        ...

    async def describe_types(self) -> TypeDescriptions:
        """The object types that the node hosts which is asked."""
        ...
