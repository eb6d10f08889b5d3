"""The durable side of one activation: its stored state, and what of it the store does not have.

Everything that leaves the activation waits here for the last change that it may have seen:
replies and errors after their turn, calls before they are made.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from goverse.call import Receiver, Reply
from goverse.errors import Executed, GoverseError, ObjectFailed, Unavailable
from goverse.objects.durability.journal import Journal, Subject, Waiter
from goverse.objects.durability.service import Durability
from goverse.objects.durability.stored import Kept, NewerState, StateFault, StoredForm
from goverse.sharding import slot_of
from goverse.storage.values import DELETE, KEEP, Act, Outcome, ReliableCall, State, StoredObject

if TYPE_CHECKING:
    from goverse.objects.activation import Activation
    from goverse.objects.turn import Turn


class Durable:
    """Made with its activation, and of use once it has begun with what is stored.

    :param form: of the class's declared state.
    :param interval_s: 0: what leaves waits for the commit. Above: nothing waits, and the state is
        committed at most this often.
    """

    __slots__ = (
        "_activation",
        "_form",
        "_interval_s",
        "_kept",
        "_noted",
        "_service",
        "exists",
        "journal",
    )

    def __init__(
        self, activation: Activation, service: Durability, form: StoredForm, interval_s: float
    ) -> None:
        self._activation = activation
        self._service = service
        self._form = form
        self._interval_s = interval_s
        self._kept: Kept | None = None
        #: The encoding that was noted last, or that was there after loading.
        self._noted = b""
        #: Whether the store has, or is about to have, a state of it.
        self.exists = False
        self.journal: Journal | None = None

    async def read(self) -> StoredObject | None:
        """What the store has of it. Raises Unavailable, Overloaded: it may be tried again."""
        return await self._service.load(self._activation.object_id)

    def begin(self, stored: StoredObject | None) -> None:
        """Put the stored state into the instance. Raises Unavailable, ObjectFailed: it cannot."""
        activation = self._activation
        opening, id = activation.shard.opening, activation.object_id
        assert opening is not None, "a shard opens with its fence raised"
        version = 0
        if stored is not None:
            version = stored.version
            if stored.state is not None:
                try:
                    self._kept = self._form.unpack(stored.state, activation.instance)
                except NewerState as newer:
                    raise Unavailable(f"{id}: {newer}") from None
                except StateFault as fault:
                    raise ObjectFailed(f"{id}: {fault}", executed=Executed.NO) from None
                self.exists = True
        self._noted = activation.encode_state()
        slot = opening.slots[0] if id.id.startswith("node#") else slot_of(id.id)
        subject = Subject(id, slot, opening)
        self.journal = self._service.journal(subject, self, version, self._interval_s)

    def check_room(self) -> None:
        """Before a turn begins. Raises Overloaded, or why the journal is lost."""
        self._service.commits.check_room()
        self._loaded.check_room()

    def note(
        self,
        encoded: bytes | None,
        outcome: Outcome | None = None,
        issued: tuple[ReliableCall, ...] = (),
    ) -> None:
        """A turn has ended with all this. Raises why the journal is lost.

        :param encoded: the state; None: it is as it was.
        """
        changed = encoded is not None and encoded != self._noted
        if changed or outcome is not None or issued:
            self._write(encoded if changed else None, outcome, issued)

    def note_creation(self) -> None:
        """The object exists from now on, with the state that it has."""
        self._write(self._noted)

    def _write(
        self,
        encoded: bytes | None,
        outcome: Outcome | None = None,
        issued: tuple[ReliableCall, ...] = (),
    ) -> None:
        state: State | Act = KEEP
        if encoded is not None:
            state = self._form.pack(encoded, self._kept)
        self._loaded.note(state, outcome, issued)
        if encoded is not None:
            self._noted = encoded
            self.exists = True

    async def delete(self) -> None:
        """Return once the store has nothing of it any more."""
        await self._loaded.wait(self._loaded.note(DELETE))

    @property
    def last(self) -> int:
        """What everything that leaves from now on must wait for; 0 with an interval."""
        return 0 if self._interval_s or self.journal is None else self.journal.last

    @property
    def newest(self) -> int:
        """Number of the last change, whatever the interval."""
        return self._loaded.last

    @property
    def in_flight(self) -> bool:
        return self.journal is not None and self.journal.in_flight

    def is_committed(self, number: int) -> bool:
        return self.journal is None or self.journal.has(number)

    async def wait(self, number: int) -> None:
        """Raises why ``number`` will never be committed."""
        if self.journal is not None:
            await self.journal.wait(number)

    async def flush(self) -> None:
        """Return once the store has everything. Raises why it never will."""
        if self.journal is not None:
            self.journal.flush()
            await self.journal.wait(self.journal.last)

    def when(self, number: int, waiter: Waiter) -> None:
        self._loaded.when(number, waiter)

    def tell_later(self, turn: Turn, told: Reply | BaseException, receiver: Receiver) -> Telling:
        """Tell ``receiver`` the outcome of ``turn`` as soon as it may leave."""
        telling = Telling(self._activation, turn, told, receiver)
        self._loaded.when(turn.ticket, telling)
        return telling

    def push_later(self, turn: Turn) -> None:
        """Let the messages of ``turn`` leave as soon as they may."""
        self._loaded.when(turn.ticket, Pushing(self._activation, turn))

    def discard(self, error: GoverseError) -> None:
        if self.journal is not None:
            self.journal.lose(error)

    @property
    def _loaded(self) -> Journal:
        assert self.journal is not None, "a turn runs before the state was loaded"
        return self.journal

    # -- what the journal tells

    def lost(self, error: GoverseError) -> None:
        self._activation.discard(lambda turn: because_of(turn, error))

    def landed(self) -> None:
        self._activation.check_ended()


class Telling:
    """The outcome of a turn that ran without a task, while its commit is awaited."""

    __slots__ = ("_activation", "_receiver", "_told", "_turn")

    def __init__(
        self, activation: Activation, turn: Turn, told: Reply | BaseException, receiver: Receiver
    ) -> None:
        self._activation = activation
        self._turn = turn
        self._told = told
        self._receiver: Receiver | None = receiver

    def committed(self) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is None:
            return
        try:
            reply = self._activation.tell(self._turn, self._told)
        except GoverseError as error:
            receiver.fail(error)
        else:
            receiver.succeed(reply)

    def lost(self, error: GoverseError) -> None:
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.fail(because_of(self._turn, error))

    def cancel(self) -> None:
        """Nobody waits any more."""
        self._receiver = None


class Pushing:
    """What a turn pushes, while its commit is awaited."""

    __slots__ = ("_activation", "_turn")

    def __init__(self, activation: Activation, turn: Turn) -> None:
        self._activation = activation
        self._turn = turn

    def committed(self) -> None:
        if self._activation.services.lease_valid():
            self._activation.release_pushes(self._turn)

    def lost(self, error: GoverseError) -> None:
        self._turn.pushes = None


def because_of(turn: Turn, error: GoverseError) -> GoverseError:
    """``error`` for one of many callers: each has its own, since a raised error is written to."""
    own: GoverseError = copy.copy(error)
    own.details = dict(error.details)
    return own
