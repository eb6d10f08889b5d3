"""What happens to shards that move, one trial after the other: each leaves the cluster whole.

What must hold is the same for all: no call is executed twice or lost, every shard is owned again,
durable state is what callers were told, and volatile state goes back only where its node has died.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.migration.older import ROOT
from tests.migration.scene import (
    DRAIN_TIMEOUT_S,
    LEASE_TTL_S,
    NODES,
    NUM_SHARDS,
    RECOVERY_S,
    WITHIN_S,
    Scene,
)
from tests.support.eventually import eventually
from tests.support.pacing import last
from tests.support.tally import Tally, turns
from tests.support.tallying import Added, Afresh, Called

Trial = Callable[[Scene], Awaitable[None]]

#: Of a planned move, from the pin to the last shard's arrival.
MOVED_S = 15.0
#: From the end of the turn that kept a shard to its arrival, at most: see `Ownership`.
_FIRST_PAUSE_S = 4.0


async def to_and_fro(scene: Scene, *, rounds: int = 4, shards: int = 16) -> None:
    """Shards go round and round under load, and declared state of volatile objects goes along."""
    chosen = scene.shards_called(shards)
    before = await scene.counted("goverse_moved_objects_total", outcome="restored")
    for _ in range(rounds):
        owners = await scene.owners()
        moves = {shard: _next(owners[shard]) for shard in chosen}
        async with scene.trial(
            "shards are pinned to and fro under load",
            "no call fails; volatile objects keep their declared state",
            within_s=MOVED_S,
        ) as record:
            scene.undone(record)
            await scene.pin(moves)
            await scene.arrived(moves)
            scene.recovered(record)
            # Each object is called before its shard moves on.
            await scene.answering(time.monotonic())
    restored = await scene.counted("goverse_moved_objects_total", outcome="restored") - before
    scene.report.figures["objects that came with their shards"] = int(restored)
    if restored < rounds * len(chosen):
        text = f"{restored:g} objects came with their shards, in {rounds} rounds of {len(chosen)}"
        scene.report.violations.append(text)
    await scene.unpin(chosen)
    await scene.at_home()


async def many_pairs(scene: Scene, *, rounds: int = 1) -> None:
    """Every shard moves at once, from every node to every other; then again, and half of them get
    another target while they move."""
    owners = await scene.owners()
    for _ in range(rounds):
        moves = _everywhere(scene, owners)
        async with scene.trial(
            "every shard moves at once, between every pair of nodes",
            "no call fails; all shards are owned again; volatile objects keep their state",
            within_s=MOVED_S,
        ) as record:
            scene.undone(record)
            await scene.pin(moves)
            await scene.arrived(moves)
            scene.recovered(record)
            await scene.answering(time.monotonic())
        before = await _begun_afresh(scene)
        owners = _everywhere(scene, moves)
        again = {shard: _next(node) for shard, node in owners.items() if shard % 2}
        async with scene.trial(
            "every shard moves at once, and half of them are sent elsewhere on their way",
            "no call fails; all shards are owned again; what begins afresh is counted",
            within_s=MOVED_S,
        ) as record:
            began = scene.undone(record)
            await scene.pin(owners)
            await scene.pin(again)
            owners |= again
            await scene.arrived(owners)
            scene.recovered(record)
            await scene.answering(time.monotonic())
        # State that was sent to one node is of no use to another: see goverse/cluster/DESIGN.md.
        counted = int(await _begun_afresh(scene) - before)
        scene.afresh.append(Afresh(began, time.monotonic(), counted))
        told = scene.report.figures.setdefault("objects that began afresh on their way", [])
        told.append(counted)
    async with scene.trial(
        "every pin is taken away at once",
        "no call fails; all shards are owned again, where balance wants them",
        within_s=MOVED_S,
    ) as record:
        began = scene.undone(record)
        await scene.unpin(range(NUM_SHARDS))
        await scene.at_home()
        scene.recovered(record)
        await scene.answering(began)


def _everywhere(scene: Scene, owners: dict[int, str]) -> dict[int, str]:
    """Another node for each shard."""
    return {
        shard: scene.chance.choice([name for name in NODES if name != owner])
        for shard, owner in owners.items()
    }


async def _begun_afresh(scene: Scene) -> float:
    """Objects that are known to begin afresh although their shard has moved as planned."""
    total = 0.0
    for outcome in ("superseded", "stale", "unsure", "no_target", "left_behind"):
        total += await scene.counted("goverse_moved_objects_total", outcome=outcome)
    return total


async def long_turn(scene: Scene, *, work_s: float = 1.5) -> None:
    """A turn that is longer than the drain timeout keeps its shard, and loses nothing by it."""
    shard, source, target = await _draining(scene)
    called, neighbour = _two_in(scene, shard)
    client = scene.load.clients[0]
    await scene.load.call(called, client)
    attempts = [_FIRST_PAUSE_S]
    while sum(attempts) < work_s:
        attempts.append(attempts[-1] * 2)
    async with scene.trial(
        f"a turn of {work_s:g} s in a shard that is to move",
        "the turn ends and answers; its shard serves meanwhile, and moves afterwards",
        within_s=attempts[-1] + 2 * DRAIN_TIMEOUT_S + 2.0,
    ) as record:
        turn = await _under_way(scene, called, work_s)
        await scene.pin({shard: target})
        await _called_off(scene, source, shard)
        longest = 0.0
        while not turn.done():
            made = await scene.load.call(neighbour, client)
            longest = max(longest, made.ended - made.began)
            await last(0.05)
        answered = await turn
        scene.undone(record)
        await scene.arrived({shard: target})
        scene.recovered(record)
        after = await scene.load.call(called, client)
        if (answered.value, after.value) != (2, 3):
            scene.report.violations.append(f"the long turn: {answered}, and then {after}")
        if longest > DRAIN_TIMEOUT_S + 1.0:
            text = f"a call beside the long turn waited {longest:.2f} s"
            scene.report.violations.append(text)
    await scene.unpin([shard])
    await scene.at_home()


async def called_off(scene: Scene) -> None:
    """A transfer is called off, and then its owner dies with the turn that kept it."""
    shard, source, target = await _draining(scene)
    called, neighbour = _two_in(scene, shard)
    client = scene.load.clients[0]
    async with scene.trial(
        "a transfer is called off, then the owner dies",
        "every shard is owned again within the lease and 3 s; the turn's caller is told `unknown`",
        within_s=RECOVERY_S,
    ) as record:
        turn = await _under_way(scene, called, 30.0)
        await scene.pin({shard: target})
        await _called_off(scene, source, shard)
        if not (await scene.load.call(neighbour, client)).value:
            scene.report.violations.append("the shard does not serve after it was called off")
        await scene.kill(source)
        since = scene.undone(record)
        await turn
        await scene.answering(since)
        scene.recovered(record)
        again = await scene.load.call(called, client)
        if again.value != 1:
            scene.report.violations.append(f"after its node died a volatile object says {again}")
    await scene.unpin([shard])
    await scene.back()


async def both_die(scene: Scene) -> None:
    """The source dies in mid-migration, and then the target as it takes over."""
    shard, source, target = await _draining(scene)
    called, _ = _two_in(scene, shard)
    async with scene.trial(
        "the source dies in mid-migration, then the target",
        "every shard is owned again within the lease and 3 s of the second death",
        within_s=RECOVERY_S,
    ) as record:
        turn = await _under_way(scene, called, 30.0)
        others = [s for s in scene.shards_called(64) if (await scene.owners()).get(s) == source]
        await scene.pin({shard: target, **dict.fromkeys(others[:8], target)})
        await scene.on_its_way(shard, target)
        await scene.kill(source)
        await scene.arrived({shard: target})
        await scene.kill(target)
        since = scene.undone(record)
        await turn
        await scene.answering(since)
        scene.recovered(record)
    await scene.unpin([shard, *others[:8]])
    await scene.back()


async def coordinator_lost(scene: Scene, *, outage_s: float = 0.0) -> None:
    """etcd is killed while every shard moves, and comes back ``outage_s`` later. If that outlasts
    the leases every object stops."""
    owners = await scene.owners()
    moves = {shard: _next(owner) for shard, owner in owners.items()}
    longer = outage_s > LEASE_TTL_S
    what = "the coordinator is lost in mid-migration"
    expected = (
        "every object stops, and answers again within the lease and 5 s of its return"
        if longer
        else "no call fails; the moves go on when it is back"
    )
    async with scene.trial(
        f"{what}, for longer than the leases" if longer else what,
        expected,
        # A lease that etcd comes back with is as long again.
        within_s=RECOVERY_S + 2.0,
    ) as record:
        pinning = asyncio.create_task(scene.pin(moves))
        await eventually(lambda: _some_on_their_way(scene, moves))
        await scene.etcd.kill()
        gone_at = time.monotonic()
        pinning.cancel()
        await asyncio.gather(pinning, return_exceptions=True)
        await last(outage_s)
        await scene.etcd.start()
        since = scene.undone(record)
        away = scene.report.figures.setdefault("etcd was away, s", [])
        away.append(round(since - gone_at, 2))
        await scene.answering(since)
        scene.recovered(record)
        await scene.pin(moves)
        await scene.arrived(moves)
    if longer and not record.lost_leases:
        scene.report.violations.append(f"{record.what}: too mild, no lease has ended")
    await scene.unpin(moves)
    await scene.at_home()


async def upgrade(scene: Scene) -> None:
    """Nodes of the version before are replaced by those of this one, one after the other, while
    calls come through a gate of each; then the older gate goes."""
    older = scene.older
    assert older is not None
    scene.report.figures["the older version"] = older.what
    await _runs_from(scene, {str(older.folder)})
    async with scene.trial(
        "rolling upgrade, node by node",
        "no call fails; durable state is kept, volatile state between nodes of the newer version",
        within_s=WITHIN_S,
    ) as record:
        began = scene.undone(record)
        if scene.postgres is not None:
            await scene.postgres.migrate()
        for name in NODES:
            status = await scene.cluster.stop(name)
            if status:
                scene.report.violations.append(f"{name} ended with status {status}")
            await scene.start_node(name)
            await scene.cluster.wait_ready(name)
        # What an older node had, it could not give to anybody.
        scene.afresh.append(Afresh(began, time.monotonic()))
        await scene.at_home()
        scene.recovered(record)
        await scene.answering(time.monotonic())
    await _runs_from(scene, {str(ROOT)})
    async with scene.trial(
        "the older gate goes once its callers use the newer one",
        "no call fails",
        within_s=WITHIN_S,
    ) as record:
        began = scene.undone(record)
        newer, _ = scene.load.clients
        scene.load.clients = [newer]
        await scene.answering(began)
        await scene.cluster.stop("g1")
        scene.recovered(record)


# -- parts ---------------------------------------------------------------------------------------


def _next(node: str) -> str:
    return NODES[(NODES.index(node) + 1) % len(NODES)]


async def _draining(scene: Scene) -> tuple[int, str, str]:
    """A shard, the node that has it, and the one that is to have it."""
    shard = scene.chance.randrange(NUM_SHARDS)
    source = (await scene.owners())[shard]
    return shard, source, _next(source)


def _two_in(scene: Scene, shard: int) -> tuple[Called, Called]:
    """Two objects in a shard, that nobody else calls."""
    number = len(scene.load.called)
    return (
        scene.load.beside(scene.object_on(shard, f"long-{number}")),
        scene.load.beside(scene.object_on(shard, f"beside-{number}")),
    )


async def _under_way(scene: Scene, called: Called, work_s: float) -> asyncio.Task[Added]:
    """A call whose turn has begun."""
    client = scene.load.clients[0]
    folder, known = scene.cluster.folder, len(called.calls)
    turn = asyncio.create_task(scene.load.call(called, client, work_s=work_s))
    await eventually(lambda: _begun(folder, called.name) > known)
    return turn


def _begun(folder: Path, name: str) -> int:
    """How many turns of an object have begun."""
    return sum(times for token, times in turns(folder).items() if token.startswith(f"{name}:"))


async def _called_off(scene: Scene, source: str, shard: int) -> None:
    server = scene.cluster.servers[source]
    said = f"the move of shard {shard} was called off"
    await eventually(lambda: said in server.log(), WITHIN_S)


async def _some_on_their_way(scene: Scene, moves: dict[int, str]) -> bool:
    """Whether some shards have arrived, some are on their way, and some are not yet."""
    state = await scene.state()
    claims = {shard: claim.member.name for shard, claim in state.claims.items()}
    arrived = sum(claims.get(shard) == node for shard, node in moves.items())
    moving = sum(claims.get(s) != target.node for s, target in state.targets.items())
    return arrived > 4 and moving > 0


async def _runs_from(scene: Scene, wanted: set[str]) -> None:
    """Raises AssertionError if a node's code comes from elsewhere."""
    owners = await scene.owners()
    shards = {node: shard for shard, node in owners.items()}
    client = scene.load.clients[0]
    found = {
        await client.get(Tally, scene.object_on(shard, "source")).source()
        for shard in shards.values()
    }
    assert len(shards) == len(NODES) and found == wanted, (found, wanted)
