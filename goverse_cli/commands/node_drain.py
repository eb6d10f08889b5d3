"""``node drain`` and ``node decommission``: long work, watched until it is done."""

from __future__ import annotations

import asyncio
import dataclasses
import sys

import click

from goverse.admin.api import Admin, Member
from goverse.errors import GoverseError
from goverse_cli.commands.members import node_table
from goverse_cli.exits import CliError, Exit
from goverse_cli.output import emit, note
from goverse_cli.session import Options, run_async, shared_options

#: Without ``--timeout``: a turn may run long, and thousands of shards move in a minute.
DEFAULT_WAIT_S = 300.0

_POLL_S = 0.2
_SHARDS_EXPLAINED = 3


@click.command("drain")
@click.argument("name")
@click.option("--no-wait", is_flag=True, help="Do not wait until it has no shards.")
@shared_options
@run_async
async def drain(options: Options, name: str, no_wait: bool) -> None:
    """Move all shards away from a node, which goes on running and is given no new ones.

    No call is lost: shards move as they do for balance, all of them at once. Waits until the node
    has none (--timeout, 5m by default), and says on standard error how many are left. After a
    timeout, or Ctrl-C, the draining goes on; run it again to watch, or uncordon the node. Its
    state holds for its name, through restarts, until: goverse-cli node uncordon.

    \b
    Examples:
      goverse-cli node drain n2
      goverse-cli node drain n2 --timeout 2m
      goverse-cli node drain n2 --no-wait -o json
    """
    async with options.admin() as admin:
        found = await admin.cordon_node(name, drain=True)
        if not no_wait:
            deadline = asyncio.get_running_loop().time() + options.patience_s(DEFAULT_WAIT_S)
            found = await _drained(options, admin, found, deadline)
    emit(options.output, found, lambda: node_table((found,)))


@click.command("decommission")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@shared_options
@run_async
async def decommission(options: Options, name: str, yes: bool) -> None:
    """Drain a node, then have it leave the cluster and exit.

    Nothing is lost and nothing is cut off: a node that still has shards when the time is over
    (--timeout, 5m by default) goes on running, drained as far as it got. What starts it again (a
    container, systemd) must be told that it is gone; if it comes back all the same, it is given no
    shards until it is uncordoned.

    \b
    Examples:
      goverse-cli node decommission n2
      goverse-cli node decommission n2 --yes --timeout 10m
    """
    deadline = asyncio.get_running_loop().time() + options.patience_s(DEFAULT_WAIT_S)
    async with options.admin() as admin:
        nodes = {node.name: node for node in (await admin.list_nodes()).members}
        # Whom the deed is done to is looked up before anybody is asked about it.
        if name not in nodes:
            known = ", ".join(nodes) or "none"
            raise CliError(f"node {name!r} is not in the cluster; the nodes are: {known}",
                           Exit.NOT_FOUND)  # fmt: skip
        _ask(f"End {name} ({nodes[name].address}, {nodes[name].claimed} shards) for good?", yes)
        found = await admin.cordon_node(name, drain=True)
        found = await _drained(options, admin, found, deadline)
        # The one that leaves cannot tell that it has left.
        others = [node.address for node in nodes.values() if node.name != name]
    async with options.node(found.address) as leaving:
        await leaving.decommission_node(name)
    note(f"{name} leaves")
    await _gone(options, name, found.incarnation, others, deadline)
    left = dataclasses.replace(found, state="left")
    emit(options.output, left, lambda: node_table((left,)))


async def _drained(options: Options, admin: Admin, found: Member, deadline: float) -> Member:
    """``found`` once it has no shards. Raises CliError, saying what keeps it, at ``deadline``."""
    told = -1
    try:
        async with asyncio.timeout_at(deadline):
            while True:
                left = max(found.claimed, found.targeted)
                if left != told:
                    note(f"{found.name}: {left} shards left")
                    told = left
                if not left:
                    return found
                await asyncio.sleep(_POLL_S)
                nodes = (await admin.list_nodes()).members
                now = next((node for node in nodes if node.name == found.name), None)
                if now is None:
                    raise CliError(f"{found.name} has left the cluster meanwhile", Exit.NOT_FOUND)
                if now.state in ("active", "cordoned"):
                    raise CliError(f"{found.name} is {now.state} again: somebody called it off",
                                   Exit.REFUSED)  # fmt: skip
                found = now
    except TimeoutError:
        pass
    for sentence in await _in_the_way(admin, found.name):
        note(sentence)
    raise CliError(
        f"{found.name} has {found.claimed} shards after {options.patience_s(DEFAULT_WAIT_S):g} s",
        Exit.TIMEOUT,
        f"it goes on draining; run this again with more --timeout, or: goverse-cli node uncordon "
        f"{found.name}",
    )


async def _in_the_way(admin: Admin, name: str) -> list[str]:
    """Why the first of its shards do not move."""
    told = []
    try:
        page = await admin.list_shards(node=name, page_size=_SHARDS_EXPLAINED)
        for shard in page.shards:
            why = (await admin.get_shard(shard.shard)).why
            told.append(f"shard {shard.shard}: {'; '.join(why) or 'it is on its way'}")
    except GoverseError as error:
        told.append(f"why is not known: {error.message}")
    return told


async def _gone(
    options: Options, name: str, incarnation: str, others: list[str], deadline: float
) -> None:
    """Wait until another node sees that the process is no member any more."""
    try:
        async with asyncio.timeout_at(deadline):
            for address in others:
                if await _seen_to_go(options, address, name, incarnation):
                    return
    except TimeoutError:
        pass
    raise CliError(
        f"{name} was told to leave, and nobody could tell that it has",
        Exit.TIMEOUT,
        "see: goverse-cli node list",
    )


async def _seen_to_go(options: Options, address: str, name: str, incarnation: str) -> bool:
    """False: the node at ``address`` does not answer."""
    try:
        async with options.node(address) as admin:
            while any(  # noqa: ASYNC110
                node.name == name and node.incarnation == incarnation
                for node in (await admin.list_nodes()).members
            ):
                await asyncio.sleep(_POLL_S)
            return True
    except GoverseError:
        return False


def _ask(question: str, yes: bool) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise CliError(
            "this is no terminal, so nobody can be asked; nothing was changed",
            Exit.REFUSED,
            "pass --yes if you mean it",
        )
    if not click.confirm(question, err=True):
        raise CliError("nothing was changed", Exit.REFUSED)
