"""What a shard that does not arrive waits for, whose doing that is, and saying so."""

from __future__ import annotations

import enum
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from goverse.aio.seldom import Seldom

log = logging.getLogger(__name__)

_MAX_NAMED = 10


class Step(enum.Enum):
    """Where a migration hangs, as the view tells it."""

    HANDING_OVER = "handing_over"
    """Its owner has not let go: it drains, flushes, sends state or releases."""
    CLAIMING = "claiming"
    """Nobody has it, and its target does not claim it."""
    NO_TAKER = "no_taker"
    """Its target is not there, or takes no shards."""


@dataclass(frozen=True, slots=True)
class StuckShard:
    """A shard that has not arrived where its target is.

    :param owner: who holds on to it; empty if nobody has claimed it.
    :param age_s: how long it has been on its way, whatever its targets were.
    :param step_s: how long it has been in this step, with this owner and target.
    :param stalled: whether that step alone takes too long: the plan does not wait for it.
    """

    shard: int
    owner: str
    target: str
    age_s: float
    step: Step = Step.HANDING_OVER
    step_s: float = 0.0
    stalled: bool = True

    @property
    def culprit(self) -> str:
        """The node whose turn it is to do something."""
        return self.owner if self.step is Step.HANDING_OVER else self.target

    @property
    def what(self) -> str:
        """What is not done, by whom."""
        if self.step is Step.HANDING_OVER:
            return f"{self.owner} holds on to it"
        if self.step is Step.CLAIMING:
            return f"nobody has claimed it, and {self.target} does not"
        holder = f"{self.owner} keeps it" if self.owner else "nobody has claimed it"
        return f"{holder}, and {self.target} takes no shards"

    def __str__(self) -> str:
        return f"it has been on its way to {self.target} for {self.age_s:.0f} s: {self.what}"


class StuckLog:
    """Says once of each shard that it is stuck, until it has arrived.

    What keeps one shard keeps thousands: those that wait for the same share a line, and there are
    lines once a second.
    """

    def __init__(self) -> None:
        self._told: frozenset[int] = frozenset()
        self._due = Seldom()

    def tell(self, stuck: Sequence[StuckShard]) -> bool:
        """False: there is more to say, a second from now."""
        told = self._told & {shard.shard for shard in stuck}
        fresh = [shard for shard in stuck if shard.shard not in told]
        if fresh and not self._due.due():
            self._told = told
            return False
        groups: dict[tuple[Step, str, str], list[StuckShard]] = {}
        for shard in fresh:
            groups.setdefault((shard.step, shard.owner, shard.target), []).append(shard)
        for (step, owner, target), shards in groups.items():
            named = ", ".join(str(shard.shard) for shard in shards[:_MAX_NAMED])
            log.error(
                "%s %s%s stuck, step %s, at %s: on the way from %s to %s for %.0f s",
                "shard" if len(shards) == 1 else f"{len(shards)} shards",
                named,
                " is" if len(shards) == 1 else ", ... are" if len(shards) > _MAX_NAMED else " are",
                step.value,
                shards[0].culprit,
                owner or "nobody",
                target,
                max(shard.age_s for shard in shards),
            )
        self._told = told | {shard.shard for shard in fresh}
        return True
