"""The same objects on Restate: a keyed counter, and the bank of samples/bank.

Run by an ASGI server of the peer's environment; `restate_calls` registers it.
"""

from __future__ import annotations

import restate
from restate import ObjectContext, ObjectSharedContext, TerminalError, VirtualObject

AUDITOR = "main"

counter = VirtualObject("Counter")
account = VirtualObject("Account")
auditor = VirtualObject("Auditor")


@counter.handler()  # type: ignore[untyped-decorator]
async def add(ctx: ObjectContext, amount: int) -> int:
    value = (await ctx.get("value") or 0) + amount
    ctx.set("value", value)
    return value


@counter.handler(kind="shared")  # type: ignore[untyped-decorator]
async def value(ctx: ObjectSharedContext) -> int:
    return await ctx.get("value") or 0


@account.handler()  # type: ignore[untyped-decorator]
async def deposit(ctx: ObjectContext, amount: int) -> int:
    balance = (await ctx.get("balance") or 0) + amount
    ctx.set("balance", balance)
    ctx.object_send(note_deposit, AUDITOR, {"account": ctx.key(), "amount": amount})
    return balance


@account.handler()  # type: ignore[untyped-decorator]
async def transfer(ctx: ObjectContext, order: dict[str, str | int]) -> int:
    target, amount = str(order["to"]), int(order["amount"])
    balance = (await ctx.get("balance") or 0) - amount
    if balance < 0:
        raise TerminalError("the balance is too low")
    ctx.set("balance", balance)
    ctx.object_send(receive, target, amount)
    note = {"source": ctx.key(), "target": target, "amount": amount}
    ctx.object_send(note_transfer, AUDITOR, note)
    return balance


@account.handler()  # type: ignore[untyped-decorator]
async def receive(ctx: ObjectContext, amount: int) -> None:
    ctx.set("balance", (await ctx.get("balance") or 0) + amount)


@account.handler(kind="shared")  # type: ignore[untyped-decorator]
async def get_balance(ctx: ObjectSharedContext) -> int:
    return await ctx.get("balance") or 0


@auditor.handler()  # type: ignore[untyped-decorator]
async def note_deposit(ctx: ObjectContext, note: dict[str, str | int]) -> None:
    expected = await ctx.get("expected") or {}
    account_id = str(note["account"])
    expected[account_id] = expected.get(account_id, 0) + note["amount"]
    ctx.set("expected", expected)


@auditor.handler()  # type: ignore[untyped-decorator]
async def note_transfer(ctx: ObjectContext, note: dict[str, str | int]) -> None:
    expected = await ctx.get("expected") or {}
    source, target, amount = str(note["source"]), str(note["target"]), int(note["amount"])
    expected[source] = expected.get(source, 0) - amount
    expected[target] = expected.get(target, 0) + amount
    ctx.set("expected", expected)


@auditor.handler(kind="shared")  # type: ignore[untyped-decorator]
async def get_expected(ctx: ObjectSharedContext) -> dict[str, int]:
    return await ctx.get("expected") or {}


app = restate.app([counter, account, auditor])
#: One HTTP/1.1 request for each invocation; nothing here suspends in the middle of one.
app_without_streams = restate.app([counter, account, auditor], protocol="request_response")
