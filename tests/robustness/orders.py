"""The orders of a history: of an account's turns, of what was answered, of what was delivered."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import accumulate

from tests.robustness.model import (
    OUTCOMES,
    SUCCESS,
    Attempt,
    Final,
    History,
    Key,
    Merge,
    Row,
    Step,
    key_of,
)

#: A step of an account: 0 for its reliable calls, 1 for its plain ones, and its number among them.
Place = tuple[int, int]


def orders_kept(history: History, final: Final, heard: Mapping[str, list[Key]]) -> Iterator[str]:
    """Each account did its calls in the order of the ledger, and nobody saw another order.

    :param heard: what the auditor heard of each account, in order.
    """
    attempts: dict[str, list[Attempt]] = {}
    sent: dict[int, float] = {}
    for attempt in history.attempts:
        op = attempt.op
        attempts.setdefault(op.account, []).append(attempt)
        sent[op.amount] = min(attempt.began, sent.get(op.amount, attempt.began))
    for account in sorted(final.balances):
        order = Order(account, final.of("Account", account), heard.get(account, []))
        yield from order.problems(attempts.get(account, []), sent)


def deliveries_in_order(final: Final, heard: Mapping[str, list[Key]]) -> Iterator[str]:
    """What one account sends to another arrives in the order in which it was sent."""
    source_of = {key[2]: key[0] for keys in heard.values() for key in keys if key[1]}
    for account in sorted(final.balances):
        arrived: dict[str, list[int]] = {}
        for row in final.of("Account", account):
            if row.method == "receive":
                amount = row.arguments["amount"]
                arrived.setdefault(source_of.get(amount, "nobody"), []).append(amount)
        for source, amounts in sorted(arrived.items()):
            sent = [key[2] for key in heard.get(source, []) if key[1] == account]
            if amounts != sent:
                yield f"what {source} sent to {account} arrived in another order, or not at all"


class Order:
    """The order of one account's turns.

    :param ledger: its reliable calls in order. :param heard: its deposits and transfers with
        effect, plain and reliable, in order.
    """

    def __init__(self, account: str, ledger: list[Row], heard: list[Key]) -> None:
        self._account = account
        self._ledger = ledger
        #: Position in the ledger of what the auditor heard of.
        self._in_ledger = {
            (account, row.arguments.get("to", ""), row.arguments["amount"]): number
            for number, row in enumerate(ledger)
            if row.method != "receive" and row.status == SUCCESS
        }
        self._heard = heard
        self._plain = [key for key in heard if key not in self._in_ledger]

    def problems(self, attempts: list[Attempt], sent: Mapping[int, float]) -> Iterator[str]:
        """:param sent: when each amount was first asked for, by anybody."""
        reliable = [self._in_ledger[key] for key in self._heard if key in self._in_ledger]
        if reliable != sorted(reliable):
            yield f"{self._account}: the order of effects is not the order of the ledger"
            return
        began, ended = self._times(attempts, sent)
        for kind in (0, 1):
            places = sorted(place for place in began if place[0] == kind)
            yield from self._later_first(places, began, ended)
        merge = self._merge(attempts, began, ended)
        if not merge.possible:
            done, plain = merge.furthest
            yield (
                f"{self._account}: the balances that were told fit no order; stuck at "
                f"{merge.balance(merge.furthest)} before {merge.reliable[done : done + 1]} or "
                f"{merge.plain[plain : plain + 1]}"
            )
            return
        yield from self._reads(attempts, merge, _Bounds(began), _Bounds(ended))

    def _times(
        self, attempts: list[Attempt], sent: Mapping[int, float]
    ) -> tuple[dict[Place, float], dict[Place, float]]:
        """When each step was first asked for, and when its outcome was first told."""
        ledger = {row.call_id: number for number, row in enumerate(self._ledger)}
        plain = {key: number for number, key in enumerate(self._plain)}
        # What others have sent cannot arrive before they were asked to send it.
        began: dict[Place, float] = {
            (0, number): sent.get(row.arguments["amount"], 0.0)
            for number, row in enumerate(self._ledger)
            if row.method == "receive"
        }
        ended: dict[Place, float] = {}
        for attempt in attempts:
            op = attempt.op
            number = ledger.get(op.call_id) if op.call_id else plain.get(key_of(op))
            if number is None:
                continue
            place = (0 if op.call_id else 1, number)
            began[place] = min(attempt.began, began.get(place, attempt.began))
            if attempt.told in OUTCOMES:
                ended[place] = min(attempt.ended, ended.get(place, attempt.ended))
        return began, ended

    def _later_first(
        self, places: list[Place], began: Mapping[Place, float], ended: Mapping[Place, float]
    ) -> Iterator[str]:
        """What was answered before another call began comes before it."""
        latest = 0.0
        for place in places:
            if ended.get(place, latest) < latest:
                yield (
                    f"{self._account}: {self._name(place)} was answered before a call began that "
                    "comes before it in the order of effects"
                )
            latest = max(latest, began[place])

    def _name(self, place: Place) -> str:
        kind, number = place
        return f"plain {self._plain[number]}" if kind else self._ledger[number].call_id

    def _merge(
        self, attempts: list[Attempt], began: Mapping[Place, float], ended: Mapping[Place, float]
    ) -> Merge:
        answers = {key_of(a.op): a.value for a in attempts if a.told == SUCCESS}
        done = _Bounds(ended)
        reliable = [
            replace(_reliable_step(row), behind=done.last_before(began.get((0, n), 0.0))[1])
            for n, row in enumerate(self._ledger)
        ]
        plain = [
            replace(
                _plain_step(key, answers.get(key)),
                behind=done.last_before(began.get((1, n), 0.0))[0],
            )
            for n, key in enumerate(self._plain)
        ]
        return Merge(reliable, plain, self._ties())

    def _ties(self) -> dict[int, int]:
        """How many plain effects come before each reliable one."""
        ties, plain = {}, 0
        for key in self._heard:
            if key in self._in_ledger:
                ties[self._in_ledger[key]] = plain
            else:
                plain += 1
        return ties

    def _reads(
        self, attempts: list[Attempt], merge: Merge, began: _Bounds, ended: _Bounds
    ) -> Iterator[str]:
        """Each balance that was told was one between the asking and the answer."""
        by_done: dict[int, list[int]] = {}
        for done, plain in merge.pairs:
            by_done.setdefault(done, []).append(plain)
        size = (len(merge.reliable), len(merge.plain))
        for read in attempts:
            if read.op.kind != "get_balance" or read.told != SUCCESS:
                continue
            low = ended.last_before(read.began)
            high = began.first_after(read.ended, size)
            seen = any(
                merge.balance((done, plain)) == read.value
                for done in range(low[0], high[0] + 1)
                for plain in by_done.get(done, ())
                if low[1] <= plain <= high[1]
            )
            if not seen:
                yield (
                    f"{self._account} told {read.caller} a balance of {read.value} that it never "
                    f"had between {read.began:.3f} and {read.ended:.3f}"
                )


class _Bounds:
    """How far each of the two orders is certainly done, or can be, by the times of their steps."""

    def __init__(self, times: Mapping[Place, float]) -> None:
        self._times: list[list[float]] = []
        self._highest: list[list[int]] = []
        self._lowest: list[list[int]] = []
        for kind in (0, 1):
            found = sorted((time, place[1]) for place, time in times.items() if place[0] == kind)
            numbers = [number for _, number in found]
            self._times.append([time for time, _ in found])
            self._highest.append(list(accumulate(numbers, max)))
            self._lowest.append(_from_behind(numbers))

    def last_before(self, moment: float) -> Place:
        """How many steps of each order are certainly done, if these are the times of answers."""
        first, second = (self._done(kind, moment) for kind in (0, 1))
        return first, second

    def _done(self, kind: int, moment: float) -> int:
        count = bisect_left(self._times[kind], moment)
        return self._highest[kind][count - 1] + 1 if count else 0

    def first_after(self, moment: float, size: Place) -> Place:
        """How many can be done, if these are the times of asking, of ``size`` in all."""
        first, second = (self._possible(kind, moment, size[kind]) for kind in (0, 1))
        return first, second

    def _possible(self, kind: int, moment: float, size: int) -> int:
        count = bisect_left(self._times[kind], moment)
        return self._lowest[kind][count] if count < len(self._lowest[kind]) else size


def _from_behind(numbers: Iterable[int]) -> list[int]:
    """The lowest of each number and those behind it."""
    return list(accumulate(reversed(list(numbers)), min))[::-1]


def _reliable_step(row: Row) -> Step:
    if row.status != SUCCESS:
        match row.value:
            case ("no_money", {"missing": missing}):
                return Step(row.call_id, 0, before=row.arguments["amount"] - missing)
        return Step(row.call_id, 0)
    amount = row.arguments["amount"]
    if row.method == "receive":
        return Step(row.call_id, amount)
    change = amount if row.method == "deposit" else -amount
    return Step(row.call_id, change, before=row.value - change, at_least=max(0, -change))


def _plain_step(key: Key, answer: int | None) -> Step:
    _, to, amount = key
    change = -amount if to else amount
    before = None if answer is None else answer - change
    return Step(f"plain {key}", change, before=before, at_least=max(0, -change))
