"""What a plan is made from, and what it says. Values only."""

from __future__ import annotations

import enum
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field


class Strategy(enum.Enum):
    """How balance chooses a shard's node among those that accept shards."""

    RENDEZVOUS = "rendezvous"
    """By the names and weights of the nodes alone; what comes and goes moves its own share."""
    COUNT = "count"
    """As many shards for each node as its weight says."""
    LOAD = "load"
    """As much load for each node as its weight says."""


class Cordon(enum.Enum):
    """What an operator has said of a node that is to go on running."""

    CORDONED = "cordoned"
    """It keeps what it has, and takes nothing new."""
    DRAINING = "draining"
    """It gives up what it has, and takes nothing new."""


class Reason(enum.Enum):
    """Why a target changes, most urgent first."""

    FAILOVER = "failover"
    DRAIN = "drain"
    UNCLAIMED = "unclaimed"
    """Its target is there and does not claim it."""
    PIN = "pin"
    FIRST = "first"
    BALANCE = "balance"


class Hold(enum.Enum):
    """Why a shard is not where it should be, and is left there."""

    NO_NODE = "no_node"
    LOADS_UNKNOWN = "loads_unknown"
    """Balance by load has not been told any yet: only what has no node is given one."""
    RESTARTING = "restarting"
    CORDONED = "cordoned"
    """It is on a cordoned node, and balance would have it elsewhere."""
    NOT_STABLE = "not_stable"
    NOT_ALL_ASSIGNED = "not_all_assigned"
    """Some shard has no target that is there: moves for balance wait until all have."""
    COOLDOWN = "cooldown"
    BATCH_LIMIT = "batch_limit"
    RATE_LIMIT = "rate_limit"
    CHANGES_LIMIT = "changes_limit"
    PINNED = "pinned"
    """It is where its pin wants it, and balance would have it elsewhere or is not asked."""
    NOT_CLAIMING = "not_claiming"
    """The node that it should go to does not claim what it is given."""
    PIN_UNAVAILABLE = "pin_unavailable"
    """Its pin names a node that takes no shards; it is where it would be without the pin."""


#: What a plan decided that wants no move for balance; beside the reasons and the holds.
BALANCED = "balanced"


@dataclass(frozen=True, slots=True)
class PlanNode:
    """A node whose key stands.

    :param weight: its share, relative to that of the others.
    :param accepts: False while it leaves.
    :param full: balance by load brings nothing more to it: its memory has no room.
    :param own: load that stays with it whatever moves.
    :param max_new: how many shards it may be given that it does not have.
    :param cordon: keeps new shards from it, as long as there is a node without one.
    """

    name: str
    weight: float = 1.0
    accepts: bool = True
    full: bool = False
    own: float = 0.0
    max_new: int = 1 << 30
    cordon: Cordon | None = None

    @property
    def keeps(self) -> bool:
        """Whether nothing but a pin moves what is on it."""
        return self.accepts and self.cordon is Cordon.CORDONED


@dataclass(frozen=True, slots=True)
class PlanInput:
    """Everything a plan depends on.

    :param targets: target node by shard, None where there is none; as long as there are shards.
    :param claims: name of the node that holds the claim, by shard.
    :param pins: pinned shards.
    :param restarting: names with a standing announcement of a restart; asked for membership only.
    :param stable: whether the nodes have been the same for long enough.
    :param stalled: moving shards that do not get on; they take no place in `max_moves`.
    :param avoided: by shard, nodes that are not to be given it: they did not claim it.
    :param max_moves: shards that may be moving for balance at one time.
    :param max_new_moves: moves for balance that may begin with this plan, by the limit of a rate.
    :param max_changes: longest list of changes.
    :param loads: above 0, by shard; what `Strategy.LOAD` levels. Empty: not known.
    :param threshold: how far from its share, as a part of it, a node may be before `Strategy.COUNT`
        and `Strategy.LOAD` move something.
    :param cooling: shards that moved for balance a short time ago.
    """

    nodes: tuple[PlanNode, ...]
    targets: tuple[str | None, ...]
    claims: tuple[str | None, ...]
    pins: Mapping[int, str] = field(default_factory=dict)
    restarting: Container[str] = ()
    stable: bool = True
    stalled: Container[int] = ()
    avoided: Mapping[int, Container[str]] = field(default_factory=dict)
    max_moves: int = 256
    max_new_moves: int = 65_536
    max_changes: int = 8_128
    strategy: Strategy = Strategy.RENDEZVOUS
    loads: Sequence[float] = ()
    threshold: float = 0.1
    cooling: Container[int] = ()

    @property
    def num_shards(self) -> int:
        return len(self.targets)


@dataclass(frozen=True, slots=True)
class Change:
    shard: int
    node: str
    previous: str | None
    reason: Reason


@dataclass(frozen=True, slots=True)
class Plan:
    """``held`` counts what does not move, by reason, and ``reasons`` has the shards with theirs
    (unless it is the same for all); ``waiting`` are the changes that are wanted and held;
    ``lost_pins`` names the shards whose pinned node takes none."""

    changes: tuple[Change, ...]
    held: Mapping[Hold, int]
    lost_pins: tuple[int, ...]
    reasons: Mapping[int, Hold] = field(default_factory=dict, compare=False)
    waiting: tuple[Change, ...] = field(default=(), compare=False)

    @property
    def balanced(self) -> bool:
        """Whether no move for balance is wanted, now or later."""
        return not {Hold.NO_NODE, Hold.LOADS_UNKNOWN} & self.held.keys() and not any(
            change.reason is Reason.BALANCE
            for changes in (self.changes, self.waiting)
            for change in changes
        )

    @property
    def decisions(self) -> tuple[str, ...]:
        """Every reason for which it moves a shard, or leaves one where it is."""
        acts = dict.fromkeys(change.reason.value for change in self.changes)
        acts |= dict.fromkeys(hold.value for hold in self.held)
        return (*acts, BALANCED) if self.balanced else tuple(acts)
