"""From a call to the member that owns its object, and again if it was not.

The first attempt is the hot path: one lookup of the owner, one of its target, one call.
`Router.invoke` awaits it, `Router.forward` is told of its outcome; whatever goes wrong that a
router may mend goes on, for both, in `Router._persist` by the rules of `Persistence`.
"""

from __future__ import annotations

from typing import Protocol

from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.call import Call, Forwarded, Forwarder, Receiver, Reply
from goverse.cluster.records import Owner
from goverse.cluster.view import ClusterView
from goverse.config.settings import LimitSettings
from goverse.errors import GoverseError, InvalidArgument
from goverse.ids import MemberId
from goverse.routing.budget import RetryBudget
from goverse.routing.persistence import (
    FAILURES,
    Failure,
    Persistence,
    RouterObserver,
    SilentObserver,
    mended,
)


class Pool(Protocol):
    """Connections to other members."""

    def target(self, member: MemberId, address: str) -> Forwarder: ...

    def drop(self, member: MemberId, reason: str) -> None: ...


class Attempt:
    """The first attempt of a forwarded call, and whatever follows if it fails.

    While it is ``held``, calls for the same object wait for this one to be sent again.
    """

    __slots__ = ("call", "held", "owner", "receiver", "router", "under_way")

    def __init__(self, router: Router, call: Call, owner: Owner, receiver: Receiver) -> None:
        self.router = router
        self.call = call
        self.owner = owner
        self.receiver = receiver
        self.under_way: Forwarded | None = None
        self.held = False

    def succeed(self, reply: Reply) -> None:
        self.under_way = None  # do not close the circle
        self.receiver.succeed(reply)

    def fail(self, error: Exception) -> None:
        self.under_way = None
        if isinstance(error, FAILURES) and mended(error, self.call):
            self.router.try_again(self, error)
        else:
            self.receiver.fail(error)

    def cancel(self) -> None:
        under_way, self.under_way = self.under_way, None
        if self.held:
            self.held = False
            self.router.let_by(self.call.id)
        if under_way is not None:
            under_way.cancel()


class Router:
    """A `Forwarder` that finds the owner.

    :param me: name of this node, whose calls go to ``local`` and through no connection; None on
        a gate. The name is enough: what an earlier incarnation of this process owned is not open
        here, and the catalog says so.
    """

    def __init__(
        self,
        view: ClusterView,
        pool: Pool,
        me: str | None,
        local: Forwarder | None,
        limits: LimitSettings,
        runtime: Runtime,
        *,
        observer: RouterObserver | None = None,
    ) -> None:
        if (me is None) != (local is None):
            raise ValueError("a node has a name and a local target, a gate has neither")
        self._view = view
        self._pool = pool
        self._me = me
        self._local = local
        self._targets: dict[MemberId, Forwarder] = {}
        self._tasks = Tasks("router")
        # Ids of objects that calls wait to be sent to again, and how many: a call that comes
        # meanwhile must not overtake them.
        self._held: dict[str, int] = {}
        self._persistence = Persistence(
            view,
            RetryBudget(limits.retry_budget_per_s),
            runtime,
            observer or SilentObserver(),
        )
        view.on_member_gone(self._forget)

    async def invoke(self, call: Call) -> Reply:
        """Carry out ``call`` at the owner of its object.

        Raises `InvalidArgument` for a malformed id, `DeadlineExceeded` when nobody owned it in
        time, `Unavailable`, `Overloaded`, and what the owner raises. Sends again only what was
        certainly not executed.
        """
        error: Failure | None = None
        owner = self._owner(call)
        if owner is not None:
            target = self._targets.get(owner.member) or self._target(owner)
            try:
                return await target.invoke(call)
            except FAILURES as raised:
                if not mended(raised, call):
                    raise
                error = raised
        # Out of the handler, so that no reference to the failed attempt is kept while waiting.
        return await self._persist(call, owner, error)

    def forward(self, call: Call, receiver: Receiver) -> Forwarded | None:
        """See `goverse.call.Forwarder`: declines what has no owner that can be called now."""
        owner = self._owner(call)
        if owner is None or (self._held and call.id in self._held):
            return None
        target = self._targets.get(owner.member) or self._target(owner)
        attempt = Attempt(self, call, owner, receiver)
        try:
            under_way = target.forward(call, attempt)
        except FAILURES as error:
            if not mended(error, call):
                raise
            self.try_again(attempt, error)
            return attempt
        if under_way is None:
            return None
        attempt.under_way = under_way
        return attempt

    async def close(self) -> None:
        """Give up what waits to be sent again. Call it once nobody waits for that any more:
        receivers are not told."""
        await self._tasks.close()

    def try_again(self, attempt: Attempt, error: Failure) -> None:
        """A forwarded call has failed like that: from now on it is a task."""
        self._hold(attempt.call.id)
        attempt.held = True
        try:
            attempt.under_way = self._tasks.spawn("try again", self._try_again(attempt, error))
        except RuntimeError:  # closed
            attempt.cancel()
            attempt.receiver.fail(error)

    async def _try_again(self, attempt: Attempt, error: Failure) -> None:
        call, receiver = attempt.call, attempt.receiver
        # Its own waits hold others back as well, and begin in this very step.
        attempt.held = False
        self.let_by(call.id)
        try:
            reply = await self._persist(call, attempt.owner, error)
        except Exception as final:
            attempt.under_way = None
            receiver.fail(final)
        else:
            attempt.under_way = None
            receiver.succeed(reply)

    async def _persist(self, call: Call, owner: Owner | None, error: Failure | None) -> Reply:
        attempts = self._persistence.begin(call)
        while True:
            self._hold(call.id)
            try:
                await attempts.wait(owner, error)
            finally:
                self.let_by(call.id)
            # Resolved after the wait and right before the call: nobody calls an address from
            # before a failover, and no target is made for a member that has just gone.
            owner, error = self._view.owner_of_id(call.id), None
            if owner is not None:
                try:
                    return await self._target(owner).invoke(call)
                except GoverseError as raised:
                    if not isinstance(raised, FAILURES) or not mended(raised, call):
                        attempts.correct(raised)
                        raise
                    error = raised

    def _hold(self, id: str) -> None:
        self._held[id] = self._held.get(id, 0) + 1

    def let_by(self, id: str) -> None:
        left = self._held[id] - 1
        if left:
            self._held[id] = left
        else:
            del self._held[id]

    def _owner(self, call: Call) -> Owner | None:
        try:
            return self._view.owner_of_id(call.id)
        except ValueError as wrong:
            raise InvalidArgument(str(wrong)) from None

    def _target(self, owner: Owner) -> Forwarder:
        target = self._targets.get(owner.member)
        if target is None:
            if owner.member.name == self._me and self._local is not None:
                target = self._local
            else:
                target = self._pool.target(owner.member, owner.address)
            self._targets[owner.member] = target
        return target

    def _forget(self, member: MemberId) -> None:
        """Its key is gone: whatever still arrives from it must be believed by nobody."""
        self._targets.pop(member, None)
        self._pool.drop(member, "its key in the coordinator is gone")
