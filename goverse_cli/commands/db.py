"""``db migrate|status|check|adopt``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from goverse.errors import GoverseError
from goverse.storage.api import Store, StoreRefused
from goverse_cli.exits import CliError, Exit
from goverse_cli.output import emit, fields, note
from goverse_cli.session import Options, run_async, shared_options
from goverse_cli.store import opened, store_options


@click.group()
def db() -> None:
    """The store: where objects and reliable calls are kept.

    These commands read the configuration as a node does, and speak to the store themselves.

    \b
    Examples:
      goverse-cli db migrate --config cluster.yaml
      goverse-cli db status --url postgresql://goverse@localhost/goverse
    """


@db.command("migrate")
@store_options
@shared_options
@run_async
async def migrate(options: Options, config: Path | None, url: str) -> None:
    """Bring the schema to what this version needs. Safe to repeat, and to run twice at once.

    \b
    Examples:
      goverse-cli db migrate --config cluster.yaml
      goverse-cli db migrate --url sqlite:///goverse.db
    """
    async with opened(options, config, url) as store:
        applied = await store.migrate()
        status = await store.schema_status()
    found = {"applied": list(applied), "version": status.version}
    names = ", ".join(applied) or "nothing: it is current"
    emit(options.output, found, lambda: fields((("applied", names), ("version", status.version))))


@db.command("status")
@store_options
@shared_options
@run_async
async def status(options: Options, config: Path | None, url: str) -> None:
    """Show the store: schema, whose it is, and how much in it is not finished.

    \b
    Examples:
      goverse-cli db status --config cluster.yaml
      goverse-cli db status -o json | jq .calls.parked_calls
    """
    async with opened(options, config, url) as store:
        found = await _describe(store)
    emit(options.output, found, lambda: fields(_lines(found)))


async def _describe(store: Store) -> dict[str, Any]:
    schema = await store.schema_status()
    client = store.snapshot()
    current = schema.current
    epoch = await store.highest_epoch() if current else None
    return {
        "backend": client.backend,
        "place": client.place,
        "schema": schema,
        "cluster_id": await store.cluster_id() if current else "",
        "highest_epoch": str(epoch) if epoch else "",
        "calls": await store.census() if current else None,
    }


def _lines(found: dict[str, Any]) -> list[tuple[str, object]]:
    schema = found["schema"]
    version = f"{schema.version} (this program needs {schema.known})"
    lines: list[tuple[str, object]] = [
        ("store", f"{found['backend']} at {found['place']}"),
        ("schema", version if schema.version != schema.known else schema.version),
        ("pending", ", ".join(schema.pending)),
        ("cluster", found["cluster_id"]),
        ("highest epoch", found["highest_epoch"]),
    ]
    if census := found["calls"]:
        lines += [
            ("calls", f"{census.pending_calls} pending, {census.parked_calls} parked"),
            (
                "outbox",
                f"{census.outbox_rows} to be delivered, {census.parked_outbox_rows} parked",
            ),
        ]
    return lines


@db.command("check")
@click.option("--cluster-id", default="", help="Also check that the store is this cluster's.")
@store_options
@shared_options
@run_async
async def check(options: Options, config: Path | None, url: str, cluster_id: str) -> None:
    """Say whether a node would start with this store: schema, durability, cluster.

    \b
    Examples:
      goverse-cli db check --config cluster.yaml
      goverse-cli db check -o json | jq -r '.problems[]'
    """
    problems = []
    async with opened(options, config, url) as store:
        try:
            await store.check()
            stored = await store.cluster_id()
            if cluster_id and stored not in ("", cluster_id):
                problems.append(f"the store belongs to the cluster {stored}")
        except StoreRefused as error:
            problems.append(str(error))
    found = {"ok": not problems, "problems": problems}
    emit(options.output, found, lambda: fields((("ok", not problems),)))
    if problems:
        raise CliError("; ".join(problems), Exit.REFUSED)


@db.command("adopt")
@click.argument("cluster_id", default="")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@store_options
@shared_options
@run_async
async def adopt(
    options: Options, config: Path | None, url: str, cluster_id: str, yes: bool
) -> None:
    """Make the store that of another cluster: CLUSTER_ID, else the one that answers.

    The cluster that had it is shut out at once: its nodes can write nothing any more. Stop them
    first, or their calls fail.

    \b
    Examples:
      goverse-cli db adopt --config cluster.yaml
      goverse-cli db adopt 4f1c0000000000000000000000000000 --yes --url sqlite:///goverse.db
    """
    if not cluster_id:
        cluster_id = await _answering_cluster(options)
    async with opened(options, config, url) as store:
        # A schema that is not known is not written to.
        await store.check()
        before = await store.cluster_id()
        if before not in ("", cluster_id) and not yes:
            question = f"The store belongs to the cluster {before}. Shut that out?"
            if not click.confirm(question, err=True):
                raise CliError("nothing was changed", Exit.REFUSED)
        await store.adopt(cluster_id)
    found = {"cluster_id": cluster_id, "before": before}
    emit(
        options.output,
        found,
        lambda: fields((("cluster", cluster_id), ("before", before or "nobody's"))),
    )
    if before not in ("", cluster_id):
        note(f"The cluster {before} is shut out.")


async def _answering_cluster(options: Options) -> str:
    try:
        async with options.admin() as admin:
            return (await admin.get_status()).cluster_id
    except (GoverseError, CliError) as error:
        raise CliError(
            f"no cluster answers, so whose store it is to be is not known: {error}",
            Exit.UNAVAILABLE,
            "start the cluster without its store, or name it: goverse-cli db adopt CLUSTER_ID",
        ) from error
