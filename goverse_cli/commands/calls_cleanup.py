"""``reliable-calls cleanup``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Group, RenderableType

from goverse.observability import audit
from goverse.reliable.cleanup import (
    DEFAULT_BATCH,
    DEFAULT_PAUSE_S,
    FINISHED,
    Deleted,
    Preview,
    Selection,
    delete,
    preview,
    select,
)
from goverse.storage.api import MAX_BATCH_ITEMS, OutcomeUnknown, StorageUnavailable, Store
from goverse.storage.values import CallStatus
from goverse_cli.exits import CliError, Exit
from goverse_cli.ledger import (
    RUNS_AGAIN,
    Age,
    Progress,
    Statuses,
    ask,
    audited,
    operator,
    short_age,
    size,
    when,
    working,
)
from goverse_cli.output import emit, fields, note, rows
from goverse_cli.session import Options, Seconds, run_async, shared_options, warn
from goverse_cli.store import store_options

#: Below this a client, or a delivery, may well be about to repeat a call.
_YOUNG_S = 3600.0


F = TypeVar("F", bound=Callable[..., Any])


def selection_options(command: F) -> F:
    """Which calls, and how fast."""
    options = (
        click.option(
            "--older-than",
            "older_than_s",
            type=Age(),
            required=True,
            help="Calls that finished longer ago than this: 30d, 12h.",
        ),
        click.option(
            "--status",
            "statuses",
            type=Statuses(*FINISHED),
            default=",".join(status.value for status in FINISHED),
            show_default=True,
            help="With these outcomes.",
        ),
        click.option("--yes", is_flag=True, help="Do it without asking."),
        click.option(
            "--batch-size",
            type=click.IntRange(1, MAX_BATCH_ITEMS),
            default=DEFAULT_BATCH,
            show_default=True,
            help="Calls deleted in one transaction.",
        ),
        click.option(
            "--pause",
            "pause_s",
            type=Seconds(),
            default=f"{DEFAULT_PAUSE_S * 1000:g}ms",
            show_default=True,
            help="Rest after each batch; twice the time that the batch took, if that is longer.",
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command("cleanup")
@selection_options
@click.option("--dry-run", is_flag=True, help="Show what would be deleted, and write nothing.")
@store_options
@shared_options
@run_async
async def cleanup(
    options: Options,
    config: Path | None,
    url: str,
    older_than_s: float,
    statuses: tuple[CallStatus, ...],
    dry_run: bool,
    yes: bool,
    batch_size: int,
    pause_s: float,
) -> None:
    """Delete finished calls from the ledger, the oldest first.

    A call whose id is deleted is forgotten: repeated under that id it runs again. So keep calls for
    longer than anybody repeats them, and make a backup, or an archive (reliable-calls archive).

    Age counts from the finish. Calls that are pending, delayed or parked are never deleted, nor is
    one whose delivery still stands in an outbox. It can be stopped at any moment and run again. A
    cluster may be up: calls go on meanwhile. --timeout is for each batch. What was done is in the
    audit log, on standard error.

    \b
    Examples:
      goverse-cli reliable-calls cleanup --older-than 30d --dry-run --config cluster.yaml
      goverse-cli reliable-calls cleanup --older-than 30d --status success,failed --yes
      goverse-cli reliable-calls cleanup --older-than 90d --dry-run -o json | jq .calls
    """
    async with working(options, config, url) as store:
        found = await counted(store, statuses, older_than_s)
        if dry_run:
            emit(options.output, to_json(found), lambda: table(found))
            return
        if older_than_s < _YOUNG_S:
            warn(f"calls that finished {short_age(older_than_s)} ago may still be repeated")
        if not found.calls:
            deleted, complete = Deleted(), True
        else:
            if not yes:
                emit("table", found, lambda: table(found))
            ask(f"{RUNS_AGAIN}\nDelete these {found.calls:,} calls?", yes)
            deleted = Deleted()
            target = words(found.selection)
            with audited(), recorded("cleanup_calls", found, target, deleted) as progress:
                complete = await delete(
                    store,
                    found.selection,
                    deleted,
                    batch=batch_size,
                    pause_s=pause_s,
                    progress=progress,
                )
    answer = to_json(found) | {
        "dry_run": False,
        "deleted": deleted.calls,
        "deleted_by_status": {status.value: n for status, n in deleted.by_status.items()},
        "complete": complete,
    }
    emit(options.output, answer, lambda: fields((("deleted", f"{deleted.calls:,} calls"),)))


async def counted(store: Store, statuses: tuple[CallStatus, ...], older_than_s: float) -> Preview:
    progress = Progress("counted")
    try:
        return await preview(store, await select(store, statuses, older_than_s), progress)
    except ValueError as error:
        raise CliError(str(error), Exit.USAGE) from None
    finally:
        progress.end()


@contextmanager
def recorded(action: str, found: Preview, target: str, deleted: Deleted) -> Iterator[Progress]:
    """Both ends of a deletion go to the audit log, however it ends."""
    who = operator()
    audit.record(action, by=who, target=target, outcome=f"begun, {found.calls} calls")
    progress = Progress("deleted", found.calls)
    outcome = "stopped"
    try:
        yield progress
        outcome = "done"
    except asyncio.CancelledError:
        raise CliError(
            f"stopped after {deleted.calls:,} of {found.calls:,} calls",
            Exit.INTERRUPTED,
            "run it again to go on: what is deleted is deleted",
        ) from None
    except (StorageUnavailable, OutcomeUnknown) as error:
        outcome = f"failed: {error}"
        note(f"{deleted.calls:,} of {found.calls:,} calls are deleted for certain.")
        raise
    finally:
        progress.end()
        audit.record(action, by=who, target=target, outcome=f"{outcome}, {deleted.calls} deleted")


def words(selection: Selection) -> str:
    names = ",".join(status.value for status in selection.statuses)
    return f"{names} finished before {when(selection.before)}"


def to_json(found: Preview) -> dict[str, Any]:
    by_status = {status.value: 0 for status in found.selection.statuses}
    for count in found.counts:
        by_status[count.status.value] += count.calls
    return {
        "dry_run": True,
        "finished_before": when(found.selection.before),
        "calls": found.calls,
        "by_status": by_status,
        "by_age": [
            {
                "status": count.status.value,
                "older_than_s": count.from_s,
                "younger_than_s": count.to_s,
                "calls": count.calls,
            }
            for count in found.counts
        ],
        "spared": found.spared,
        "oldest": when(found.oldest),
        "newest": when(found.newest),
        "table_bytes": found.size.table_bytes,
        "index_bytes": found.size.index_bytes,
    }


def table(found: Preview) -> RenderableType:
    ages = rows(
        ("status", "finished", "calls"),
        (
            (
                count.status.value,
                f"{short_age(count.from_s)} ago or more"
                if count.to_s is None
                else f"{short_age(count.from_s)} to {short_age(count.to_s)} ago",
                f"{count.calls:,}",
            )
            for count in found.counts
        ),
    )
    sizes = found.size
    total = fields(
        (
            ("to be deleted", f"{found.calls:,} calls that finished before "
             f"{when(found.selection.before)}"),
            ("oldest", when(found.oldest)),
            ("newest", when(found.newest)),
            ("spared", f"{found.spared:,} whose delivery still stands in an outbox"),
            ("table", size(sizes.table_bytes)),
            ("indexes", "in the table's" if sizes.index_bytes is None and sizes.table_bytes
             is not None else size(sizes.index_bytes)),
            ("afterwards", RUNS_AGAIN),
        )
    )  # fmt: skip
    return Group(ages, "", total) if found.counts else total
