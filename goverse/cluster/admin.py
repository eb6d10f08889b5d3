"""What operators change, as functions over the coordinator: they also work without a node."""

from __future__ import annotations

from goverse.cluster.keys import Keys
from goverse.cluster.records import (
    BadValue,
    CordonValue,
    Kind,
    Layout,
    PinValue,
    decode_layout,
    encode,
)
from goverse.coordination.api import Compare, Coordinator, CoordinatorUnavailable, Delete, Put
from goverse.errors import (
    Executed,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from goverse.ids import check_member_name
from goverse.sharding import Cordon


async def pin_shard(coordinator: Coordinator, keys: Keys, shard: int, node: str) -> None:
    """Keep ``shard`` on ``node`` until it is unpinned.

    While the node is away the shard fails over, and returns when it is back. Pinning again
    replaces the pin. Raises InvalidArgument for a shard that does not exist, NotFound for a node
    that is not there, Unavailable (``executed`` unknown: pinning again is harmless).
    """
    _check_name(node)
    try:
        _, layout_revision = await _layout(coordinator, keys, shard)
        key = keys.member(Kind.NODE, node)
        standing = await coordinator.get(key)
        if standing is None:
            raise await _unknown(coordinator, keys, node)
        result = await coordinator.transact(
            [
                Compare.created_at(key, standing.create_revision),
                Compare.modified_at(keys.layout, layout_revision),
            ],
            [Put(keys.pin(shard), encode(PinValue(node)))],
        )
    except CoordinatorUnavailable as error:
        raise _unavailable(error) from error
    if not result.succeeded:
        raise FailedPrecondition(f"node {node!r} or the layout changed meanwhile; try again")


async def unpin_shard(coordinator: Coordinator, keys: Keys, shard: int) -> bool:
    """Return ``shard`` to balance. False: it was not pinned. Raises as `pin_shard` does."""
    try:
        await _layout(coordinator, keys, shard)
        key = keys.pin(shard)
        result = await coordinator.transact(
            [Compare(key, "create_revision", "!=", 0)], [Delete(key)]
        )
    except CoordinatorUnavailable as error:
        raise _unavailable(error) from error
    return result.succeeded


async def cordon_node(coordinator: Coordinator, keys: Keys, node: str, cordon: Cordon) -> None:
    """Let the leader give ``node`` no new shards, and with `Cordon.DRAINING` take all that it has.

    It is about the name: it outlives the leader, and a restart of the node. Doing it again, or
    changing the one for the other, is harmless. Raises NotFound for a node that is not there,
    InvalidArgument, Unavailable (``executed`` unknown).
    """
    _check_name(node)
    try:
        key = keys.member(Kind.NODE, node)
        result = await coordinator.transact(
            [Compare(key, "create_revision", "!=", 0)],
            [Put(keys.cordon(node), encode(CordonValue(cordon)))],
        )
        if not result.succeeded:
            raise await _unknown(coordinator, keys, node)
    except CoordinatorUnavailable as error:
        raise _unavailable(error) from error


async def uncordon_node(coordinator: Coordinator, keys: Keys, node: str) -> bool:
    """Let ``node`` have shards again, also one that is away. False: it was not cordoned. Raises as
    `cordon_node` does; NotFound for a node that is neither there nor cordoned."""
    _check_name(node)
    try:
        key = keys.cordon(node)
        result = await coordinator.transact(
            [Compare(key, "create_revision", "!=", 0)], [Delete(key)]
        )
        if not result.succeeded and await coordinator.get(keys.member(Kind.NODE, node)) is None:
            raise await _unknown(coordinator, keys, node)
    except CoordinatorUnavailable as error:
        raise _unavailable(error) from error
    return result.succeeded


def _check_name(node: str) -> None:
    try:
        check_member_name(node)
    except ValueError as error:
        raise InvalidArgument(str(error)) from None


async def _unknown(coordinator: Coordinator, keys: Keys, node: str) -> NotFound:
    listed = await coordinator.list(f"{keys.prefix}nodes/")
    names = ", ".join(name.rsplit("/", 1)[1] for name in listed.items) or "none"
    return NotFound(f"node {node!r} is not in the cluster; the nodes are: {names}")


async def _layout(coordinator: Coordinator, keys: Keys, shard: int) -> tuple[Layout, int]:
    item = await coordinator.get(keys.layout)
    if item is None:
        raise FailedPrecondition("there is no cluster here: no node has ever been started")
    try:
        layout = decode_layout(item)
    except BadValue as error:
        raise FailedPrecondition(f"the layout cannot be read: {error}") from None
    if not 0 <= shard < layout.num_shards:
        raise InvalidArgument(
            f"shard {shard} does not exist; this cluster has 0 to {layout.num_shards - 1}"
        )
    return layout, item.mod_revision


def _unavailable(error: CoordinatorUnavailable) -> Unavailable:
    return Unavailable(f"the coordinator does not answer: {error}", executed=Executed.UNKNOWN)
