"""What must hold of every history: pure functions that return the sentences that are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.robustness.model import (
    FAILED,
    NO,
    OUTCOMES,
    SUCCESS,
    Attempt,
    Final,
    History,
    Merge,
    Op,
    Row,
    Step,
)

AUDITOR = ("Auditor", "main")


def violations(history: History, final: Final) -> list[str]:
    """Everything that is wrong; empty if the promises were kept."""
    effects = Effects.of(final)
    return [
        *at_rest(final),
        *one_outcome(history, final),
        *told_the_truth(history, final, effects),
        *money_conserved(final, effects),
        *orders_kept(history, final, effects),
    ]


@dataclass(frozen=True)
class Effects:
    """What took effect, as the auditor heard of it: by (account, to, amount), each in its place."""

    count: Counter[tuple[str, str, int]]
    #: By account, in the order of its turns: deposits and transfers.
    by_account: dict[str, list[tuple[str, str, int]]]
    children: Counter[str]

    @classmethod
    def of(cls, final: Final) -> Effects:
        count: Counter[tuple[str, str, int]] = Counter()
        by_account: dict[str, list[tuple[str, str, int]]] = {}
        for row in final.of(*AUDITOR):
            if row.status != SUCCESS:
                continue
            told = row.arguments
            account = told["account"] if row.method == "note_deposit" else told["source"]
            key = (account, told.get("target", ""), told["amount"])
            count[key] += 1
            by_account.setdefault(account, []).append(key)
        return cls(count, by_account, Counter(row.parent for row in final.rows if row.parent))

    def had(self, op: Op) -> bool:
        return self.count[_key(op)] > 0


def _key(op: Op) -> tuple[str, str, int]:
    return (op.account, op.to, op.amount)


def at_rest(final: Final) -> Iterator[str]:
    """Nothing is pending, on its way, or parked; what turns issued has succeeded."""
    states = Counter(row.status for row in final.rows)
    for status, number in sorted(states.items()):
        if status not in OUTCOMES:
            yield f"{number} calls are {status} when all should be at rest"
    if final.outbox:
        yield f"{final.outbox} outbox rows are left"
    if final.parked:
        yield f"{final.parked} calls or deliveries are parked"
    for row in final.rows:
        if row.call_id.startswith("~") and row.status != SUCCESS:
            yield f"{row.call_id} {row.type}.{row.method}, issued by a turn, is {row.status}"


def one_outcome(history: History, final: Final) -> Iterator[str]:
    """All who asked for a call id were told what the ledger says."""
    rows = {row.call_id: row for row in final.rows}
    for attempt in history.attempts:
        if not attempt.op.call_id or attempt.told not in OUTCOMES:
            continue
        row = rows.get(attempt.op.call_id)
        if row is None:
            yield f"{attempt.op} was told {attempt.told}, and the ledger does not know it"
        elif (row.status, row.value) != (attempt.told, attempt.value):
            yield (
                f"{attempt.op} was told {attempt.told} {attempt.value!r} by {attempt.gate}, and "
                f"the ledger says {row.status} {row.value!r}"
            )
    for look_up in history.look_ups:
        row = rows.get(look_up.call_id)
        if look_up.told in OUTCOMES:
            if row is None or (row.status, row.value) != (look_up.told, look_up.value):
                yield f"a look-up of {look_up.call_id} said {look_up.told} {look_up.value!r}: {row}"
        elif look_up.told == "pending" and row is None:
            yield f"a look-up of {look_up.call_id} said pending, and the ledger does not know it"


def told_the_truth(history: History, final: Final, effects: Effects) -> Iterator[str]:
    """Success has an effect; failure and "not executed" have none; nothing has two."""
    known = {row.call_id: row for row in final.rows}
    for op, attempts in history.by_op().items():
        if op.kind == "get_balance":
            continue
        had = effects.had(op)
        told = {attempt.told for attempt in attempts}
        if SUCCESS in told and not had:
            yield f"{op} was told success and has no effect"
        if FAILED in told and had:
            yield f"{op} was told that it failed and has an effect"
        if told == {NO}:
            if had:
                yield f"{op} was told that it was not executed and has an effect"
            if (row := known.get(op.call_id)) is not None and op.call_id:
                yield f"{op} was told that it was not executed, and the ledger says {row.status}"
    for key, number in effects.count.items():
        if number > 1:
            yield f"{key} took effect {number} times"
    for row in final.rows:
        if row.call_id.startswith("~"):
            continue
        issued = {"deposit": 1, "transfer": 2}[row.method] if row.status == SUCCESS else 0
        if effects.children[row.call_id] != issued:
            yield f"{row} issued {effects.children[row.call_id]} calls and should have {issued}"


def money_conserved(final: Final, effects: Effects) -> Iterator[str]:
    """Each account has what its effects add up to, and all together what was paid in."""
    sums: Counter[str] = Counter()
    paid_in = 0
    for (account, to, amount), number in effects.count.items():
        if to:
            sums[account] -= amount * number
            sums[to] += amount * number
        else:
            sums[account] += amount * number
            paid_in += amount * number
    for account in sorted({*sums, *final.balances, *final.expected}):
        has = final.balances.get(account, 0)
        for what, number in (
            ("its effects add up to", sums[account]),
            ("the auditor expects", final.expected.get(account, 0)),
            ("the account says", final.answered.get(account, 0)),
        ):
            if has != number:
                yield f"{account} has {has} in the database, and {what} {number}"
    if paid_in != final.paid_in or sum(final.balances.values()) != paid_in:
        total = sum(final.balances.values())
        yield f"{paid_in} was paid in, the auditor says {final.paid_in}, the accounts have {total}"


def orders_kept(history: History, final: Final, effects: Effects) -> Iterator[str]:
    """Each account did its calls in the order of the ledger, and nobody saw another order."""
    attempts: dict[str, list[Attempt]] = {}
    sent: dict[int, float] = {}
    for attempt in history.attempts:
        attempts.setdefault(attempt.op.account, []).append(attempt)
        sent[attempt.op.amount] = min(attempt.began, sent.get(attempt.op.amount, attempt.began))
    for account in sorted(final.balances):
        ledger = final.of("Account", account)
        order = _Order(account, ledger, effects.by_account.get(account, []), sent)
        yield from order.problems(attempts.get(account, []))


class _Order:
    """The order of one account's turns.

    :param heard: what the auditor heard of it. :param sent: when each amount was first asked for.
    """

    def __init__(
        self,
        account: str,
        ledger: list[Row],
        heard: list[tuple[str, str, int]],
        sent: dict[int, float],
    ) -> None:
        self._account = account
        self._sent = sent
        self._ledger = ledger
        #: Position in the ledger of what the auditor heard of.
        self._in_ledger = {
            (account, row.arguments.get("to", ""), row.arguments["amount"]): number
            for number, row in enumerate(ledger)
            if row.method != "receive" and row.status == SUCCESS
        }
        self._heard = heard
        self._plain = [key for key in heard if key not in self._in_ledger]

    def problems(self, attempts: list[Attempt]) -> Iterator[str]:
        reliable = [self._in_ledger[key] for key in self._heard if key in self._in_ledger]
        if reliable != sorted(reliable):
            yield f"{self._account}: the order of effects is not the order of the ledger"
            return
        answers = {
            _key(a.op): a.value
            for a in attempts
            if a.told == SUCCESS and a.op.kind != "get_balance"
        }
        merge = Merge(
            [_reliable_step(row) for row in self._ledger],
            [_plain_step(key, answers.get(key)) for key in self._plain],
            self._ties(),
        )
        if not merge.possible:
            done, plain = merge.furthest
            yield (
                f"{self._account}: the balances that were told fit no order; stuck at "
                f"{merge.balance(merge.furthest)} before {merge.reliable[done : done + 1]} or "
                f"{merge.plain[plain : plain + 1]}"
            )
            return
        yield from self._real_time(attempts, merge)

    def _ties(self) -> dict[int, int]:
        """How many plain effects come before each reliable one."""
        ties, plain = {}, 0
        for key in self._heard:
            if key in self._in_ledger:
                ties[self._in_ledger[key]] = plain
            else:
                plain += 1
        return ties

    def _real_time(self, attempts: list[Attempt], merge: Merge) -> Iterator[str]:
        """What was answered before another call began comes before it."""
        number = {row.call_id: n for n, row in enumerate(self._ledger)}
        plain = {key: n for n, key in enumerate(self._plain)}
        # What others have sent cannot arrive before they were asked to send it.
        began = {
            (0, n): self._sent.get(row.arguments["amount"], 0.0)
            for n, row in enumerate(self._ledger)
            if row.method == "receive"
        }
        ended: dict[tuple[int, int], float] = {}
        for attempt in attempts:
            place = _place(attempt.op, number, plain)
            if place is None:
                continue
            began[place] = min(attempt.began, began.get(place, attempt.began))
            if attempt.told in OUTCOMES:
                ended[place] = min(attempt.ended, ended.get(place, attempt.ended))
        for kind in (0, 1):
            places = sorted(place for place in began if place[0] == kind)
            yield from self._later_first(places, began, ended)
        yield from self._reads(attempts, merge, began, ended)

    def _later_first(
        self,
        places: list[tuple[int, int]],
        began: dict[tuple[int, int], float],
        ended: dict[tuple[int, int], float],
    ) -> Iterator[str]:
        latest = 0.0
        for place in places:
            if ended.get(place, latest) < latest:
                yield (
                    f"{self._account}: step {place} was answered before a step began that comes "
                    "before it in the order of effects"
                )
            latest = max(latest, began[place])

    def _reads(
        self,
        attempts: list[Attempt],
        merge: Merge,
        began: dict[tuple[int, int], float],
        ended: dict[tuple[int, int], float],
    ) -> Iterator[str]:
        reads = [a for a in attempts if a.op.kind == "get_balance" and a.told == SUCCESS]
        if not reads:
            return
        floor, ceiling = _Bounds(ended), _Bounds(began)
        by_done: dict[int, list[int]] = {}
        for done, plain in merge.pairs:
            by_done.setdefault(done, []).append(plain)
        size = (len(merge.reliable), len(merge.plain))
        for read in sorted(reads, key=lambda attempt: attempt.ended):
            low = floor.last_before(read.began)
            high = ceiling.first_after(read.ended, size)
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
    """Places by time, for each of the two orders."""

    def __init__(self, times: dict[tuple[int, int], float]) -> None:
        self._by_kind = [
            sorted((time, place[1]) for place, time in times.items() if place[0] == kind)
            for kind in (0, 1)
        ]
        self._highest = [_running([n for _, n in each], max) for each in self._by_kind]
        self._lowest = [
            _running([n for _, n in reversed(each)], min)[::-1] for each in self._by_kind
        ]

    def last_before(self, moment: float) -> tuple[int, int]:
        """How many steps of each order are certainly done."""
        found = []
        for times, highest in zip(self._by_kind, self._highest, strict=True):
            count = _count_before(times, moment)
            found.append(highest[count - 1] + 1 if count else 0)
        return found[0], found[1]

    def first_after(self, moment: float, size: tuple[int, int]) -> tuple[int, int]:
        """How many steps of each order can be done."""
        found = []
        for kind, times in enumerate(self._by_kind):
            count = _count_before(times, moment)
            found.append(self._lowest[kind][count] if count < len(times) else size[kind])
        return found[0], found[1]


def _running(numbers: list[int], choose: object) -> list[int]:
    found: list[int] = []
    for number in numbers:
        found.append(choose(found[-1], number) if found else number)  # type: ignore[operator]
    return found


def _count_before(times: list[tuple[float, int]], moment: float) -> int:
    low, high = 0, len(times)
    while low < high:
        middle = (low + high) // 2
        if times[middle][0] < moment:
            low = middle + 1
        else:
            high = middle
    return low


def _place(
    op: Op, ledger: dict[str, int], plain: dict[tuple[str, str, int], int]
) -> tuple[int, int] | None:
    if op.kind == "get_balance":
        return None
    found = ledger.get(op.call_id) if op.call_id else plain.get(_key(op))
    return None if found is None else (0 if op.call_id else 1, found)


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


def _plain_step(key: tuple[str, str, int], answer: int | None) -> Step:
    _, to, amount = key
    change = -amount if to else amount
    before = None if answer is None else answer - change
    return Step(f"plain {key}", change, before=before, at_least=max(0, -change))
