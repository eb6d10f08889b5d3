"""``reliable-calls list``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import click

from goverse.ids import NUM_SLOTS
from goverse.sharding import slot_of
from goverse.storage.api import Store
from goverse.storage.listing import START, CallPosition, ListedCall, finished_from
from goverse.storage.values import CallStatus
from goverse_cli.exits import CliError, Exit
from goverse_cli.ledger import Age, Statuses, age, when, working
from goverse_cli.output import emit, note, rows
from goverse_cli.session import Options, run_async, shared_options
from goverse_cli.store import store_options

_LIVE = (CallStatus.PENDING, CallStatus.DELAYED, CallStatus.PARKED)
_PAGE = 2_000


@click.command("list")
@click.option(
    "--status",
    "statuses",
    type=Statuses(*CallStatus),
    default=",".join(status.value for status in _LIVE),
    show_default=True,
    help="Calls that are in one of these.",
)
@click.option("--outbox", is_flag=True, help="Deliveries instead: by default those parked.")
@click.option("--type", "type_name", default="", help="Calls of objects of this type.")
@click.option("--id", "object_id", default="", help="Calls of the object with this id.")
@click.option(
    "--older-than",
    "older_than_s",
    type=Age(),
    help="Finished, or accepted if unfinished, longer ago than this: 30d, 12h.",
)
@click.option("--younger-than", "younger_than_s", type=Age(), help="Less long ago than this.")
@click.option(
    "--limit",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Show at most so many.",
)
@store_options
@shared_options
@run_async
async def list_calls(
    options: Options,
    config: Path | None,
    url: str,
    statuses: tuple[CallStatus, ...],
    outbox: bool,
    type_name: str,
    object_id: str,
    older_than_s: float | None,
    younger_than_s: float | None,
    limit: int,
) -> None:
    """List calls of the ledger, or deliveries of the outbox, that are parked or wait.

    Unfinished calls come by slot, those of one object in their order; finished ones the oldest
    first, so name an age (--younger-than 1h) to see the latest. A call that holds up its object
    (on_parked="block") is pending, with more attempts than limits.max_call_attempts. Reads a page
    at a time, for --timeout in all, and says if that was not enough.

    \b
    Examples:
      goverse-cli reliable-calls list --status parked --config cluster.yaml
      goverse-cli reliable-calls list --status failed --type Account --younger-than 1h
      goverse-cli reliable-calls list --type Account --id alice -o json | jq -r '.calls[].call_id'
      goverse-cli reliable-calls list --outbox --older-than 1d
    """
    if outbox and CallStatus.PARKED not in statuses and CallStatus.PENDING not in statuses:
        raise CliError("a delivery is pending or parked", Exit.USAGE)
    if outbox and set(statuses) == set(_LIVE):
        statuses = (CallStatus.PARKED,)
    if object_id and not type_name:
        raise CliError("--id needs the --type of the object", Exit.USAGE)
    found: list[ListedCall] = []
    more = ""
    async with working(options, config, url) as store:
        now = await store.now()
        search = Search(store, type_name, object_id, now, older_than_s, younger_than_s)
        try:
            async with asyncio.timeout(options.timeout_s):
                async for call in search.through(statuses, outbox):
                    if len(found) == limit:
                        more = f"There are more; this shows the first {limit} (--limit)."
                        break
                    found.append(call)
        except TimeoutError:
            more = (
                f"Not everything was looked at within {options.timeout_s:g} s; narrow it down, or "
                "give it more time with --timeout."
            )
    answer = {"calls": [to_json(call) for call in found], "complete": not more}
    emit(options.output, answer, lambda: _table(found, now))
    if more:
        note(more)


class Search:
    """Reads pages of the store and lets pass what is wanted."""

    def __init__(
        self,
        store: Store,
        type_name: str,
        object_id: str,
        now: float,
        older_than_s: float | None,
        younger_than_s: float | None,
    ) -> None:
        self._store = store
        self._type = type_name
        self._id = object_id
        self._before = now - older_than_s if older_than_s is not None else None
        self._since = now - younger_than_s if younger_than_s is not None else None

    async def through(
        self, statuses: tuple[CallStatus, ...], outbox: bool
    ) -> AsyncIterator[ListedCall]:
        for status in statuses:
            if outbox and status not in (CallStatus.PENDING, CallStatus.PARKED):
                continue
            async for call in self._pages(status, outbox):
                if self._wanted(call):
                    yield call

    async def _pages(self, status: CallStatus, outbox: bool) -> AsyncIterator[ListedCall]:
        after, last = self._range(status, outbox)
        while True:
            if outbox:
                parked = status is CallStatus.PARKED
                page = await self._store.list_outbox(parked=parked, after=after, limit=_PAGE)
            else:
                page = await self._store.list_calls(status, after=after, limit=_PAGE)
            for call in page:
                if last is not None and call.position.number > last:
                    return
                yield call
            if len(page) < _PAGE:
                return
            after = page[-1].position

    def _range(self, status: CallStatus, outbox: bool) -> tuple[CallPosition, int | None]:
        """Where to begin, and the last number of a position that is to be looked at."""
        if status.finished:
            after = finished_from(self._since) if self._since is not None else START
            before = finished_from(self._before).number if self._before is not None else None
            return after, before
        if self._id and not outbox and not self._id.startswith("node#"):
            try:
                slot = slot_of(self._id)
            except ValueError as error:
                raise CliError(f"--id: {error}", Exit.USAGE) from None
            if slot < NUM_SLOTS:
                return CallPosition(slot), slot
        return START, None

    def _wanted(self, call: ListedCall) -> bool:
        moment = call.created_at if call.finished_at is None else call.finished_at
        return (
            (not self._type or call.object.type == self._type)
            and (not self._id or call.object.id == self._id)
            and (self._before is None or moment < self._before)
            and (self._since is None or moment >= self._since)
        )


def to_json(call: ListedCall) -> dict[str, Any]:
    found = {
        "call_id": call.call_id,
        "type": call.object.type,
        "id": call.object.id,
        "method": call.method,
        "status": call.status.value,
        "reason": call.reason,
        "attempts": call.attempts,
        "principal": call.principal,
        "parent": call.parent,
        "argument_bytes": call.argument_bytes,
        "result_bytes": call.result_bytes,
        "created_at": when(call.created_at),
        "run_at": when(call.run_at),
        "expires_at": when(call.expires_at),
        "finished_at": when(call.finished_at),
    }
    if call.sender is not None:
        found |= {"sender_type": call.sender.type, "sender_id": call.sender.id}
    return found


def _table(found: list[ListedCall], now: float) -> Any:
    if not found:
        return "No such calls."
    return rows(
        ("call", "type", "id", "method", "status", "attempts", "age", "reason"),
        (
            (
                call.call_id,
                call.object.type,
                call.object.id,
                call.method,
                call.status.value,
                call.attempts,
                age(max(0.0, now - (call.finished_at or call.created_at))),
                call.reason,
            )
            for call in found
        ),
    )
