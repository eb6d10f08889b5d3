"""``node list``."""

from __future__ import annotations

import click

from goverse_cli.commands.members import node_table
from goverse_cli.output import emit, note
from goverse_cli.session import Options, run_async, shared_options


@click.group()
def node() -> None:
    """Nodes, which host objects.

    \b
    Examples:
      goverse-cli node list
    """


@node.command("list")
@shared_options
@run_async
async def node_list(options: Options) -> None:
    """List the registered nodes, and how many shards each owns.

    \b
    Examples:
      goverse-cli node list
      goverse-cli node list -o json | jq -r '.[].address'
    """
    async with options.admin() as admin:
        members = (await admin.list_nodes()).members
    emit(options.output, members, lambda: node_table(members))
    if not members:
        note("No node is registered.")
