"""All activations of one node, by shard. The last hop of a call before its object.

Here ownership is decided: a call is admitted only into a shard that this node holds a claim on,
is open, and whose lease is valid; and its activation is found or made in the same breath, with
no await between, so that the shard cannot leave in the middle.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Iterator
from typing import Protocol

import msgspec

from goverse.aio.deadlines import Deadlines
from goverse.aio.limits import Limit, fullest
from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import CALL, OF_A_NODE, Call, CallTarget, Codec, Forwarded, Receiver, Reply, Verb
from goverse.config.settings import LimitSettings, ObjectSettings
from goverse.errors import (
    Conflict,
    Executed,
    FailedPrecondition,
    GoverseError,
    InvalidArgument,
    NotOwner,
    ObjectFailed,
    PermissionDenied,
)
from goverse.ids import ObjectId
from goverse.objects import encoding, luggage, running
from goverse.objects.activation import (
    ACTIVE,
    DEACTIVATING,
    Activation,
    ObjectObserver,
    Services,
)
from goverse.objects.arrival import Arrival
from goverse.objects.autoload import Autoload
from goverse.objects.background import Action, timer_turn
from goverse.objects.census import Census
from goverse.objects.context import CallDefaults
from goverse.objects.definition import MethodType
from goverse.objects.description import TypesDescription
from goverse.objects.durability.service import Durability
from goverse.objects.idling import Idling
from goverse.objects.latch import Holds, LatchObserver
from goverse.objects.luggage import Luggage
from goverse.objects.messages import PushSink
from goverse.objects.metering import LoadMeter
from goverse.objects.recording import ReliableCalls
from goverse.objects.registry import Registry
from goverse.objects.shard import OPEN, Shard
from goverse.objects.shards import Moves, Shards
from goverse.objects.snapshots import CatalogSnapshot, snapshot_of_shard
from goverse.objects.turn import WAITING, Turn
from goverse.observability.quota import Machine

log = logging.getLogger(__name__)


class NodeFacts(Protocol):
    """What the node tells its catalog."""

    @property
    def node_name(self) -> str: ...

    def lease_valid(self) -> bool:
        """Whether this node's lease certainly holds at this instant."""
        ...

    def shard_of(self, id: str) -> int:
        """The shard of an object's id. Raises ValueError for an id that has none."""
        ...


class Catalog:
    """A CallTarget for the objects of this node; opened and closed shard by shard."""

    def __init__(
        self,
        registry: Registry,
        node: NodeFacts,
        outgoing: CallTarget,
        settings: ObjectSettings,
        limits: LimitSettings,
        runtime: Runtime,
        *,
        observer: ObjectObserver | None = None,
        pushes: PushSink | None = None,
        durability: Durability | None = None,
        reliable: ReliableCalls | None = None,
        moves: Moves | None = None,
        machine: Machine | None = None,
        holds: Holds | None = None,
        latch_observer: LatchObserver | None = None,
    ) -> None:
        self._moves = moves
        self._registry = registry
        self.arrival = Arrival(registry, limits)
        self._node = node
        self._settings = settings
        autoload = Autoload(settings.autoload, registry, node.node_name)
        #: Every activation that is not dead, across shards: the fast path of a call.
        self._activations: dict[tuple[str, str], Activation] = {}
        #: Discarded activations whose turns are not over yet: the next one waits for them, so that
        #: turns of one object never overlap in this process.
        self._ending: dict[ObjectId, asyncio.Event] = {}
        self._tasks = Tasks("objects")
        self._deadlines = Deadlines()
        arrivals = moves.arrivals if moves is not None else None
        self._idling = Idling(settings, registry, autoload, arrivals)
        self.shards = Shards(
            self,
            node.shard_of,
            autoload,
            self._idling,
            self._tasks,
            limits,
            runtime,
            durability=durability,
            reliable=reliable,
            moves=moves,
            holds=holds,
            latch_observer=latch_observer,
        )
        self._shards = self.shards.by_number
        self.census = Census(self._shards, self._activations, self.shards.holders)
        loop = asyncio.get_running_loop()
        self._now = loop.time
        self.meter = LoadMeter(self._shards, machine or Machine(), loop.time)
        self._services = Services(
            outgoing=outgoing,
            lease_valid=node.lease_valid,
            limits=limits,
            defaults=CallDefaults(
                limits.default_call_timeout_s,
                limits.default_create_timeout_s,
                limits.default_delete_timeout_s,
            ),
            expose_errors=settings.expose_errors,
            observer=observer,
            tasks=self._tasks,
            loop=loop,
            now=loop.time,
            next_turn=itertools.count(1).__next__,
            run_work=self._run_work,
            pushes=pushes,
            removed=self._removed,
            over=self._over,
            unpackable=self._unpackable,
            durability=durability,
            reliable=reliable,
        )

    # -- calls

    async def invoke(self, call: Call) -> Reply:
        """Run ``call`` in a turn of its object. Raises NotOwner if its shard is not open here."""
        if call.call_id:
            return await self._with_call_id(call)
        now = self._now()
        activation = self._activations.get((call.type, call.id))
        if activation is None and call.verb in OF_A_NODE:
            return self._for_this_node(call)
        object_type = activation.object_type if activation else self.arrival.object_type(call)
        turn = self.arrival.turn(call, object_type, now)
        self._place(turn, activation)
        return await self._run(turn)

    def _for_this_node(self, call: Call) -> Reply:
        """Answer what is asked of no object. Raises PermissionDenied."""
        if call.verb is Verb.MOVE:
            raise PermissionDenied("state of a shard is taken from the node that gives it up alone")
        found = self.meter.measure() if call.verb is Verb.LOAD else self.describe()
        return Reply(msgspec.json.encode(found), Codec.JSON)

    def describe(self) -> TypesDescription:
        """The types that this node hosts."""
        return self._registry.describe()

    async def run_recorded(self, turn: Turn) -> None:
        """Run the turn of a reliable call to its end; its record is told of its outcome. Raises
        why there is none."""
        self._place(turn, self._activations.get((turn.call.type, turn.call.id)))
        await self._run(turn)

    def run_recorded_in_place(self, turn: Turn) -> bool:
        """`run_recorded` for a method that never suspends. False: it left no outcome, or has not
        begun because it would have to wait. Raises what stands in its way."""
        activation = self._activations.get((turn.call.type, turn.call.id))
        method = turn.work
        if (
            activation is None
            or not isinstance(method, MethodType)
            or not _can_run_in_place(activation, method)
        ):
            return False
        return running.run_recorded_in_place(activation, turn, method)

    def open_shard_of(self, call: Call) -> Shard | None:
        """The shard of ``call``'s object, if it is open at this moment."""
        shard = self._shards.get(self._shard_of(call.id))
        if shard is None or shard.state is not OPEN or not self._services.lease_valid():
            return None
        return shard

    async def wait_open(self, call: Call) -> Shard:
        """The shard of ``call``'s object, once it is open. Raises NotOwner, Overloaded,
        DeadlineExceeded."""
        while True:
            shard = self._shards.get(self._shard_of(call.id))
            if shard is None or not self._services.lease_valid():
                raise self._not_owner(call)
            if shard.state is OPEN:
                return shard
            await shard.wait_change(call)

    async def _with_call_id(self, call: Call) -> Reply:
        reliable = self._services.reliable
        if reliable is None:
            raise FailedPrecondition(
                f"{call} has a call id, and this cluster has no store to keep it in; set "
                "storage.url on the nodes, for example to postgresql://user@host/database"
            )
        return await reliable.invoke(call)

    def forward(self, call: Call, receiver: Receiver) -> Forwarded | None:
        """Run ``call`` at once if its method never suspends and nothing is in its way; otherwise
        decline, as waiting needs a task. See `goverse.call.Forwarder`."""
        if call.call_id:
            reliable = self._services.reliable
            return reliable.forward(call, receiver) if reliable is not None else None
        activation = self._activations.get((call.type, call.id))
        if activation is None or call.verb is not CALL:
            return None
        method = activation.object_type.methods.get(call.method)
        if method is None or not _can_run_in_place(activation, method):
            return None
        arguments, deadline = self.arrival.bind(call, method, self._now())
        return running.run_in_place(activation, call, method, arguments, deadline, receiver)

    async def _run(self, turn: Turn) -> Reply:
        handle = self._deadlines.add(turn.deadline, turn.expire)
        try:
            if turn.state is WAITING:
                await turn.wait()
            activation = turn.activation
            if activation is not None:
                if turn.record is None:
                    return await running.run(activation, turn)
                await running.run_recorded(activation, turn, turn.record)
        finally:
            self._deadlines.cancel(handle)
        # Somebody else is told; or it is a deletion that found nothing to delete.
        if turn.record is None and not self._node.lease_valid():
            raise NotOwner(f"{turn.call}: this node's lease has ended")
        return Reply(encoding.NONE[turn.call.codec], turn.call.codec)

    def _place(self, turn: Turn, activation: Activation | None) -> None:
        """Admit ``turn``, or hold it back. No await from the check of ownership to the mailbox.

        :param activation: the one that stands at this moment.
        """
        if activation is not None:
            shard: Shard | None = activation.shard
        else:
            shard = self._shards.get(self._shard_of(turn.call.id))
        if shard is None or not self._services.lease_valid():
            raise self._not_owner(turn.call)
        if shard.state is not OPEN and shard.holds_back(turn):
            shard.hold(turn)
        else:
            self._admit(turn, shard, activation)

    def _shard_of(self, id: str) -> int:
        try:
            return self._node.shard_of(id)
        except ValueError as error:
            raise InvalidArgument(str(error)) from None

    def _not_owner(self, call: Call) -> NotOwner:
        shard = self._shard_of(call.id)
        text = f"{call}: shard {shard} is not open here"
        return NotOwner(text, epoch=self.shards.epoch_of(shard))

    def _admit(self, turn: Turn, shard: Shard, activation: Activation | None) -> None:
        call = turn.call
        if activation is None:
            if call.verb is Verb.DELETE and self._registry.get(call.type).stored is None:
                if shard.luggage is not None:
                    self._forget(shard.luggage, call)
                turn.granted()
                return
            activation = self._activate(call, shard)
        elif (
            call.verb is Verb.CREATE
            and activation.state is not DEACTIVATING
            and activation.durable is None  # otherwise what is stored decides, in the turn
        ):
            raise Conflict(f"{call.type}/{call.id} is active already")
        activation.admit(turn)

    def _activate(self, call: Call, shard: Shard) -> Activation:
        object_type = self._registry.get(call.type)
        # Every call brings a copy of its type's name, and an activation would keep one.
        id = ObjectId(object_type.name, call.id)
        try:
            activation = Activation(self._services, shard, id, object_type)
        except BaseException as error:
            log.error("%s: making the instance failed", id, exc_info=error)
            text = f"{id} could not be made: {type(error).__qualname__}"
            if self._settings.expose_errors:
                text += f": {error}"
            details = {"type": type(error).__qualname__}
            raise ObjectFailed(text, executed=Executed.NO, details=details) from None
        self._activations[id] = shard.activations[id] = activation
        if self._services.observer is not None:
            self._services.observer.activated(id.type)
        if shard.luggage is not None and self._moves is not None:
            packed = shard.luggage.take(id)
            if packed is not None:
                luggage.unpack(activation, packed, self._moves.arrivals)
        activation.begin_activation(call, self._ending.get(id))
        self._idling.watch(activation, activation.created)
        return activation

    async def _run_work(self, activation: Activation, work: Action) -> None:
        """A turn that the object asked for itself (a timer), placed like a call."""
        activation.check_alive()
        now = asyncio.get_running_loop().time()
        turn = timer_turn(activation, work, now + self._services.defaults.call_timeout_s)
        self._place(turn, activation)
        await self._run(turn)

    # -- ends of activations

    def _removed(self, activation: Activation, waiting: list[Turn]) -> None:
        id = activation.object_id
        if self._activations.get(id) is activation:
            del self._activations[id]
        activation.shard.activations.pop(id, None)
        if activation.ended is not None and not activation.object_type.options.concurrent:
            self._ending[id] = activation.ended
        activation.shard.wake()
        self._idling.forget(activation)
        if self._services.observer is not None:
            self._services.observer.deactivated(id.type)
        self.place_again(waiting)

    def _over(self, activation: Activation) -> None:
        if self._ending.get(activation.object_id) is activation.ended:
            del self._ending[activation.object_id]

    def place_again(self, turns: list[Turn]) -> None:
        """Admit what waited, in order."""
        for turn in turns:
            turn.room = None
            try:
                self._place(turn, self._activations.get((turn.call.type, turn.call.id)))
            except GoverseError as error:
                turn.refuse(error)

    def _forget(self, luggage: Luggage, call: Call) -> None:
        if luggage.take(call.object_id) is not None and self._moves is not None:
            self._moves.arrivals.count("deleted")

    def _unpackable(self, activation: Activation, fault: encoding.EncodingFault) -> None:
        log.error("%s begins afresh at its next node: %s", activation, fault)
        if self._moves is not None:
            self._moves.arrivals.count("unencodable")

    async def stop(self, timeout_s: float) -> None:
        """Orderly end of the process: no new chains; turns may end, then they are cancelled."""
        await self.shards.stop(timeout_s)
        await self._tasks.close()
        self._deadlines.close()
        self._idling.close()

    # -- for people

    def limits(self) -> Iterator[Limit]:
        yield Limit(
            "objects.held_calls", self.shards.held_limit.held, self.shards.held_limit.max_held
        )
        if self._moves is not None:
            yield from self._moves.arrivals.limits()
        yield from fullest(
            limit for activation in self._activations.values() for limit in activation.limits()
        )

    def snapshot(self) -> CatalogSnapshot:
        return CatalogSnapshot(
            shards=tuple(snapshot_of_shard(shard) for _, shard in sorted(self._shards.items())),
            objects=len(self._activations),
            held=self.shards.held_limit.held,
            stopped=self.shards.stopped,
        )


def _can_run_in_place(activation: Activation, method: MethodType) -> bool:
    """Whether a turn of ``method`` would begin and end in this step."""
    return (
        method.in_place
        and activation.mailbox.idle
        and activation.state is ACTIVE
        and activation.shard.state is OPEN
    )
