"""Objects that the configuration keeps active on shards of this node."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.call import Call, CallTarget, Verb
from goverse.config.settings import AutoloadSettings
from goverse.errors import Conflict, GoverseError, NotFound
from goverse.ids import ObjectId, check_id
from goverse.objects.registry import Registry
from goverse.objects.shard import Shard
from goverse.sharding import NODE_SHARD

log = logging.getLogger(__name__)

SCOPES = ("cluster", "shard", "node")


class Autoload:
    """Which objects belong to a shard by configuration."""

    def __init__(
        self, settings: Sequence[AutoloadSettings], registry: Registry, node_name: str
    ) -> None:
        """Raises ValueError for an entry that can never be active."""
        self._settings = tuple(settings)
        self._node_name = node_name
        for index, entry in enumerate(self._settings):
            where = f"objects.autoload[{index}]"
            if entry.scope not in SCOPES:
                raise ValueError(f"{where}.scope: {entry.scope!r} is not one of {SCOPES}")
            try:
                registry.get(entry.type)
            except NotFound as error:
                raise ValueError(f"{where}.type: {error}") from None
            try:
                check_id(entry.name)
            except ValueError as error:
                raise ValueError(f"{where}.name: {error}") from None

    def objects_of(self, shard: int, shard_of: Callable[[str], int]) -> tuple[ObjectId, ...]:
        """The objects to keep active while ``shard`` is open here."""
        found = []
        for entry in self._settings:
            if entry.scope == "cluster" and _is_on(shard, entry.name, shard_of):
                found.append(ObjectId(entry.type, entry.name))
            elif entry.scope == "shard" and shard != NODE_SHARD:
                found.append(ObjectId(entry.type, f"shard#{shard}/{entry.name}"))
            elif entry.scope == "node" and shard == NODE_SHARD:
                found.append(ObjectId(entry.type, f"node#{self._node_name}/{entry.name}"))
        return tuple(found)

    def covers(self, id: ObjectId) -> bool:
        """Whether ``id`` stays active although nobody calls it."""
        for entry in self._settings:
            if entry.type == id.type:
                prefix = {"cluster": "", "shard": "shard#", "node": "node#"}[entry.scope]
                name = id.id.partition("/")[2] if prefix else id.id
                if name == entry.name and id.id.startswith(prefix):
                    return True
        return False


def _is_on(shard: int, name: str, shard_of: Callable[[str], int]) -> bool:
    """A node's own shard opens as soon as it has joined, perhaps before it knows the layout."""
    if name.startswith("node#"):
        return shard == NODE_SHARD
    return shard != NODE_SHARD and shard_of(name) == shard


async def keep_trying(
    id: ObjectId, shard: Shard, catalog: CallTarget, runtime: Runtime, timeout_s: float
) -> None:
    """Activate ``id``; a hook that fails is tried again while ``shard`` is open."""
    backoff = Backoff(runtime.random, min_s=1.0, max_s=30.0)
    loop = asyncio.get_running_loop()
    while shard.is_open:
        call = Call(id.type, id.id, "", b"", loop.time() + timeout_s, verb=Verb.CREATE)
        try:
            await catalog.invoke(call)
        except Conflict:
            pass  # somebody called it first
        except GoverseError as error:
            log.warning("autoload of %s failed and will be tried again: %s", id, error)
            await asyncio.sleep(backoff.next_s())
            continue
        return
