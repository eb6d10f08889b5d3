"""``reliable-calls archive``."""

from __future__ import annotations

from pathlib import Path

import click

from goverse.reliable.archive import delete_archived, export
from goverse.reliable.archive_files import ArchiveFault, Format, format_of
from goverse.reliable.cleanup import Deleted
from goverse.storage.values import CallStatus
from goverse_cli.commands.calls_cleanup import counted, recorded, selection_options, table, words
from goverse_cli.exits import CliError, Exit
from goverse_cli.ledger import RUNS_AGAIN, Progress, ask, audited, when, working
from goverse_cli.output import emit, fields
from goverse_cli.session import Options, run_async, shared_options
from goverse_cli.store import store_options

_SUFFIXES = {".jsonl": "jsonl", ".parquet": "parquet"}


@click.command("archive")
@selection_options
@click.option(
    "--to",
    "path",
    type=click.Path(dir_okay=False, path_type=Path),
    required=True,
    help="The file to write: NAME.jsonl, or NAME.parquet.",
)
@click.option(
    "--format",
    "format_name",
    type=click.Choice(sorted(_SUFFIXES.values())),
    help="Of the file, if its name does not say.",
)
@click.option("--keep", is_flag=True, help="Export only, and delete nothing.")
@store_options
@shared_options
@run_async
async def archive(
    options: Options,
    config: Path | None,
    url: str,
    older_than_s: float,
    statuses: tuple[CallStatus, ...],
    yes: bool,
    batch_size: int,
    pause_s: float,
    path: Path,
    format_name: str | None,
    keep: bool,
) -> None:
    """Export finished calls to a file, verify it, then delete them from the ledger.

    The file must not be there yet. It is read back and compared before anything is deleted, and
    what is deleted is what it holds. A call whose id is deleted is forgotten: repeated under that
    id it runs again. Which calls, how fast, and stopping are as in `cleanup`; stopped after the
    file was written, the rest of its calls goes into the file of the next run once more. Parquet
    needs pip install 'goverse[archive]'. The file has arguments and results of calls, which may be
    secret: it is made with mode 0600.

    \b
    Examples:
      goverse-cli reliable-calls archive --older-than 90d --to calls.jsonl --config cluster.yaml
      goverse-cli reliable-calls archive --older-than 90d --to calls.parquet --yes
      goverse-cli reliable-calls archive --older-than 1d --status failed --to failed.jsonl --keep
    """
    format = _format(path, format_name)
    deleted = Deleted()
    async with working(options, config, url) as store:
        found = await counted(store, statuses, older_than_s)
        if not keep:
            if not yes:
                emit("table", found, lambda: table(found))
            ask(f"{RUNS_AGAIN}\nExport these {found.calls:,} calls and delete them?", yes)
        progress = Progress("exported", found.calls)
        try:
            written = await export(store, found.selection, format, path, progress)
        except (ArchiveFault, OSError) as error:
            raise CliError(f"{error}; nothing was deleted", Exit.REFUSED) from None
        finally:
            progress.end()
        if not keep:
            target = f"{words(found.selection)}, to {path}"
            with audited(), recorded("archive_calls", found, target, deleted) as deleting:
                await delete_archived(
                    store,
                    written,
                    format,
                    found.selection.before,
                    deleted,
                    batch=batch_size,
                    pause_s=pause_s,
                    progress=deleting,
                )
    answer = {
        "file": str(path),
        "finished_before": when(found.selection.before),
        "exported": written.calls,
        "digest": written.digest,
        "deleted": deleted.calls,
    }
    emit(options.output, answer, lambda: fields(answer.items()))


def _format(path: Path, name: str | None) -> Format:
    name = name or _SUFFIXES.get(path.suffix, "")
    if not name:
        raise CliError(
            f"{path}: its name does not say which format is meant",
            Exit.USAGE,
            "name it .jsonl or .parquet, or pass --format",
        )
    try:
        return format_of(name)
    except ArchiveFault as error:
        raise CliError(str(error), Exit.USAGE) from None
