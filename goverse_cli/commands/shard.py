"""``shard list|get|pin|unpin|rebalance|locks``."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from goverse.admin.api import (
    MAX_LOCKS,
    MAX_SHARDS,
    Admin,
    ClusterStatus,
    Lock,
    Shard,
    ShardPlan,
)
from goverse_cli.exits import CliError, Exit
from goverse_cli.output import emit, fields, note, rows
from goverse_cli.session import Options, run_async, shared_options

STATES = ("owned", "migrating", "unclaimed", "unassigned", "pinned")

_POLL_S = 0.1


@click.group()
def shard() -> None:
    """Shards: what is owned by nodes, and moves between them.

    \b
    Examples:
      goverse-cli shard list --state pinned
      goverse-cli shard pin 42 --node n2 --wait
      goverse-cli shard rebalance --dry-run
      goverse-cli shard locks
    """


@shard.command("list")
@click.option("--node", default="", help="Shards owned by, targeted at or pinned to this node.")
@click.option("--state", type=click.Choice(STATES), default=None, help="Shards in this state.")
@click.option(
    "--limit", type=click.IntRange(1, 65_536), default=65_536, help="Show at most so many."
)
@shared_options
@run_async
async def shard_list(options: Options, node: str, state: str | None, limit: int) -> None:
    """List shards with their target, owner and pin.

    \b
    Examples:
      goverse-cli shard list --node n2
      goverse-cli shard list --state migrating
      goverse-cli shard list --state pinned -o json | jq '.[].shard'
    """
    found: list[Shard] = []
    token = ""
    async with options.admin() as admin:
        while len(found) < limit:
            size = min(limit - len(found), MAX_SHARDS)
            page = await admin.list_shards(
                node=node, state=state or "", page_size=size, page_token=token
            )
            found.extend(page.shards)
            token = page.next_page_token
            if not token:
                break
    emit(options.output, found, lambda: _table(found))
    if token:
        note(f"There are more; this shows the first {len(found)} (--limit).")


@shard.command("get")
@click.argument("number", type=click.IntRange(0, 65_535))
@shared_options
@run_async
async def shard_get(options: Options, number: int) -> None:
    """Show one shard: where it should be, where it is, its pin, and why it does not move.

    \b
    Examples:
      goverse-cli shard get 42
      goverse-cli shard get 42 -o json | jq -r .owner
    """
    async with options.admin() as admin:
        _show(options, await admin.get_shard(number))


@shard.command("pin")
@click.argument("number", type=click.IntRange(0, 65_535))
@click.option("--node", required=True, help="The node to keep it on.")
@click.option("--wait", is_flag=True, help="Return once it is there (within --timeout).")
@shared_options
@run_async
async def shard_pin(options: Options, number: int, node: str, wait: bool) -> None:
    """Keep a shard on a node, across restarts, until it is unpinned.

    While that node is away the shard lives elsewhere, and status warns; it returns with the node.

    \b
    Examples:
      goverse-cli shard pin 42 --node n2
      goverse-cli shard pin 42 --node n2 --wait --timeout 30s
    """
    async with options.admin() as admin:
        found = await admin.pin_shard(number, node=node)
        if wait:
            found = await _wait(options, admin, found, f"on {node}", lambda now: now.owner == node)
    _show(options, found)
    if found.owner != node:
        note(f"Pinned. It moves to {node} soon; see: goverse-cli shard get {number}")


@shard.command("unpin")
@click.argument("number", type=click.IntRange(0, 65_535))
@shared_options
@run_async
async def shard_unpin(options: Options, number: int) -> None:
    """Give a shard back to the balance. Succeeds if it is not pinned.

    \b
    Examples:
      goverse-cli shard unpin 42
    """
    async with options.admin() as admin:
        _show(options, await admin.unpin_shard(number))


@shard.command("rebalance")
@click.option("--dry-run", is_flag=True, help="Only show what the leader would do now.")
@click.option(
    "--limit", type=click.IntRange(0, 10_000), default=40, help="Moves in the table (default 40)."
)
@shared_options
@run_async
async def shard_rebalance(options: Options, dry_run: bool, limit: int) -> None:
    """Let the leader plan now, without waiting for stability or a cooldown.

    Shows every move that is wanted: those that begin, and those that are held with the reason.
    The limits of a batch and of a rate stand. With --dry-run nothing changes, and what is waited
    for is shown as held. A plan of strategy count or load moves nothing while every node is within
    cluster.imbalance_threshold of its share.

    \b
    Examples:
      goverse-cli shard rebalance --dry-run
      goverse-cli shard rebalance --dry-run -o json | jq '.held'
      goverse-cli shard rebalance
    """
    async with options.admin() as admin:
        if dry_run:
            found = await admin.plan_shards()
        else:
            found = await _rebalanced(options, await admin.get_status())
    emit(options.output, found, lambda: _plan_table(found, limit))
    if options.output == "table" and found.wanted > limit:
        note(f"There are {found.wanted} wanted moves; this shows the first {limit} (--limit).")


async def _rebalanced(options: Options, status: ClusterStatus) -> ShardPlan:
    """By the leader itself: it checks who asks, and nobody can ask it in somebody's name."""
    addresses = {node.name: node.address for node in status.nodes}
    if status.leader not in addresses:
        raise CliError("no node leads at this moment", Exit.UNAVAILABLE, "try again in a moment")
    async with options.node(addresses[status.leader]) as leader:
        return await leader.rebalance_shards()


@shard.command("locks")
@click.option("--node", default="", help="Only shards of this node.")
@click.option(
    "--limit", type=click.IntRange(1, MAX_LOCKS), default=40, help="Show at most so many."
)
@shared_options
@run_async
async def shard_locks(options: Options, node: str, limit: int) -> None:
    """List shards that turns hold, and who waits for them.

    First those that somebody wants alone, to open, close or hand them over, for the longest time;
    then those that have been held longest. The object is the oldest holder that has begun, and age
    says for how long it has run. Once a shard has been wanted for node.latch_max_hold (sealed), a
    holder that stays as long again is cancelled, and cut loose if it does not end.

    \b
    Examples:
      goverse-cli shard locks
      goverse-cli shard locks --node n2 --limit 5
      goverse-cli shard locks -o json | jq '.locks[] | select(.purpose != "")'
    """
    async with options.admin() as admin:
        found = await admin.list_locks(node=node, limit=limit)
    emit(options.output, found, lambda: _locks_table(found.locks))
    for name in found.unreachable:
        note(f"node {name} did not answer: its shards are missing")
    if len(found.locks) == limit:
        note(f"There may be more; this shows the first {limit} (--limit).")


def _locks_table(locks: Iterable[Lock]) -> Table:
    return rows(
        ("shard", "node", "state", "wanted to", "for", "holders", "held", "object", "call", "age"),
        (
            (
                *(lock.shard, lock.node, lock.state + (" sealed" if lock.sealed else "")),
                lock.purpose.replace("_", " "),
                f"{lock.wanted_s:.1f} s" if lock.purpose else "",
                *(lock.holders, lock.held),
                f"{lock.object}.{lock.method}" if lock.object else "",
                lock.call_id,
                f"{lock.age_s:.1f} s" if lock.object else "",
            )
            for lock in locks
        ),
    )


def _plan_table(found: ShardPlan, limit: int) -> RenderableType:
    begin = sum(not move.held for move in found.moves)
    held = ", ".join(f"{held.shards} {held.reason}" for held in found.held)
    parts: list[RenderableType] = [
        fields(
            (
                ("strategy", found.strategy),
                ("leader", found.leader),
                ("stable", found.stable),
                ("balanced", found.balanced),
                ("decisions", ", ".join(found.decisions)),
                ("moves", f"{found.wanted} wanted, {begin} begin now"),
                ("held", held),
            )
        ),
        Text(f"\nnodes: {len(found.nodes)}", style="bold"),
        rows(
            ("node", "weight", "takes", "shards", "after", "level", "after", "cpu", "memory"),
            (
                (
                    *(n.node, n.weight, n.accepts, n.shards, n.shards_after),
                    *(n.level, n.level_after, n.cpu, n.memory),
                )
                for n in found.nodes
            ),
        ),
    ]
    if found.moves and limit:
        parts.append(Text("\nmoves", style="bold"))
        parts.append(
            rows(
                ("shard", "from", "to", "reason", "held", "load"),
                (
                    (m.shard, m.source, m.target, m.reason, m.held, m.load)
                    for m in found.moves[:limit]
                ),
            )
        )
    return Group(*parts)


async def _wait(
    options: Options, admin: Admin, found: Shard, what: str, done: Callable[[Shard], bool]
) -> Shard:
    try:
        async with asyncio.timeout(options.timeout_s):
            while not done(found):
                await asyncio.sleep(_POLL_S)
                found = await admin.get_shard(found.shard)
    except TimeoutError:
        raise CliError(
            f"shard {found.shard} is not {what} after {options.timeout_s:g} s: it is "
            f"{found.state}, owned by {found.owner or 'nobody'}",
            Exit.TIMEOUT,
            "the pin stands; goverse-cli status says what is in the way",
        ) from None
    return found


def _show(options: Options, found: Shard) -> None:
    emit(
        options.output,
        found,
        lambda: fields(
            (
                ("shard", found.shard),
                ("state", found.state),
                ("target", found.target),
                ("owner", found.owner),
                ("address", found.owner_address),
                ("epoch", found.epoch),
                ("pinned", _pin(found)),
                *(("why", sentence) for sentence in found.why),
            )
        ),
    )


def _table(found: list[Shard]) -> Table:
    return rows(
        ("shard", "state", "target", "owner", "epoch", "pinned"),
        ((s.shard, s.state, s.target, s.owner, s.epoch, _pin(s)) for s in found),
    )


def _pin(found: Shard) -> str:
    if not found.pinned:
        return "no"
    return f"to {found.pinned_node}" + (" (away: failed over)" if found.failed_over else "")
