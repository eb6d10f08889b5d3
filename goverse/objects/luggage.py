"""Declared state of volatile objects that goes with their shard to another node.

::

    at the old owner                                    at the new owner
    deactivated ──pack()──> Luggage ──pieces()──> Courier ──> Arrivals ──unpack()──> Luggage
                              │                                  │                     │
                 called again by a hook                 not the very next claim,    first call of
                 before it left: active again           too late, too much:         each object:
                                                        dropped and counted         active

Synchronous, no I/O: how a piece gets from node to node is the `Courier`'s business. Which races
there are, and what decides them, is in goverse/cluster/DESIGN.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Protocol

import msgspec

from goverse.aio.limits import Limit
from goverse.errors import FailedPrecondition, GoverseError, Overloaded
from goverse.ids import NO_EPOCH, Epoch, ObjectId
from goverse.objects.durability.stored import Kept, StateFault
from goverse.objects.encoding import EncodingFault
from goverse.objects.registry import Registry
from goverse.storage.values import State

if TYPE_CHECKING:
    from goverse.objects.activation import Activation

log = logging.getLogger(__name__)

KEPT_S = 60.0
"""How long state waits here for its shard to be opened."""

PIECE_BYTES = 256 * 1024
"""One message with state: as much, or a single object that has more."""

_OVERHEAD_BYTES = 256
"""What an entry takes in memory beside its bytes."""


class Packed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One object: its declared state as the store would keep it, and how long it was idle."""

    type: str
    id: str
    schema: int
    data: bytes
    idle_ms: int = 0

    @property
    def size(self) -> int:
        return len(self.data) + len(self.id) + _OVERHEAD_BYTES


class Piece(msgspec.Struct, array_like=True, frozen=True):
    """One message: objects of ``shard``, packed when nothing ran there any more under ``epoch``."""

    shard: int
    epoch: Epoch
    objects: tuple[Packed, ...]


class Observer(Protocol):
    """Counts what becomes of objects that are packed: see the metric ``goverse_moved_objects``."""

    def moved(self, outcome: str, objects: int) -> None: ...


class Courier(Protocol):
    """Takes luggage to the node that its shard goes to."""

    def leads_away(self, shard: int) -> bool:
        """Whether somebody is to take ``shard`` from this node, so that packing makes sense."""
        ...

    async def deliver(self, shard: int, epoch: Epoch, luggage: Luggage) -> None:
        """Return when it has arrived, or was given up: that is counted and logged, not raised."""
        ...


class Account:
    """Bytes that are counted together."""

    __slots__ = ("bytes",)

    def __init__(self) -> None:
        self.bytes = 0


class Luggage:
    """Objects of one shard that are not active and have a state all the same.

    :param account: where its bytes count too; None: nowhere.
    """

    __slots__ = ("_account", "_objects", "bytes")

    def __init__(self, account: Account | None = None) -> None:
        #: With the time (running loop's) at which each was used last.
        self._objects: dict[tuple[str, str], tuple[Packed, float]] = {}
        self._account = account
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._objects)

    def put(self, packed: Packed, used: float) -> None:
        """:param used: when it was used last (running loop's time)."""
        self.take((packed.type, packed.id))
        self._objects[packed.type, packed.id] = packed, used
        self._count(packed.size)

    def take(self, key: tuple[str, str]) -> Packed | None:
        found = self._objects.pop(key, None)
        if found is None:
            return None
        self._count(-found[0].size)
        return found[0]

    def __contains__(self, key: object) -> bool:
        return key in self._objects

    def pieces(self, now: float) -> Iterator[tuple[Packed, ...]]:
        """Everything, in messages; it is empty afterwards."""
        self.close()
        taken: list[Packed] = []
        size = 0
        while self._objects:
            _, (packed, used) = self._objects.popitem()
            if taken and size + packed.size > PIECE_BYTES:
                yield tuple(taken)
                taken, size = [], 0
            size += packed.size
            taken.append(msgspec.structs.replace(packed, idle_ms=_milliseconds(now - used)))
        if taken:
            yield tuple(taken)

    def drop_idle(self, now: float, timeout_of: Callable[[ObjectId], float]) -> tuple[int, float]:
        """Forget what nobody has called for its idle timeout.

        :return: how many those were, and when the next one is due (infinite: never).
        """
        dropped, due = 0, float("inf")
        for key, (packed, used) in list(self._objects.items()):
            until = used + timeout_of(ObjectId(packed.type, packed.id))
            if until <= now:
                self.take(key)
                dropped += 1
            else:
                due = min(due, until)
        return dropped, due

    def close(self) -> None:
        """It leaves, or its shard is closed: it counts no more."""
        self._count(-self.bytes)
        self._account = None

    def _count(self, size: int) -> None:
        self.bytes += size
        if self._account is not None:
            self._account.bytes += size


def _milliseconds(seconds: float) -> int:
    return max(0, min(int(seconds * 1000), 2**53))


class Waiting:
    """What has arrived for one shard that is not open here yet."""

    __slots__ = ("epoch", "luggage", "timer")

    def __init__(self, epoch: Epoch, account: Account, timer: asyncio.TimerHandle) -> None:
        self.epoch = epoch
        self.luggage = Luggage(account)
        self.timer = timer


class Arrivals:
    """State that has come to this node and is not used yet; bounded in bytes, and in time.

    The bytes include what nobody has called in shards that are open here.

    :param max_bytes: past this no more is taken.
    """

    def __init__(self, registry: Registry, observer: Observer, max_bytes: int) -> None:
        self._registry = registry
        self._observer = observer
        self._max_bytes = max_bytes
        self._waiting: dict[int, Waiting] = {}
        self._account = Account()
        self._now = asyncio.get_running_loop().time

    def __len__(self) -> int:
        """Shards that something waits for."""
        return len(self._waiting)

    def shards(self) -> tuple[tuple[int, Epoch], ...]:
        """Shards that something waits for, and under which epoch that was packed."""
        return tuple((shard, entry.epoch) for shard, entry in self._waiting.items())

    def add(self, piece: Piece) -> None:
        """Keep ``piece`` until its shard opens. Who sends it was checked.

        Raises Overloaded, FailedPrecondition.
        """
        entry = self._waiting.get(piece.shard)
        if entry is not None and entry.epoch > piece.epoch:
            raise FailedPrecondition(f"shard {piece.shard}: {entry.epoch} is newer than that state")
        size = sum(packed.size for packed in piece.objects)
        if self._account.bytes + size > self._max_bytes:
            raise Overloaded(
                f"this node keeps {self._account.bytes} bytes of state for shards to come already "
                "(limits.max_moved_bytes)"
            )
        if entry is not None and entry.epoch < piece.epoch:
            self.drop(piece.shard, "superseded")
            entry = None
        if entry is None:
            loop = asyncio.get_running_loop()
            timer = loop.call_later(KEPT_S, self.drop, piece.shard, "overdue")
            entry = self._waiting[piece.shard] = Waiting(piece.epoch, self._account, timer)
        unknown = 0
        for packed in piece.objects:
            if self._hosts(packed.type):
                entry.luggage.put(packed, self._now() - max(0, packed.idle_ms) / 1000)
            else:
                unknown += 1
        if unknown:
            self.count("unknown_type", unknown)
            log.warning(
                "shard %d: %d objects whose state has come are of classes that are not hosted here "
                "as volatile ones; they begin afresh",
                piece.shard,
                unknown,
            )

    def _hosts(self, type_name: str) -> bool:
        try:
            return self._registry.get(type_name).packed is not None
        except GoverseError:
            return False

    def open(self, shard: int, released: Epoch) -> Luggage | None:
        """What comes alive with ``shard``, which opens now.

        :param released: the epoch that was given up right before; `NO_EPOCH`: that is not known.
        """
        entry = self._waiting.get(shard)
        if entry is None:
            return None
        if entry.epoch != released:
            self.drop(shard, "unsure" if released == NO_EPOCH else "stale")
            return None
        entry.timer.cancel()
        del self._waiting[shard]
        return entry.luggage or None

    def drop(self, shard: int, reason: str) -> None:
        """Forget what waits for ``shard``."""
        entry = self._waiting.pop(shard, None)
        if entry is None:
            return
        entry.timer.cancel()
        entry.luggage.close()
        if entry.luggage:
            self.count(reason, len(entry.luggage))
            log.warning(
                "shard %d: the state of %d objects that was packed under %s is dropped (%s); they "
                "begin afresh",
                shard,
                len(entry.luggage),
                entry.epoch,
                reason,
            )

    def drop_all(self, reason: str) -> None:
        for shard in list(self._waiting):
            self.drop(shard, reason)

    def count(self, outcome: str, objects: int = 1) -> None:
        self._observer.moved(outcome, objects)

    def limits(self) -> Iterator[Limit]:
        # A shard at rest may have objects that nobody calls.
        yield Limit("objects.moved_bytes", self._account.bytes, self._max_bytes, standing=True)


class Restored:
    """Of an activation that begins with what had come.

    :param kept: fields that its class does not have, for the next time that it is packed.
    :param packed: all of it, until the activation is known to have begun.
    :param arrivals: counts that; None: it had not left yet.
    """

    __slots__ = ("_arrivals", "kept", "packed")

    def __init__(self, kept: Kept | None, packed: Packed, arrivals: Arrivals | None) -> None:
        self.kept = kept
        self.packed: Packed | None = packed
        self._arrivals = arrivals

    def began(self) -> None:
        """Its hook, if it has one, has ended well."""
        self.packed = None
        if self._arrivals is not None:
            self._arrivals.count("restored")


def pack(activation: Activation, max_bytes: int) -> Packed:
    """The state of ``activation``, in which nothing runs. Raises `EncodingFault`."""
    form, id = activation.object_type.packed, activation.object_id
    assert form is not None, f"{id} declares no state, or the store has it"
    kept = activation.restored.kept if activation.restored is not None else None
    state = form.pack(activation.encode_state(), kept)
    if len(state.data) > max_bytes:
        raise EncodingFault(
            "", f"{len(state.data)} bytes of state are above limits.max_state_bytes of {max_bytes}"
        )
    return Packed(id.type, id.id, state.schema, state.data)


def unpack(activation: Activation, packed: Packed, arrivals: Arrivals) -> None:
    """Put ``packed`` into an activation that has not begun, or say why it begins afresh."""
    form = activation.object_type.packed
    assert form is not None
    try:
        kept = form.unpack(State(packed.data, packed.schema), activation.instance)
    except StateFault as fault:
        arrivals.count("undecodable")
        log.warning("%s begins afresh: the state that came with its shard: %s", activation, fault)
        return
    # Of a shard that is about to leave it was packed a moment ago, and has not come.
    came = not activation.shard.departing
    activation.restored = Restored(kept, packed, arrivals if came else None)
