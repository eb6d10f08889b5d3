"""Becoming a member: the steps up to a key that stands under a lease of its own.

Nothing in here touches what another incarnation holds. A key that already has this id is waited
for: it goes with its owner's lease.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from goverse.aio.runtime import Runtime
from goverse.cluster.keys import Keys
from goverse.cluster.layout import ensure_layout, successor
from goverse.cluster.records import (
    Kind,
    Layout,
    MemberState,
    MemberValue,
    encode,
    is_shard_count,
)
from goverse.cluster.view import ClusterView
from goverse.config.settings import ClusterSettings
from goverse.coordination.api import (
    Compare,
    Coordinator,
    CoordinatorUnavailable,
    Delete,
    Lease,
    Put,
)
from goverse.ids import NUM_SLOTS, Epoch, MemberId, check_member_name, new_token

log = logging.getLogger(__name__)


def package_version() -> str:
    """The version that this process runs; empty outside of an installation."""
    try:
        return version("goverse")
    except PackageNotFoundError:
        return ""


@dataclass(frozen=True)
class Identity:
    """What a process says about itself; the same in every incarnation.

    :param weight: a node's share of the shards where not everybody has said its capacity.
    :param capacity: its share where everybody has; None: ``weight`` is all that it says.
    """

    kind: Kind
    name: str
    address: str
    ops_address: str = ""
    weight: float = 1.0
    capacity: float | None = None
    version: str = field(default_factory=package_version)

    def __post_init__(self) -> None:
        check_member_name(self.name)


@dataclass(frozen=True)
class Registration:
    """One incarnation's membership: its key, and the lease that holds it and all claims."""

    member: MemberId
    key: str
    lease: Lease
    create_revision: int
    layout: Layout

    @property
    def epoch(self) -> Epoch:
        """The epoch of objects that are named after this node."""
        return Epoch(self.layout.generation, self.create_revision)

    def compare(self) -> Compare:
        """Holds as long as this registration does."""
        return Compare.has_lease(self.key, self.lease.id)


class Registrar:
    """Makes registrations, one after the other."""

    def __init__(
        self,
        coordinator: Coordinator,
        view: ClusterView,
        keys: Keys,
        settings: ClusterSettings,
        runtime: Runtime,
    ) -> None:
        if not is_shard_count(settings.initial_num_shards):
            raise ValueError(
                f"cluster.initial_num_shards is {settings.initial_num_shards}; "
                f"it must be a power of two up to {NUM_SLOTS}"
            )
        self._coordinator = coordinator
        self._view = view
        self._keys = keys
        self._settings = settings
        self._runtime = runtime
        self._known: Layout | None = None
        self._warned = False

    async def register(self, identity: Identity, state: MemberState) -> Registration | None:
        """One attempt; None: somebody else was faster. Raises CoordinatorUnavailable, BadValue."""
        layout, layout_revision = await self._follow_layout()
        key = self._keys.member(identity.kind, identity.name)
        await self._wait_for_name(identity, key)
        member = MemberId(identity.name, new_token(self._runtime.random))
        lease = await self._coordinator.grant(self._settings.lease_ttl_s)
        try:
            created = await self._create(identity, state, member, lease, (layout, layout_revision))
        except BaseException:
            # Whatever of it may still arrive hangs on this lease, which is renewed no more.
            await lease.abandon()
            raise
        if not created:
            await lease.revoke()
            return None
        return Registration(member, key, lease, created, layout)

    async def _follow_layout(self) -> tuple[Layout, int]:
        if self._known is not None:
            wanted = successor(self._known)
        else:
            cluster_id = new_token(self._runtime.random)
            wanted = Layout(cluster_id, 1, self._settings.initial_num_shards)
        layout, revision = await ensure_layout(self._coordinator, self._keys, wanted)
        self._known = layout
        if layout.num_shards != self._settings.initial_num_shards and not self._warned:
            self._warned = True
            log.warning(
                "this cluster has %d shards; cluster.initial_num_shards says %d, which only "
                "counts when a cluster is created",
                layout.num_shards,
                self._settings.initial_num_shards,
            )
        return layout, revision

    async def _wait_for_name(self, identity: Identity, key: str) -> None:
        """Return once no key has this id. An earlier incarnation's goes with its lease."""
        ttl_s = self._settings.lease_ttl_s
        told = False
        while (standing := await self._coordinator.get(key)) is not None:
            if not told:
                log.info("waiting for the key of an earlier %s to go", identity.name)
                told = True
            revision = standing.mod_revision

            def gone(revision: int = revision) -> bool:
                state = self._view.state
                table = state.nodes if identity.kind is Kind.NODE else state.gates
                return state.revision >= revision and identity.name not in table

            # The view tells early; the timeout covers a view that hears nothing.
            await self._view.wait_for(gone, timeout_s=ttl_s / 5)

    async def _create(
        self,
        identity: Identity,
        state: MemberState,
        member: MemberId,
        lease: Lease,
        followed: tuple[Layout, int],
    ) -> int:
        """Write the key if there is none. Returns its create_revision, 0 if it was not written."""
        layout, layout_revision = followed
        key = self._keys.member(identity.kind, identity.name)
        value = member_value(identity, member, state, layout.generation)
        operations: list[Put | Delete] = [Put(key, encode(value), lease.id)]
        if identity.kind is Kind.NODE:
            # It is back: its shards need no grace any more.
            operations.append(Delete(self._keys.restart(identity.name)))
        compares = [Compare.absent(key), Compare.modified_at(self._keys.layout, layout_revision)]
        try:
            result = await self._coordinator.transact(compares, operations)
            return result.revision if result.succeeded else 0
        except CoordinatorUnavailable:
            standing = await self._coordinator.get(key)
            if standing is None or standing.lease != lease.id:
                raise
            return standing.create_revision


def member_value(
    identity: Identity, member: MemberId, state: MemberState, generation: int
) -> MemberValue:
    return MemberValue(
        member.incarnation,
        identity.address,
        identity.ops_address,
        identity.weight,
        identity.version,
        state,
        generation,
        identity.capacity,
    )
