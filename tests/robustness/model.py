"""What callers did and were told, what the database holds at the end, and how an account behaves.

Each deposit and transfer has an amount of its own, so that its effect is recognised wherever it
shows: in the ledger, in what the auditor heard, and in every balance after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

#: What an attempt was told. SUCCESS and FAILED are outcomes of the call; NO says that it was not
#: executed, UNKNOWN that nobody knows.
SUCCESS, FAILED, NO, UNKNOWN = "success", "failed", "no", "unknown"
OUTCOMES = (SUCCESS, FAILED)


@dataclass(frozen=True)
class Op:
    """One thing that is to happen once. Without a ``call_id`` it is a plain call."""

    kind: str  # deposit, transfer, get_balance
    account: str
    amount: int = 0
    to: str = ""
    call_id: str = ""

    @property
    def arguments(self) -> dict[str, Any]:
        if self.kind == "deposit":
            return {"amount": self.amount}
        return {"to": self.to, "amount": self.amount} if self.kind == "transfer" else {}


#: Account, to whom ("" for a deposit) and amount: what is unique to a deposit or transfer.
Key = tuple[str, str, int]


def key_of(op: Op) -> Key:
    return (op.account, op.to, op.amount)


@dataclass(frozen=True)
class Attempt:
    """One time that somebody asked, and what was answered. Times are seconds of one clock.

    :param value: a result; of a failure its code and details.
    """

    op: Op
    caller: str
    gate: str
    began: float
    ended: float
    told: str
    value: Any = None
    error: str = ""


@dataclass(frozen=True)
class LookUp:
    """What a look-up of a call id answered: an outcome, ``pending`` or ``unknown``."""

    call_id: str
    asked: float
    told: str
    value: Any = None


@dataclass
class History:
    attempts: list[Attempt] = field(default_factory=list)
    look_ups: list[LookUp] = field(default_factory=list)

    def by_op(self) -> dict[Op, list[Attempt]]:
        found: dict[Op, list[Attempt]] = {}
        for attempt in self.attempts:
            found.setdefault(attempt.op, []).append(attempt)
        return found


@dataclass(frozen=True)
class Row:
    """One row of the ledger."""

    call_id: str
    seq: int
    status: str
    type: str
    id: str
    method: str
    arguments: Mapping[str, Any]
    value: Any = None  # as of `Attempt`
    parent: str = ""


@dataclass(frozen=True)
class Final:
    """What is there when all is at rest."""

    rows: tuple[Row, ...]
    balances: Mapping[str, int]  # in the database
    answered: Mapping[str, int]  # by the accounts themselves
    paid_in: int
    expected: Mapping[str, int]  # by the auditor
    outbox: int = 0
    parked: int = 0

    def of(self, type: str, id: str) -> list[Row]:
        """In the order of the ledger."""
        found = [row for row in self.rows if (row.type, row.id) == (type, id)]
        return sorted(found, key=lambda row: row.seq)


@dataclass(frozen=True)
class Step:
    """One thing that an account did.

    :param change: of the balance. :param before: the balance before it, if that is known.
    :param at_least: what it must be before it. :param behind: how many steps of the other order
        were answered before this one was asked for.
    """

    name: str
    change: int
    before: int | None = None
    at_least: int = 0
    behind: int = 0


class Merge:
    """All ways in which two orders of steps can be one: which pairs (steps of the first done, steps
    of the second done) can be passed on a way from the beginning to the end.

    The first are an account's reliable calls in the order of the ledger, the second its plain ones
    in the order in which the auditor heard of them. The balance at a pair does not depend on the
    way, so that it is a question of reaching pairs. ``after`` ties them: how many plain ones come
    before a reliable call that the auditor heard of, too.
    """

    def __init__(self, reliable: list[Step], plain: list[Step], after: Mapping[int, int]) -> None:
        self.reliable, self.plain = reliable, plain
        self._after = after
        self._sums = [0]
        for step in reliable:
            self._sums.append(self._sums[-1] + step.change)
        self._plain_sums = [0]
        for step in plain:
            self._plain_sums.append(self._plain_sums[-1] + step.change)
        self.furthest = (0, 0)
        self.pairs = self._passed()

    def balance(self, pair: tuple[int, int]) -> int:
        return self._sums[pair[0]] + self._plain_sums[pair[1]]

    @property
    def possible(self) -> bool:
        return (len(self.reliable), len(self.plain)) in self.pairs

    def _allowed(self, pair: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Pairs that follow it directly."""
        done, plain = pair
        balance = self.balance(pair)
        in_place = self._after.get(done, plain) == plain
        if in_place and _fits(self.reliable[done : done + 1], balance, plain):
            yield done + 1, plain
        if _fits(self.plain[plain : plain + 1], balance, done):
            yield done, plain + 1

    def _passed(self) -> set[tuple[int, int]]:
        end = (len(self.reliable), len(self.plain))
        reached: dict[tuple[int, int], list[tuple[int, int]]] = {(0, 0): []}
        layer = [(0, 0)]
        while layer:
            following: dict[tuple[int, int], None] = {}
            for pair in layer:
                for successor in self._allowed(pair):
                    reached.setdefault(successor, []).append(pair)
                    following[successor] = None
            layer = list(following)
        self.furthest = max(reached, key=sum)
        passed = {end} if end in reached else set()
        todo = list(passed)
        while todo:
            for before in reached[todo.pop()]:
                if before not in passed:
                    passed.add(before)
                    todo.append(before)
        return passed


def _fits(following: list[Step], balance: int, others: int) -> bool:
    """:param following: the next step, if there is one. :param others: done, of the other order."""
    return any(
        balance >= step.at_least and step.before in (None, balance) and others >= step.behind
        for step in following
    )
