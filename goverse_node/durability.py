"""Joins what a node owns to where its objects are kept."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from goverse import storage
from goverse.aio.runtime import Runtime
from goverse.cluster.keys import Keys
from goverse.cluster.member import NodeMember
from goverse.cluster.records import BadValue, decode_layout
from goverse.cluster.surroundings import Surroundings
from goverse.config.settings import ClusterSettings, StorageSettings
from goverse.coordination.api import CoordinatorUnavailable
from goverse.errors import Unavailable
from goverse.ids import NUM_SLOTS, MemberId
from goverse.objects.registry import Registry
from goverse.sharding import NODE_SHARD
from goverse.storage.api import StorageUnavailable, Store, StoreRefused
from goverse.storage.rules import wrong_cluster


class MissingStore(StoreRefused):
    """A class asks for durability, and no store is configured."""


@asynccontextmanager
async def with_store(
    settings: StorageSettings, surroundings: Surroundings
) -> AsyncGenerator[Surroundings, None]:
    """Surroundings with the store that ``settings`` name, if they name one; closes it.

    Raises `StoreRefused` if it must not be used, `StorageUnavailable`.
    """
    if not settings.url:
        yield surroundings
        return
    store = await open_store(settings, surroundings.runtime)
    try:
        await store.check()
        yield dataclasses.replace(surroundings, store=store)
    finally:
        await store.close()


async def open_store(settings: StorageSettings, runtime: Runtime) -> Store:
    """Raises `StoreRefused` for a URL that names none."""
    try:
        return await storage.open(settings, runtime)
    except ValueError as error:
        raise StoreRefused(str(error)) from None


def check_store(registry: Registry, store: Store | None) -> None:
    """Raises `MissingStore` naming the classes that would need one."""
    if store is not None:
        return
    if durable := registry.durable():
        raise MissingStore(
            f"{', '.join(durable)} must be durable, and storage.url names no store; set it, for "
            "example to postgresql://user@host/database or sqlite:///path/to/file"
        )


async def check_cluster(surroundings: Surroundings, cluster: ClusterSettings) -> None:
    """Raises `StoreRefused` if the store is known to be another cluster's than this node's.

    Where either does not answer, or the coordinator has no cluster yet, shards cannot be opened
    before the store is ours: `OwnedSlots`.
    """
    if surroundings.store is None:
        return
    try:
        stored = await surroundings.store.cluster_id()
        if not stored:
            return
        item = await surroundings.coordinator.get(Keys(cluster.etcd.prefix).layout)
        mine = decode_layout(item).cluster_id if item is not None else stored
    except (StorageUnavailable, CoordinatorUnavailable, BadValue):
        return
    if mine != stored:
        raise StoreRefused(wrong_cluster(stored, mine))


class OwnedSlots:
    """What `goverse.objects.durability.fences` asks of its node."""

    def __init__(self, name: str, member: NodeMember, store: Store) -> None:
        self._name = name
        self._member = member
        self._store = store
        self._claimed_for = ""

    @property
    def incarnation(self) -> str:
        return self._registered().incarnation

    async def slots_of(self, shard: int) -> tuple[int, ...]:
        """Raises `StoreRefused` if the store is another cluster's."""
        await self._claim()
        if shard == NODE_SHARD:
            return (await self._store.node_slot(self._name),)
        return tuple(range(shard, NUM_SLOTS, self._member.view.num_shards))

    async def _claim(self) -> None:
        """The store is this cluster's before anything is written to it."""
        registration = self._member.membership.registration
        if registration is None:
            raise Unavailable("this node is not registered")
        cluster_id = registration.layout.cluster_id
        if cluster_id != self._claimed_for:
            await self._store.claim_cluster(cluster_id)
            self._claimed_for = cluster_id

    def _registered(self) -> MemberId:
        member = self._member.membership.member
        if member is None:
            raise Unavailable("this node is not registered")
        return member
