"""The validation itself: a history of a bank that kept its promises, and each way to break one."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.robustness.model import (
    FAILED,
    NO,
    SUCCESS,
    UNKNOWN,
    Attempt,
    Final,
    History,
    LookUp,
    Merge,
    Op,
    Row,
    Step,
)
from tests.robustness.validate import violations


class Bank:
    """A bank that does everything right, one call after the other, and writes it down."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.history = History()
        self.balances: dict[str, int] = {}
        self.expected: dict[str, int] = {}
        self.paid_in = 0
        self.time = 0.0
        self._late: list[Row] = []

    def tick(self) -> float:
        self.time += 1.0
        return self.time

    def _row(self, call_id: str, on: tuple[str, str], method: str, **more: Any) -> Row:
        return Row(call_id, len(self.rows) + 1, SUCCESS, *on, method, **more)

    def _child(self, on: tuple[str, str], method: str, parent: str, **arguments: Any) -> None:
        call_id = f"~{len(self.rows)}"
        self.rows.append(self._row(call_id, on, method, arguments=arguments, parent=parent))

    def do(self, op: Op, told: str = "", *, effect: bool = True) -> None:
        """Carry out ``op``, and tell its caller, by default, the truth."""
        began = self.tick()
        value: Any = None
        truth = SUCCESS
        before = self.balances.get(op.account, 0)
        if op.kind == "get_balance":
            value = before
        elif effect and op.kind == "transfer" and op.amount > before:
            truth, value = FAILED, ("no_money", {"missing": op.amount - before})
            self._record(op, FAILED, value)
        elif effect:
            value = self._take_effect(op)
        told = told or truth
        known = told in (SUCCESS, FAILED)
        self.history.attempts.append(
            Attempt(op, "c", "g1", began, self.tick(), told, value if known else None)
        )

    def _record(self, op: Op, status: str, value: Any) -> None:
        if op.call_id:
            row = self._row(op.call_id, ("Account", op.account), op.kind, arguments=op.arguments)
            self.rows.append(replace(row, status=status, value=value))

    def _take_effect(self, op: Op) -> int:
        change = -op.amount if op.to else op.amount
        value = self.balances[op.account] = self.balances.get(op.account, 0) + change
        self.expected[op.account] = value
        self._record(op, SUCCESS, value)
        auditor = ("Auditor", "main")
        if op.to:
            self.balances[op.to] = self.balances.get(op.to, 0) + op.amount
            self.expected[op.to] = self.balances[op.to]
            self._child(("Account", op.to), "receive", op.call_id, amount=op.amount)
            names = {"source": op.account, "target": op.to, "amount": op.amount}
            self._child(auditor, "note_transfer", op.call_id, **names)
        else:
            self.paid_in += op.amount
            arguments = {"account": op.account, "amount": op.amount}
            self._child(auditor, "note_deposit", op.call_id, **arguments)
        return value

    def final(self) -> Final:
        return Final(
            tuple(self.rows),
            dict(self.balances),
            dict(self.balances),
            self.paid_in,
            dict(self.expected),
        )


def deposit(account: str, amount: int, call_id: str = "") -> Op:
    return Op("deposit", account, amount, call_id=call_id)


def transfer(source: str, to: str, amount: int, call_id: str = "") -> Op:
    return Op("transfer", source, amount, to, call_id)


def read(account: str) -> Op:
    return Op("get_balance", account)


def usual() -> Bank:
    """A bit of everything, and all is well."""
    bank = Bank()
    bank.do(deposit("a", 1000, "in-a"))
    bank.do(deposit("b", 1001))
    bank.do(transfer("a", "b", 10, "t1"))
    bank.do(transfer("b", "a", 11))
    bank.do(read("a"))
    bank.do(transfer("a", "b", 12), UNKNOWN)
    bank.do(transfer("a", "b", 13), UNKNOWN, effect=False)
    bank.do(transfer("b", "a", 14, "t2"), UNKNOWN)
    bank.do(transfer("a", "b", 15, "t3"), NO, effect=False)
    bank.do(transfer("a", "b", 10_016, "t4"))
    bank.do(transfer("a", "b", 17, "t5"), UNKNOWN)
    bank.do(read("b"))
    bank.history.look_ups.append(LookUp("t5", bank.tick(), SUCCESS, bank.balances["a"]))
    bank.history.look_ups.append(LookUp("t3", bank.tick(), "unknown"))
    return bank


def test_a_bank_that_keeps_its_promises_is_accepted() -> None:
    bank = usual()
    assert violations(bank.history, bank.final()) == []


@pytest.mark.parametrize("seed", range(20))
def test_random_histories_without_a_fault_are_accepted(seed: int) -> None:
    chance, bank = random.Random(seed), Bank()
    for number, account in enumerate("abc"):
        bank.do(deposit(account, 1000 + number, f"in-{account}"))
    for number in range(100):
        source, to = chance.sample("abc", 2)
        call_id = f"c{number}" if chance.random() < 0.5 else ""
        kind = chance.choice(["transfer", "transfer", "deposit", "read"])
        amount = 5000 + number if chance.random() < 0.1 else number + 1
        if kind == "read":
            bank.do(read(source))
        elif kind == "deposit":
            bank.do(deposit(source, amount, call_id), chance.choice(["", "", UNKNOWN]))
        else:
            told, effect = chance.choice([("", True), (UNKNOWN, True), (UNKNOWN, False)])
            bank.do(transfer(source, to, amount, call_id), told, effect=effect)
    assert violations(bank.history, bank.final()) == [], f"seed {seed}"


# -- each way to break a promise


def _change_row(bank: Bank, call_id: str, **change: Any) -> None:
    bank.rows = [replace(r, **change) if r.call_id == call_id else r for r in bank.rows]


def _change_attempt(bank: Bank, amount: int, **change: Any) -> None:
    bank.history.attempts = [
        replace(a, **change) if a.op.amount == amount else a for a in bank.history.attempts
    ]


def internal_error(bank: Bank) -> None:
    _change_attempt(bank, 12, error="internal: internal error, see the log")


def lost_row(bank: Bank) -> None:
    bank.rows = [row for row in bank.rows if row.call_id != "t1"]


def another_result(bank: Bank) -> None:
    _change_attempt(bank, 10, value=12345)


def another_outcome(bank: Bank) -> None:
    bank.do(transfer("a", "b", 10, "t1"), FAILED, effect=False)


def look_up_of_another_result(bank: Bank) -> None:
    bank.history.look_ups.append(LookUp("t1", bank.tick(), SUCCESS, 1))


def pending_look_up_of_nothing(bank: Bank) -> None:
    bank.history.look_ups.append(LookUp("never", bank.tick(), "pending"))


def success_without_effect(bank: Bank) -> None:
    bank.do(deposit("a", 77), SUCCESS, effect=False)


def failure_with_effect(bank: Bank) -> None:
    _change_attempt(bank, 11, told=FAILED, value=("no_money", {}))


def not_executed_with_effect(bank: Bank) -> None:
    _change_attempt(bank, 11, told=NO, value=None)


def not_executed_and_in_the_ledger(bank: Bank) -> None:
    _change_attempt(bank, 10_016, told=NO, value=None)


def effect_twice(bank: Bank) -> None:
    bank._take_effect(transfer("a", "b", 11))
    bank._take_effect(transfer("b", "a", 11))


def call_pending(bank: Bank) -> None:
    _change_row(bank, "t2", status="pending")


def child_lost(bank: Bank) -> None:
    bank.rows = [r for r in bank.rows if (r.parent, r.method) != ("t1", "receive")]


def child_failed(bank: Bank) -> None:
    _change_row(bank, next(r.call_id for r in bank.rows if r.method == "receive"), status=FAILED)


def money_lost(bank: Bank) -> None:
    bank.balances["b"] -= 1


def auditor_differs(bank: Bank) -> None:
    bank.expected["a"] += 1


def auditor_paid_in_differs(bank: Bank) -> None:
    bank.paid_in += 1


def stale_read(bank: Bank) -> None:
    """What the account had before t1, told long after it."""
    bank.history.attempts.append(
        Attempt(read("a"), "c", "g2", bank.tick(), bank.tick(), SUCCESS, 1000)
    )


def read_of_what_never_was(bank: Bank) -> None:
    bank.history.attempts.append(Attempt(read("a"), "c", "g2", 2.5, 2.6, SUCCESS, 999))


def read_of_money_before_it_was_sent(bank: Bank) -> None:
    """b has what t1 sends, before anybody asked for t1."""
    began = next(a.began for a in bank.history.attempts if a.op.amount == 10)
    early = Attempt(read("b"), "c", "g2", began - 0.2, began - 0.1, SUCCESS, 1011)
    bank.history.attempts.append(early)


def ledger_order_differs(bank: Bank) -> None:
    """t5 is before t1 in the ledger, and took effect after it."""
    seqs = {row.call_id: row.seq for row in bank.rows}
    _change_row(bank, "t1", seq=seqs["t5"])
    _change_row(bank, "t5", seq=seqs["t1"])


def later_call_first(bank: Bank) -> None:
    """t1 was answered before the deposit began that the ledger has before it."""
    _change_attempt(bank, 1000, began=100.0, ended=101.0)


def balance_of_a_lost_update(bank: Bank) -> None:
    """The plain transfer answers as if the deposit before it had not been there."""
    _change_attempt(bank, 11, value=0)


def plain_call_overtaken(bank: Bank) -> None:
    """A reliable deposit was answered before the plain one began that left its balance out."""
    bank.do(deposit("d", 50, "d1"))
    bank.do(deposit("d", 51))
    _change_attempt(bank, 51, value=51)
    bank.rows = [replace(row, value=101) if row.call_id == "d1" else row for row in bank.rows]
    _change_attempt(bank, 50, value=101)
    first = next(r for r in bank.rows if r.arguments["amount"] == 50 and r.type == "Auditor")
    second = next(r for r in bank.rows if r.arguments["amount"] == 51)
    _change_row(bank, first.call_id, seq=second.seq)
    _change_row(bank, second.call_id, seq=first.seq)


def delivered_in_another_order(bank: Bank) -> None:
    """b receives what a sent last before what it sent first."""
    bank.do(transfer("a", "b", 18, "t6"))
    received = [r for r in bank.rows if r.method == "receive" and r.id == "b"]
    _change_row(bank, received[-1].call_id, seq=received[-2].seq)
    _change_row(bank, received[-2].call_id, seq=received[-1].seq)


def missing_of_a_lost_update(bank: Bank) -> None:
    row = next(row for row in bank.rows if row.call_id == "t4")
    value = ("no_money", {"missing": row.value[1]["missing"] + 12})
    _change_row(bank, "t4", value=value)
    _change_attempt(bank, 10_016, value=value)


BREAKS: list[Callable[[Bank], None]] = [
    internal_error,
    lost_row,
    another_result,
    another_outcome,
    look_up_of_another_result,
    pending_look_up_of_nothing,
    success_without_effect,
    failure_with_effect,
    not_executed_with_effect,
    not_executed_and_in_the_ledger,
    effect_twice,
    call_pending,
    child_lost,
    child_failed,
    money_lost,
    auditor_differs,
    auditor_paid_in_differs,
    stale_read,
    read_of_what_never_was,
    read_of_money_before_it_was_sent,
    ledger_order_differs,
    later_call_first,
    balance_of_a_lost_update,
    missing_of_a_lost_update,
    plain_call_overtaken,
    delivered_in_another_order,
]


@pytest.mark.parametrize("spoil", BREAKS, ids=lambda spoil: spoil.__name__)
def test_a_broken_promise_is_found(spoil: Callable[[Bank], None]) -> None:
    bank = usual()
    spoil(bank)
    assert violations(bank.history, bank.final())


def test_what_is_left_in_the_outbox_or_parked_is_found() -> None:
    bank = usual()
    assert violations(bank.history, replace(bank.final(), outbox=1))
    assert violations(bank.history, replace(bank.final(), parked=1))


def test_a_step_in_the_middle_that_fits_nowhere_is_found() -> None:
    plain = [Step("p1", 5, before=10), Step("p2", 5, before=15)]
    assert Merge([Step("r1", 10), Step("r2", 1)], plain, {}).possible
    assert not Merge([Step("r1", 11), Step("r2", 1)], plain, {}).possible
    # p1 is known to come before r1, and needs what r1 brings.
    assert not Merge([Step("r1", 10), Step("r2", 1)], plain, {0: 1}).possible
