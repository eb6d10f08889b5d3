"""What must hold of every history: pure functions that return the sentences that are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from tests.robustness.model import FAILED, NO, OUTCOMES, SUCCESS, Final, History, Key, Op, key_of
from tests.robustness.orders import deliveries_in_order, orders_kept

AUDITOR = ("Auditor", "main")


def violations(history: History, final: Final) -> list[str]:
    """Everything that is wrong; empty if the promises were kept."""
    effects = Effects.of(final)
    return [
        *errors_are_clear(history),
        *at_rest(final),
        *one_outcome(history, final),
        *told_the_truth(history, final, effects),
        *money_conserved(final, effects),
        *orders_kept(history, final, effects.by_account),
        *deliveries_in_order(final, effects.by_account),
    ]


@dataclass(frozen=True)
class Effects:
    """What took effect, as the auditor heard of it: by (account, to, amount), each in its place."""

    count: Counter[Key]
    #: By account, in the order of its turns: deposits and transfers.
    by_account: dict[str, list[Key]]
    children: Counter[str]

    @classmethod
    def of(cls, final: Final) -> Effects:
        count: Counter[Key] = Counter()
        by_account: dict[str, list[Key]] = {}
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
        return self.count[key_of(op)] > 0


def errors_are_clear(history: History) -> Iterator[str]:
    """Who learns nothing learns why, and it is no fault of ours."""
    for attempt in history.attempts:
        code = attempt.error.partition(":")[0]
        if code in ("internal", "object_failed", "not_owner", "fenced", "link_broken"):
            yield f"{attempt.op} was told {attempt.error} by {attempt.gate}"


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
