"""``status``."""

from __future__ import annotations

import click
from rich.console import Group, RenderableType
from rich.text import Text

from goverse.admin.api import ClusterStatus
from goverse.errors import Unavailable
from goverse_cli.commands.members import gate_table, node_table
from goverse_cli.exits import CliError, Exit
from goverse_cli.output import emit, fields, note
from goverse_cli.session import Options, run_async, shared_options, warn


@click.command()
@shared_options
@run_async
async def status(options: Options) -> None:
    """Show the cluster at a glance: members, leader, shards by state, warnings.

    When no node answers, what etcd knows is shown instead; field `source` says who answered.

    \b
    Examples:
      goverse-cli status
      goverse-cli status -o json | jq .shards
      goverse-cli status --etcd-endpoints localhost:2379
    """
    found = await ask_status(options)
    emit(options.output, found, lambda: _table(found))
    for warning in found.warnings:
        warn(_describe(warning.message, warning.shards))


async def ask_status(options: Options) -> ClusterStatus:
    """From a node, or what etcd knows when none answers."""
    try:
        async with options.admin() as admin:
            return await admin.get_status()
    except (Unavailable, CliError) as error:
        if isinstance(error, CliError) and error.exit_code != Exit.UNAVAILABLE:
            raise
        no_node = error
    if options.where()[0] and not options.endpoints():
        # etcd at its default place may be another cluster's than the node that was named.
        raise CliError(
            no_node.message,
            Exit.UNAVAILABLE,
            "to see what etcd knows, say where it is: --etcd-endpoints",
        )
    try:
        async with options.etcd() as directory:
            found = await directory.get_status()
    except Unavailable as error:
        raise CliError(
            f"{no_node.message}; etcd does not answer either: {error.message}",
            Exit.UNAVAILABLE,
            "start a cluster (goverse-cli dev app.py), or say where it is: --server host:port, "
            "GOVERSE_SERVER, or --etcd-endpoints",
        ) from error
    note(f"{no_node.message}. This is what etcd knows:")
    return found


def _table(found: ClusterStatus) -> RenderableType:
    shards = found.shards
    parts: list[RenderableType] = [
        fields(
            (
                ("cluster", f"{found.cluster_id} (generation {found.generation})"),
                ("source", found.source),
                ("leader", found.leader),
                (
                    "shards",
                    f"{shards.claimed}/{shards.total} claimed: {shards.owned} owned, "
                    f"{shards.migrating} migrating, {shards.unclaimed} unclaimed, "
                    f"{shards.unassigned} unassigned; {shards.pinned} pinned",
                ),
                *_held(found),
            )
        ),
        Text(f"\nnodes: {len(found.nodes)}", style="bold"),
    ]
    if found.nodes:
        parts.append(node_table(found.nodes))
    parts.append(Text(f"\ngates: {len(found.gates)}", style="bold"))
    if found.gates:
        parts.append(gate_table(found.gates))
    return Group(*parts)


def _held(found: ClusterStatus) -> tuple[tuple[str, str], ...]:
    """Why shards are left where they are."""
    if not found.held:
        return ()
    return (("held", ", ".join(f"{held.shards} {held.reason}" for held in found.held)),)


def _describe(message: str, shards: tuple[int, ...]) -> str:
    if not shards:
        return message
    return f"{message} (shard {', '.join(map(str, shards))}{', ...' if len(shards) > 9 else ''})"
