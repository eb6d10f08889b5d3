"""``reliable-calls``: its group, ``stats`` and ``get``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType

from goverse.objects.recording import error_of
from goverse.storage.api import (
    MAX_PAGE,
    FinishedCalls,
    LiveCalls,
    QueuedCalls,
)
from goverse.storage.values import CallStatus, StoredCall
from goverse_cli.commands.calls_archive import archive
from goverse_cli.commands.calls_change import cancel, retry
from goverse_cli.commands.calls_cleanup import cleanup
from goverse_cli.commands.calls_list import list_calls
from goverse_cli.exits import CliError, Exit
from goverse_cli.ledger import age, reading, when
from goverse_cli.output import emit, fields, rows
from goverse_cli.session import Options, run_async, shared_options
from goverse_cli.store import store_options


@click.group("reliable-calls")
def reliable_calls() -> None:
    """The ledger of reliable calls: what waits, what is parked, what became of a call.

    stats, list, get, cleanup and archive use the store themselves, as `goverse-cli db` does: they
    work whether nodes are up or down. retry and cancel ask a node.

    \b
    Examples:
      goverse-cli reliable-calls stats --config cluster.yaml
      goverse-cli reliable-calls list --status parked
      goverse-cli reliable-calls cleanup --older-than 30d --dry-run
      goverse-cli reliable-calls get order-4711 -o json
    """


@reliable_calls.command("stats")
@click.option(
    "--top",
    type=click.IntRange(1, MAX_PAGE),
    default=10,
    show_default=True,
    help="How many objects to list, those with the longest queues.",
)
@click.option(
    "--finished",
    is_flag=True,
    help="Also count outcomes. Reads the whole ledger, which may take long.",
)
@store_options
@shared_options
@run_async
async def stats(options: Options, config: Path | None, url: str, top: int, finished: bool) -> None:
    """Show what waits: calls by type, and the objects with the longest queues.

    Pending calls have not run to their end, delayed ones are not due yet, parked ones ended too
    many processes and wait for an operator. The ages are those of the oldest pending call, since
    it was accepted or due; overdue is by how much the first of the delayed ones is late. Without
    --finished only live rows are read, however long the ledger is. Outcomes per second are in the
    metrics of nodes: goverse_reliable_call_duration_seconds.

    \b
    Examples:
      goverse-cli reliable-calls stats --top 10 --config cluster.yaml
      goverse-cli reliable-calls stats --url sqlite:///goverse.db --finished
      goverse-cli reliable-calls stats -o json | jq '.longest[0]'
    """
    async with reading(options, config, url) as store:
        live = await store.live_calls()
        longest = await store.longest_queues(top)
        outcomes = await store.finished_calls() if finished else None
    found = {"types": _types(live, outcomes), "longest": [_queue(queue) for queue in longest]}
    emit(options.output, found, lambda: _stats_table(found, finished))


def _types(
    live: Sequence[LiveCalls], outcomes: Sequence[FinishedCalls] | None
) -> list[dict[str, Any]]:
    """One line a type, whether it has live calls, finished ones or both."""
    waiting = {one.type: one for one in live}
    ended = {one.type: one for one in outcomes or ()}
    lines = []
    for name in sorted({**waiting, **ended}):
        one = waiting.get(name) or LiveCalls(name, 0, 0, 0, 0.0, 0.0)
        line: dict[str, Any] = {
            "type": name,
            "pending": one.pending,
            "delayed": one.delayed,
            "parked": one.parked,
            "oldest_pending_s": round(one.oldest_pending_s, 3) if one.pending else None,
            "overdue_s": round(one.overdue_s, 3) if one.delayed else None,
        }
        if outcomes is not None:
            end = ended.get(name) or FinishedCalls(name, 0, 0, 0)
            line |= {"success": end.success, "failed": end.failed, "skipped": end.skipped}
        lines.append(line)
    return lines


def _queue(queue: QueuedCalls) -> dict[str, Any]:
    return {
        "type": queue.object.type,
        "id": queue.object.id,
        "pending": queue.pending,
        "oldest_s": round(queue.oldest_s, 3),
    }


def _stats_table(found: dict[str, Any], finished: bool) -> RenderableType:
    outcomes = ("success", "failed", "skipped") if finished else ()
    types = rows(
        ("type", "pending", "delayed", "parked", "oldest", "overdue", *outcomes),
        (
            (
                line["type"],
                line["pending"],
                line["delayed"],
                line["parked"],
                age(line["oldest_pending_s"]),
                age(line["overdue_s"]),
                *(line[outcome] for outcome in outcomes),
            )
            for line in found["types"]
        ),
    )
    if not found["longest"]:
        return types if found["types"] else "No calls wait."
    longest = rows(
        ("longest queues", "id", "pending", "oldest"),
        (
            (line["type"], line["id"], line["pending"], age(line["oldest_s"]))
            for line in found["longest"]
        ),
    )
    return Group(types, "", longest)


@reliable_calls.command("get")
@click.argument("call_id")
@store_options
@shared_options
@run_async
async def get(options: Options, config: Path | None, url: str, call_id: str) -> None:
    """Show the row of CALL_ID, as it stands in the ledger.

    Ids are shown and meant as the ledger has them: those of clients that have a name begin with
    ~NAME/, those made by the system with ~. An id that is not found may be on its way, or may have
    been cleaned up.

    \b
    Examples:
      goverse-cli reliable-calls get order-4711 --config cluster.yaml
      goverse-cli reliable-calls get order-4711 -o json | jq -r .status
    """
    async with reading(options, config, url) as store:
        try:
            stored = (await store.get_calls([call_id])).get(call_id)
        except ValueError as error:
            raise CliError(str(error), Exit.USAGE) from None
    if stored is None:
        raise CliError(
            f"no call is known under the id {call_id!r}",
            Exit.NOT_FOUND,
            "it may be on its way, or have been cleaned up",
        )
    found = _row(stored)
    emit(options.output, found, lambda: fields(found.items()))


def _row(stored: StoredCall) -> dict[str, Any]:
    """Arguments and results are the application's affair, and may be large or secret."""
    call = stored.call
    # Of a repeated call this is what became of the tick before.
    failed = CallStatus.FAILED in (stored.status, stored.last_tick)
    error = error_of(stored.result.data) if failed and stored.result else None
    timing = call.timing
    return {
        "call_id": call.call_id,
        "type": call.object.type,
        "id": call.object.id,
        "method": call.method,
        "status": stored.status.value,
        "reason": f"{error.code}: {error.message}" if error is not None else stored.reason,
        "attempts": stored.attempts,
        "principal": call.principal,
        "parent": call.parent,
        "argument_bytes": len(call.arguments.data),
        "created_at": when(stored.created_at),
        "run_at": when(timing.run_at) if timing else None,
        "every_s": timing.every_s if timing and timing.every_s else None,
        "catch_up": timing.catch_up.value if timing and timing.every_s else None,
        "expires_at": when(call.expires_at),
        "finished_at": when(stored.finished_at),
    }


for _command in (list_calls, retry, cancel, cleanup, archive):
    reliable_calls.add_command(_command)
