"""What is to be claimed and released, and the one loop that writes it, in batches.

One transaction at a time: every state between two of them can be listed. What a transaction
whose answer was lost has done is learned from the view, not guessed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from itertools import islice
from typing import Protocol

from goverse.aio.backoff import Backoff
from goverse.aio.limits import Limit
from goverse.aio.runtime import Runtime
from goverse.cluster.claims import MAX_CLAIMS, ClaimWriter
from goverse.cluster.membership import Membership
from goverse.cluster.records import Target
from goverse.cluster.registration import Registration
from goverse.cluster.view import ClusterView
from goverse.coordination.api import CoordinatorUnavailable
from goverse.ids import Epoch

log = logging.getLogger(__name__)

_AFTER_FAILED_COMPARE_S = 0.25


class ClaimEvents(Protocol):
    """Told, synchronously, what the transactions did."""

    def claimed(self, shard: int, epoch: Epoch) -> None: ...

    def released(self, shard: int) -> None: ...

    def look_again(self, shard: int, delay_s: float) -> None:
        """This one cannot be written as things are; think about it again a little later."""
        ...


class ClaimQueue:
    """Claims and releases that are due. An entry stays until it is done or forgotten, so that
    what has no answer is written again; both are harmless when repeated."""

    def __init__(
        self,
        view: ClusterView,
        membership: Membership,
        writer: ClaimWriter,
        runtime: Runtime,
        events: ClaimEvents,
    ) -> None:
        self._view = view
        self._membership = membership
        self._writer = writer
        self._events = events
        self._backoff = Backoff(runtime.random)
        #: With the time (running loop's) at which each was asked for.
        self._claims: dict[int, float] = {}
        self._releases: dict[int, int] = {}  # the claim's create_revision by shard
        self._batch = MAX_CLAIMS
        self._trouble = ""  # why the last transaction had no answer
        self._wake = asyncio.Event()

    def claim(self, shard: int) -> None:
        self._claims.setdefault(shard, asyncio.get_running_loop().time())
        self._wake.set()

    def release(self, shard: int, create_revision: int) -> None:
        self._releases[shard] = create_revision
        self._wake.set()

    def forget_claim(self, shard: int) -> float | None:
        """It is claimed; returns when that was asked for, if it was.

        A release of that very claim may be due already: the watch can show a claim, and a move of
        its target, before the answer of the transaction comes.
        """
        return self._claims.pop(shard, None)

    def forget(self, shard: int) -> None:
        """It is done, by whatever way that became known."""
        self._claims.pop(shard, None)
        self._releases.pop(shard, None)

    def why(self, shard: int) -> str:
        """What ``shard`` waits for, which is to be claimed."""
        if shard not in self._claims:
            return "its target tries again in a moment: its claim was refused"
        trouble = f": {self._trouble}" if self._trouble else ""
        return f"its target is to claim it, one of {len(self._claims)}{trouble}"

    def limits(self) -> Iterator[Limit]:
        shards = self._view.num_shards
        yield Limit("ownership.claims_due", len(self._claims), shards)
        yield Limit("ownership.releases_due", len(self._releases), shards)

    def clear_claims(self) -> None:
        self._claims.clear()

    def clear(self) -> None:
        self._claims.clear()
        self._releases.clear()
        self._batch = MAX_CLAIMS

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._write()
                self._trouble = ""
                self._backoff.reset()
            except CoordinatorUnavailable as error:
                self._trouble = str(error)
                log.warning("claims and releases wait: %s", error)
                await asyncio.sleep(self._backoff.next_s())
                self._wake.set()

    async def _write(self) -> None:
        while self._releases or self._claims:
            registration = self._membership.registration
            if registration is None:
                return  # the next registration examines everything anew
            if not self._membership.valid():
                raise CoordinatorUnavailable("the lease may be over")
            # Releases first: somebody waits for each of them.
            if self._releases:
                await self._release_some(registration)
            if self._claims:
                await self._claim_some(registration)

    async def _claim_some(self, registration: Registration) -> None:
        wanted = self._pick(registration)
        if not wanted:
            return
        revision = self._view.state.layout_revision
        result = await self._writer.claim(registration, revision, wanted)
        if self._membership.registration is not registration:
            return  # what was claimed goes with the lease that is lost
        if result.succeeded:
            self._batch = min(MAX_CLAIMS, self._batch * 2)
            epoch = Epoch(registration.layout.generation, result.revision)
            for shard, _ in wanted:
                self._events.claimed(shard, epoch)
            return
        await self._step_back(len(wanted), result.revision)
        shard = wanted[0][0]
        if len(wanted) == 1 and shard in self._claims:
            del self._claims[shard]
            self._events.look_again(shard, _AFTER_FAILED_COMPARE_S)

    def _pick(self, registration: Registration) -> list[tuple[int, Target]]:
        """The next batch: first what callers wait for, then in the order of asking."""
        state = self._view.state
        candidates = dict.fromkeys(s for s in self._view.waiting_shards() if s in self._claims)
        candidates.update(dict.fromkeys(islice(self._claims, self._batch)))
        found: list[tuple[int, Target]] = []
        for shard in candidates:
            target = state.targets.get(shard)
            if target is None or target.node != registration.member.name or shard in state.claims:
                # The view has moved on; it asks again if that changes.
                del self._claims[shard]
            elif len(found) < self._batch:
                found.append((shard, target))
        return found

    async def _release_some(self, registration: Registration) -> None:
        batch = tuple(islice(self._releases.items(), 2 * self._batch))
        result = await self._writer.release(batch)
        if self._membership.registration is not registration:
            return
        if result.succeeded:
            self._batch = min(MAX_CLAIMS, self._batch * 2)
            for shard, revision in batch:
                if self._releases.get(shard) == revision:
                    del self._releases[shard]
                    self._events.released(shard)
            return
        await self._step_back(len(batch), result.revision)
        shard = batch[0][0]
        if len(batch) == 1 and shard in self._releases:
            del self._releases[shard]
            self._events.look_again(shard, _AFTER_FAILED_COMPARE_S)

    async def _step_back(self, size: int, revision: int) -> None:
        """A compare failed: halve the batch, and let the view show why if it can."""
        self._batch = max(1, size // 2)
        await self._view.wait_for(
            lambda: self._view.revision >= revision, timeout_s=_AFTER_FAILED_COMPARE_S
        )
