"""What to do after an attempt that failed, and when.

==================================  ==========================================================
the attempt ended with              what follows
==================================  ==========================================================
no owner in the view                wait for one
NotOwner, epoch at least the one    the node knows that claim and does not serve it: wait for a
that was tried                      newer one; ask again now and then, a move may be called off
NotOwner, older epoch               the node has not heard of its claim yet: ask again soon
LinkBroken, not sent                wait for another owner, or a moment: the link's own backoff
                                    has passed already
LinkBroken, sent                    Unavailable, executed unknown
Fenced                              Unavailable, executed as it says
Unavailable                         the same
==================================  ==========================================================

A call that has a call id takes effect once however often it is sent, so that after each of the
last three it is sent again, too: to a newer owner, or in a moment.

Every wait ends at the call's deadline. Each attempt resolves the owner anew, so nobody calls an
address from before a failover. Only calls that were really sent again use the budget.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.call import Call
from goverse.cluster.records import Owner
from goverse.cluster.view import ClusterView
from goverse.errors import (
    DeadlineExceeded,
    Executed,
    Fenced,
    GoverseError,
    LinkBroken,
    NotOwner,
    Overloaded,
    Unavailable,
)
from goverse.ids import NO_EPOCH, Epoch
from goverse.routing.budget import RetryBudget

Failure = NotOwner | LinkBroken | Fenced | Unavailable
FAILURES = (NotOwner, LinkBroken, Fenced, Unavailable)


class RouterObserver(Protocol):
    """Told about what is not the hot path; metrics, where there are any."""

    def retried(self, reason: str) -> None:
        """A call is tried again; ``reason`` is no_owner, not_owner, link_broken or, for a call
        that has a call id, repeated."""
        ...

    def waited(self, seconds: float) -> None:
        """A call waited this long before it could be tried."""
        ...

    def gave_up(self, reason: str) -> None:
        """A call was answered with an error of the router; ``reason`` is its code."""
        ...


class SilentObserver:
    def retried(self, reason: str) -> None:
        pass

    def waited(self, seconds: float) -> None:
        pass

    def gave_up(self, reason: str) -> None:
        pass


class Persistence:
    """The rules and the budget of one process."""

    def __init__(
        self, view: ClusterView, budget: RetryBudget, runtime: Runtime, observer: RouterObserver
    ) -> None:
        self.view = view
        self.budget = budget
        self.runtime = runtime
        self.observer = observer

    def begin(self, call: Call) -> Attempts:
        return Attempts(self, call)


def mended(error: Exception, call: Call) -> bool:
    """Whether ``error``, one of `FAILURES`, is the router's to deal with. `Unavailable` of a call
    without a call id comes from behind its owner, and passes as it is."""
    return bool(call.call_id) or not isinstance(error, Unavailable)


class Attempts:
    """One call, from the end of its first attempt on.

    A call without a call id is never tried again after an outcome that is not certainly ``no``.
    With one it is; then no later ``no`` takes an earlier ``unknown`` back.
    """

    __slots__ = ("_again", "_call", "_executed", "_not_owner", "_rules", "_soon", "_unsent")

    def __init__(self, rules: Persistence, call: Call) -> None:
        self._rules = rules
        self._call = call
        source = rules.runtime.random
        self._soon = Backoff(source, min_s=0.005, max_s=0.5)
        self._unsent = Backoff(source, min_s=0.05, max_s=1.0)
        self._again = Backoff(source, min_s=0.05, max_s=2.0)
        self._executed = Executed.NO
        self._not_owner = Backoff(source, min_s=0.5, max_s=2.0)

    async def wait(self, tried: Owner | None, error: Failure | None) -> None:
        """Return when another attempt makes sense. Raises the error for the caller, finally."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        observer = self._rules.observer
        if error is not None and error.executed is not Executed.NO:
            self._executed = error.executed
        try:
            if tried is None or error is None:
                await self._owner(NO_EPOCH)
                reason = "no_owner"
            elif isinstance(error, NotOwner):
                await self._after_not_owner(tried, error)
                reason = "not_owner"
            elif isinstance(error, LinkBroken) and not error.sent:
                await self._newer(tried.epoch, self._unsent.next_s())
                reason = "link_broken"
            elif self._call.call_id:
                await self._newer(tried.epoch, self._again.next_s())
                await self._pay()
                reason = "repeated"
            else:
                raise Unavailable(
                    f"{self._call} was lost on its way: {error}", executed=error.executed
                )
        except (DeadlineExceeded, Unavailable, Overloaded) as final:
            self.correct(final)
            observer.gave_up(final.code)
            raise
        observer.retried(reason)
        observer.waited(loop.time() - started)

    def correct(self, final: GoverseError) -> None:
        """Let ``final`` speak of all attempts: what is unknown since an earlier one stays so."""
        skipped = final.details.get("status") == "skipped"  # an outcome: it will never run
        if final.executed is Executed.NO and not skipped:
            final.executed = self._executed

    async def _after_not_owner(self, tried: Owner, error: NotOwner) -> None:
        if error.epoch >= tried.epoch:
            await self._newer(error.epoch, self._not_owner.next_s())
        else:
            await self._newer(tried.epoch, self._soon.next_s())
        await self._pay()

    async def _newer(self, floor: Epoch, patience_s: float) -> None:
        """Return when there is an owner above ``floor``; after ``patience_s`` any one will do."""
        now = asyncio.get_running_loop().time()
        if now + patience_s < self._call.deadline:
            try:
                async with asyncio.timeout(patience_s):
                    await self._rules.view.wait_owner(self._call.id, newer_than=floor)
                    return
            except TimeoutError:
                floor = NO_EPOCH
        await self._owner(floor)

    async def _owner(self, floor: Epoch) -> None:
        try:
            async with asyncio.timeout_at(self._call.deadline):
                await self._rules.view.wait_owner(self._call.id, newer_than=floor)
        except TimeoutError:
            raise self._too_late() from None

    async def _pay(self) -> None:
        """One token of the budget, which may have to be waited for."""
        now = asyncio.get_running_loop().time()
        ready_at = self._rules.budget.reserve(now, until=self._call.deadline)
        if ready_at is None:
            raise Unavailable(
                f"{self._call} was refused and cannot be sent again in time: this process "
                "sends too many calls again already",
                executed=Executed.NO,
            )
        if ready_at > now:
            await asyncio.sleep(ready_at - now)

    def _too_late(self) -> DeadlineExceeded:
        view = self._rules.view
        owner = view.owner_of_id(self._call.id)
        if not view.current:
            why = "the coordinator has not been heard for a while"
        elif owner is not None:
            why = f"its owner {owner.member} did not take it"
        elif self._call.id.startswith("node#"):
            why = "the node that it names is not in the cluster"
        elif not view.num_shards:
            why = "the layout of the cluster is not known yet"
        else:
            why = f"shard {view.shard_of(self._call.id)} had no owner"
        return DeadlineExceeded(
            f"{self._call} was not begun before its deadline: {why}", executed=self._executed
        )
