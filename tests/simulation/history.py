"""What really happened in a run: which turns began and ended where, what callers were told.

The recorder stands outside of the cluster: it sees turns of nodes that nobody listens to any
more, and it knows the coordinator's truth at every moment. The checks of `invariants` are made
of nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from goverse.ids import NO_EPOCH, Epoch

#: One history per simulated world, and a world is a loop.
_histories: dict[asyncio.AbstractEventLoop, History] = {}


def current_history() -> History:
    """The history of the running loop; the application's methods find it here."""
    return _histories[asyncio.get_running_loop()]


@contextmanager
def recording(history: History) -> Iterator[None]:
    """Make ``history`` the one of the running loop. It refers to the loop: it must be let go."""
    loop = asyncio.get_running_loop()
    _histories[loop] = history
    try:
        yield
    finally:
        # What the frames of dead processes say while they are thrown away is void.
        history.closed = True
        del _histories[loop]


@dataclass
class Turn:
    """One execution of a method, as its body saw it.

    ``claimed_at_begin`` and ``claimed_at_end``: whether the coordinator really held the node's
    claim of this epoch then.
    """

    token: str
    object: str
    activation: int
    node: str
    epoch: Epoch
    exclusive: bool
    began: float
    claimed_at_begin: bool
    ended: float | None = None
    claimed_at_end: bool = False
    how: str = "running"


@dataclass
class CallRecord:
    """One call, as its caller saw it. ``count`` and ``activation`` come from the answer."""

    token: str
    object: str
    caller: str
    read_only: bool
    sent: float
    deadline: float
    ended: float | None = None
    outcome: str = "waiting"
    executed: str = ""
    detail: str = ""
    activation: int = 0
    count: int = 0
    epoch: Epoch = NO_EPOCH
    counts: bool = True
    """Whether the answer carried the three above."""


@dataclass(frozen=True)
class Heard:
    """One pushed message, as a client got it. ``client`` is the id that it was pushed to."""

    token: str
    client: str
    activation: int
    count: int


@dataclass
class History:
    """Everything recorded in one run.

    :param on_cancelled: is told of a call that its caller has given up.
    :param now: virtual time. :param process: name of the running simulated process.
    :param claimed: whether this process holds this object's claim of this epoch, in truth.
    :param record: feeds the trace.
    """

    now: Callable[[], float]
    process: Callable[[], str]
    claimed: Callable[[str, str, Epoch], bool]
    record: Callable[[str], None]
    on_cancelled: Callable[[CallRecord], None] = lambda call: None
    turns: list[Turn] = field(default_factory=list)
    by_token: dict[str, list[Turn]] = field(default_factory=dict)
    calls: dict[str, CallRecord] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    _running: dict[int, dict[int, Turn]] = field(default_factory=dict)
    _activations: int = 0
    closed: bool = False

    def violate(self, invariant: str, text: str) -> None:
        self.violations.append(f"{invariant}: {text}")

    # -- turns ----------------------------------------------------------------------------------

    def new_activation(self) -> int:
        self._activations += 1
        return self._activations

    def begin_turn(
        self, token: str, object: str, activation: int, epoch: Epoch, *, exclusive: bool
    ) -> Turn:
        node = self.process()
        claimed = self.claimed(node, object, epoch)
        turn = Turn(token, object, activation, node, epoch, exclusive, self.now(), claimed)
        self.record(f"turn {token} {object} #{activation} {node} {epoch}")
        others = self._running.setdefault(activation, {})
        for other in others.values():
            if exclusive or other.exclusive:
                self.violate("I1", f"turns {other.token} and {token} overlap on {object}")
        if not claimed:
            self.violate("I1", f"turn {token} of {object} began on {node} without its claim")
        others[id(turn)] = turn
        self.turns.append(turn)
        self.by_token.setdefault(token, []).append(turn)
        return turn

    def end_turn(self, turn: Turn, how: str) -> None:
        if self.closed or turn.how == "killed":
            return
        turn.ended = self.now()
        turn.how = how
        turn.claimed_at_end = self.claimed(turn.node, turn.object, turn.epoch)
        self._running[turn.activation].pop(id(turn), None)
        self.record(f"turn {turn.token} {how}")

    def forget_process(self, name: str) -> None:
        """A killed process runs no turn any more."""
        for turns in self._running.values():
            for key, turn in list(turns.items()):
                if turn.node == name:
                    turn.how, turn.ended = "killed", self.now()
                    turns.pop(key)

    def running(self) -> list[Turn]:
        return [turn for turns in self._running.values() for turn in turns.values()]

    def reply_left(self, token: str, object: str) -> None:
        """A node's catalog has just let a reply go."""
        node = self.process()
        for turn in reversed(self.by_token.get(token, ())):
            if turn.node == node:
                if not self.claimed(node, object, turn.epoch):
                    self.violate("I1", f"the reply of {token} left {node} after its claim had gone")
                return

    # -- pushes ---------------------------------------------------------------------------------

    def got(self, message: Heard) -> None:
        """A client has got a message."""
        if not self.closed:
            self.heard.append(message)
            self.record(f"heard {message.token} #{message.activation} {message.count}")

    # -- calls ----------------------------------------------------------------------------------

    def begin_call(self, call: CallRecord) -> CallRecord:
        self.calls[call.token] = call
        return call

    def end_call(
        self, call: CallRecord, outcome: str, executed: str = "", detail: str = ""
    ) -> None:
        if self.closed:
            return
        call.ended = self.now()
        call.outcome, call.executed, call.detail = outcome, executed, detail
        self.record(f"call {call.token} {outcome} {executed} #{call.activation} {call.count}")
        if outcome == "cancelled":
            self.on_cancelled(call)
