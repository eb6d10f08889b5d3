"""From a call to the member that owns its object, and again if it was not.

The first attempt is the hot path and is all in `Router.invoke`: one lookup of the owner, one of
its target, one await. Whatever goes wrong that a router may mend is in `_Persistence`.
"""

from __future__ import annotations

from typing import Protocol

from goverse.aio.runtime import Runtime
from goverse.call import Call, CallTarget, Reply
from goverse.cluster.records import Owner
from goverse.cluster.view import ClusterView
from goverse.config.settings import LimitSettings
from goverse.errors import Fenced, InvalidArgument, LinkBroken, NotOwner
from goverse.ids import MemberId
from goverse.routing.budget import RetryBudget
from goverse.routing.persistence import Persistence, RouterObserver, SilentObserver


class Pool(Protocol):
    """Connections to other members."""

    def target(self, member: MemberId, address: str) -> CallTarget: ...

    def drop(self, member: MemberId, reason: str) -> None: ...


class Router:
    """A `CallTarget` that finds the owner.

    :param me: name of this node, whose calls go to ``local`` and through no connection; None on
        a gate. The name is enough: what an earlier incarnation of this process owned is not open
        here, and the catalog says so.
    """

    def __init__(
        self,
        view: ClusterView,
        pool: Pool,
        me: str | None,
        local: CallTarget | None,
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
        self._targets: dict[MemberId, CallTarget] = {}
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
        error: NotOwner | LinkBroken | Fenced | None = None
        try:
            owner = self._view.owner_of_id(call.id)
        except ValueError as wrong:
            raise InvalidArgument(str(wrong)) from None
        if owner is not None:
            target = self._targets.get(owner.member) or self._target(owner)
            try:
                return await target.invoke(call)
            except (NotOwner, LinkBroken, Fenced) as raised:
                error = raised
        # Out of the handler, so that no reference to the failed attempt is kept while waiting.
        attempts = self._persistence.begin(call)
        while True:
            await attempts.wait(owner, error)
            # Resolved after the wait and right before the call: nobody calls an address from
            # before a failover, and no target is made for a member that has just gone.
            owner, error = self._view.owner_of_id(call.id), None
            if owner is not None:
                try:
                    return await self._target(owner).invoke(call)
                except (NotOwner, LinkBroken, Fenced) as raised:
                    error = raised

    def _target(self, owner: Owner) -> CallTarget:
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
