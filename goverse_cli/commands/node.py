"""``node list|cordon|uncordon|drain|decommission``."""

from __future__ import annotations

import click

from goverse_cli.commands.members import node_table
from goverse_cli.commands.node_drain import decommission, drain
from goverse_cli.output import emit, note
from goverse_cli.session import Options, run_async, shared_options


@click.group()
def node() -> None:
    """Nodes, which host objects.

    \b
    Examples:
      goverse-cli node list
      goverse-cli node drain n2
      goverse-cli node decommission n2 --yes
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


@node.command("cordon")
@click.argument("name")
@shared_options
@run_async
async def node_cordon(options: Options, name: str) -> None:
    """Give a node no new shards. It keeps and serves those that it has.

    That holds for the name, through restarts of the node and of the leader, until it is
    uncordoned. Cordoning a node that is drained stops the draining. Only while no other node takes
    shards does a cordoned one get those that have none.

    \b
    Examples:
      goverse-cli node cordon n2
      goverse-cli node cordon n2 -o json | jq -r .state
    """
    async with options.admin() as admin:
        found = await admin.cordon_node(name)
    emit(options.output, found, lambda: node_table((found,)))


@node.command("uncordon")
@click.argument("name")
@shared_options
@run_async
async def node_uncordon(options: Options, name: str) -> None:
    """Let a node have shards again. Succeeds if it was not cordoned, and if it is away.

    Shards come back to it as balance wants it, some at a time: goverse-cli shard rebalance
    --dry-run shows which.

    \b
    Examples:
      goverse-cli node uncordon n2
    """
    async with options.admin() as admin:
        found = await admin.uncordon_node(name)
    emit(options.output, found, lambda: node_table((found,)))
    if not found.state:
        note(f"{name} is away; it is given shards once it is back.")


node.add_command(drain)
node.add_command(decommission)
