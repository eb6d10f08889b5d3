"""Opening a shard whose claim stands, for as long as that takes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.aio.seldom import Seldom
from goverse.cluster.claims import ClaimWriter
from goverse.cluster.holdings import Holding
from goverse.cluster.membership import Membership
from goverse.coordination.api import CoordinatorUnavailable
from goverse.errors import FailedPrecondition, Outranked, Unavailable
from goverse.ids import NO_EPOCH, Epoch

log = logging.getLogger(__name__)


class ShardHost(Protocol):
    """Runs the objects of the shards that this node owns. The catalog is one."""

    async def open_shard(self, shard: int, epoch: Epoch, *, released: Epoch = NO_EPOCH) -> None:
        """Begin to serve ``shard``; calls that arrive meanwhile are kept.

        :param released: the epoch right before, if its owner was seen to give it up in an orderly
            way; `NO_EPOCH`: it may have died with turns under way, and others may have followed.
        """
        ...

    async def close_shard(
        self, shard: int, *, drain_timeout_s: float, wanted_s: float = 0.0
    ) -> bool:
        """Let running turns end and stop serving. False: turns ran too long, it is open again.

        :param wanted_s: for how long that has been wanted, by attempts that were called off.
        """
        ...


class Opener:
    """
    :param opening: how many shards are being opened at this moment.
    """

    def __init__(
        self,
        membership: Membership,
        writer: ClaimWriter,
        host: ShardHost,
        runtime: Runtime,
        opening: Callable[[], int],
    ) -> None:
        self._membership = membership
        self._writer = writer
        self._host = host
        self._runtime = runtime
        self._opening = opening
        self._tell = Seldom()

    async def open(self, holding: Holding) -> None:
        """Return once ``holding`` is open. What stands in the way is its ``trouble``."""
        shard, epoch = holding.shard, holding.epoch
        backoff: Backoff | None = None
        while True:
            # A process that was stopped may get the answer to its claim before it learns, from
            # the clock alone, that the lease is over and somebody else has the shard.
            holding.trouble = "the lease may be over"
            if self._membership.valid():
                try:
                    await self._host.open_shard(shard, epoch, released=holding.released)
                    return
                except Outranked as higher:
                    holding.trouble = str(higher)
                    await self._outranked(shard, epoch, higher)
                except Unavailable as error:
                    holding.trouble = str(error)
                    self._tell_waiting(shard, error)
                except Exception as error:
                    holding.trouble = f"{type(error).__qualname__}: {error}"
                    log.exception("shard %d cannot be opened at %s; trying again", shard, epoch)
            backoff = backoff or Backoff(self._runtime.random, max_s=1.0)
            await asyncio.sleep(backoff.next_s())

    def _tell_waiting(self, shard: int, error: Unavailable) -> None:
        """What keeps one shard from being opened keeps thousands: a line for all of them."""
        if self._tell.due():
            log.warning("shard %d waits to be opened, one of %d: %s", shard, self._opening(), error)

    async def _outranked(self, shard: int, epoch: Epoch, higher: Outranked) -> None:
        """The store, or this node itself, has seen a higher epoch. Either somebody else owns the
        shard by now, and the view will show it; or this claim stands, and then it is the
        coordinator that has lost its history: the generation is raised, and everything claimed
        again under it."""
        registration = self._membership.registration
        if registration is None:
            return
        try:
            await self._writer.outrank(registration, shard, epoch, higher.epoch)
        except (FailedPrecondition, CoordinatorUnavailable) as error:
            log.info("shard %d: %s; %s", shard, higher, error)
            return
        if self._membership.registration is registration:
            self._membership.lose(f"the coordinator is behind: {higher}")
