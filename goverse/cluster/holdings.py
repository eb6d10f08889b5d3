"""What a node should do about one shard. Pure: the state machine and its transitions.

::

                claimed, or seen as mine        open_shard           target moved, and can take it
    (none) ───────────────────────────> OPENING ────────> OPEN ──────────────────────> CLOSING
      ^                                                     ^                           │   │
      │                                                     └── turns ran too long ─────┘   │ closed
      │        gone from the view            deleted                                        v
      └───────────────────────── RELEASED <───────────────────────────────────────── RELEASING

From RELEASING on the shard is never opened under this claim again: a delete may be on its way.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Container
from dataclasses import dataclass

from goverse.cluster.records import Claim
from goverse.ids import NO_EPOCH, Epoch, MemberId


class HoldingState(enum.Enum):
    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    RELEASING = "releasing"
    RELEASED = "released"


_ALLOWED = {
    HoldingState.OPENING: (HoldingState.OPEN,),
    HoldingState.OPEN: (HoldingState.CLOSING,),
    HoldingState.CLOSING: (HoldingState.OPEN, HoldingState.RELEASING),
    HoldingState.RELEASING: (HoldingState.RELEASED,),
    HoldingState.RELEASED: (),
}


@dataclass(slots=True, eq=False)
class Holding:
    """One claim of this member. ``epoch.revision`` is the claim's ``create_revision``.

    ``released``: the epoch before it, if that was certainly given up in an orderly way.
    """

    shard: int
    epoch: Epoch
    state: HoldingState = HoldingState.OPENING
    released: Epoch = NO_EPOCH
    task: asyncio.Task[None] | None = None
    called_off: int = 0  # moves that were given up because turns ran too long
    since: float = 0.0  # running loop's time at which it came into its state
    trouble: str = ""  # why it could not be opened, the last time
    close_after: float = 0.0  # running loop's time before which no other attempt is made
    wanted_at: float | None = None  # when it was first to be closed; None: it belongs here

    def wanted_s(self, now: float) -> float:
        """For how long it has been wanted elsewhere, attempts that were called off included."""
        return now - self.wanted_at if self.wanted_at is not None else 0.0

    def become(self, state: HoldingState) -> None:
        if state not in _ALLOWED[self.state]:
            raise RuntimeError(f"shard {self.shard} is {self.state.value}, not {state.value}")
        self.state = state


class Action(enum.Enum):
    NOTHING = "nothing"
    CLAIM = "claim"
    ADOPT = "adopt"
    """A claim of mine stands and is not open: its answer was lost. Open it."""
    RELEASE = "release"
    """The same, but the shard belongs elsewhere by now."""
    CLOSE = "close"
    FORGET = "forget"
    """A claim that was given up is gone."""
    LOST = "lost"
    """A claim that was not given up is gone: the lease cannot be trusted."""


@dataclass(frozen=True, slots=True)
class Here:
    """This node at one step of the view.

    :param revision: how far the view has come.
    :param claiming: whether this node takes shards; not while it leaves.
    :param closing: whether it closes all it has.
    :param accepting: nodes that take shards.
    """

    member: MemberId
    revision: int
    claiming: bool
    closing: bool
    accepting: Container[str]


def decide(holding: Holding | None, claim: Claim | None, target: str | None, here: Here) -> Action:
    """What to do about a shard, given what is held, and what the view shows."""
    mine = target == here.member.name
    if holding is None:
        if claim is None:
            return Action.CLAIM if mine and here.claiming else Action.NOTHING
        if claim.member != here.member:
            return Action.NOTHING
        return Action.ADOPT if mine and here.claiming else Action.RELEASE
    claimed_at = holding.epoch.revision
    # Before that revision the view's silence means nothing.
    if here.revision >= claimed_at and (claim is None or claim.create_revision != claimed_at):
        given_up = holding.state in (HoldingState.RELEASING, HoldingState.RELEASED)
        return Action.FORGET if given_up else Action.LOST
    if holding.state is HoldingState.OPEN and (
        here.closing or (target is not None and not mine and target in here.accepting)
    ):
        return Action.CLOSE
    return Action.NOTHING
