"""Histories of registers and counters on a real database, while nodes die and stand still and the
database is restarted: ``python -m tests.robustness.histories --database mariadb``.

Each object is called by several callers at a time, plainly and under call ids, and its history
must be linearizable. A call with an id is repeated under it until its outcome is known; a plain
one whose outcome is not known may take effect at any time, or never.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import secrets
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import goverse
import goverse.client
from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from goverse.errors import Executed, GoverseError
from goverse.testing.linearizability import UNKNOWN, Operation
from goverse.testing.processes import ProcessCluster
from tests.robustness.report import keep
from tests.simulation.exactly import unexplained
from tests.simulation.kept import Cell, Tally
from tests.support.callers import Callers
from tests.support.databases import DATABASES, DatabaseServer
from tests.support.durable_cluster import LEASE_TTL_S, NODES, running
from tests.support.eventually import eventually
from tests.support.pacing import last

CALLERS = 3
#: Between two calls of a caller, at most.
PAUSE_S = 0.6
#: Callers of one object meet at the multiples of this: most calls are over in a millisecond or two.
MEET_S = 0.5
CALL_S = 5.0
#: From the last fault until all that has an id is answered.
SETTLE_S = 60.0
_WRITES, _READS = {Cell: "write", Tally: "add"}, {Cell: "read", Tally: "get"}
#: Of the calls of a run: overlapping with another one of their object, at least.
OVERLAP = 0.1


@dataclass
class Run:
    """What callers were told, and what was done to them meanwhile."""

    seed: int
    operations: list[Operation] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    repeated: int = 0

    def violations(self) -> list[str]:
        """What contradicts the promises, and what was too mild to show that they are kept."""
        found = list(unexplained(self.operations))
        if self.overlap < OVERLAP:
            found.append(f"too mild: {self.overlap:.0%} of the calls overlap")
        if not self.unknown:
            found.append("too mild: no call was cut off")
        return found

    @property
    def unknown(self) -> int:
        return sum(one.result is UNKNOWN for one in self.operations)

    @property
    def overlap(self) -> float:
        """The part of the calls that began before an earlier one of their object had returned."""
        until: dict[str, float] = {}
        overlapping = 0
        for one in sorted(self.operations, key=lambda one: one.called):
            overlapping += one.called < until.get(one.object, 0.0)
            if one.result is not UNKNOWN:
                until[one.object] = max(until.get(one.object, 0.0), one.returned)
        return overlapping / max(1, len(self.operations))

    def __str__(self) -> str:
        objects = len({one.object for one in self.operations})
        return (
            f"{objects} objects, {len(self.operations)} calls, {self.overlap:.0%} overlap, "
            f"{self.unknown} unknown, {self.repeated} repeated by their callers; "
            f"{len(self.faults)} faults: {', '.join(self.faults)}"
        )


class HistoryCallers(Callers):
    """Callers of registers, whose numbers are even, and of counters."""

    def __init__(self, client: goverse.client.Client, run: Run, objects: int) -> None:
        super().__init__()
        self._client = client
        self._run = run
        self._prefix = secrets.token_hex(4)
        self._objects = objects

    def calls(self) -> Iterable[Coroutine[Any, Any, None]]:
        return [
            self._go_on(number, caller)
            for number in range(self._objects)
            for caller in range(CALLERS)
        ]

    async def _go_on(self, number: int, caller: int) -> None:
        chance = random.Random(f"{self._run.seed}-{number}-{caller}")
        for count in itertools.count(1):
            if self.stopping:
                return
            await self._call(number, f"{self._prefix}-{number}-{caller}-{count}", chance)
            await last(chance.uniform(0, PAUSE_S))
            if chance.random() < 0.7:
                # Not all objects at the same time.
                shift_s = number / self._objects * MEET_S
                await last(MEET_S - (time.monotonic() + shift_s) % MEET_S)

    async def _call(self, number: int, token: str, chance: random.Random) -> None:
        type = Cell if number % 2 == 0 else Tally
        writes, amount = chance.random() < 0.6, chance.randrange(1, 1000)
        call_id = token if writes and chance.random() < 0.5 else None
        action = _WRITES[type] if writes else _READS[type]
        arguments = (amount,) if writes else ()
        name = f"h{number}"
        reference = goverse.options(self._client.get(type, name), timeout_s=CALL_S, call_id=call_id)
        made = partial(
            Operation, f"{type.__name__}/{name}", (action, *arguments), time.monotonic(), name=token
        )
        while True:
            try:
                result = await getattr(reference, action)(token, *arguments)
            except GoverseError as error:
                if call_id is not None:
                    self._run.repeated += 1
                    await last(0.2)
                    continue
                if writes and error.executed is not Executed.NO:
                    self._run.operations.append(made())
            else:
                self._run.operations.append(made(returned=time.monotonic(), result=result))
            return


async def faults(
    cluster: ProcessCluster, store: DatabaseServer, run: Run, chance: random.Random, seconds: float
) -> None:
    """One after the other, and everything is there again between two."""
    until = time.monotonic() + seconds
    kinds = ["kill", "pause", "database"]
    while time.monotonic() < until:
        await last(chance.uniform(1.0, 3.0))
        kind, name = kinds[len(run.faults) % len(kinds)], chance.choice(NODES)
        run.faults.append(kind if kind == "database" else f"{kind} {name}")
        if kind == "kill":
            await cluster.kill(name)
            await last(chance.uniform(0.0, LEASE_TTL_S + 1))
            await cluster.start_node(name, GOVERSE_STORAGE__URL=store.settings().url)
        elif kind == "pause":
            process = cluster.servers[name].process
            process.send_signal(signal.SIGSTOP)
            try:
                await last(chance.uniform(0.5, 2 * LEASE_TTL_S))
            finally:
                process.send_signal(signal.SIGCONT)
        else:
            await store.kill()
            await last(chance.uniform(0.0, 1.0))
            await store.start()
        await cluster.wait_ready()


async def histories(kind: str, objects: int, seconds: float, seed: int, folder: Path) -> Run:
    run = Run(seed)
    etcd = EtcdProcess(EtcdOptions(folder / "etcd"))
    await etcd.start()
    try:
        async with (
            running(etcd, folder, kind, modules=("tests.simulation.kept",)) as (cluster, store),
            goverse.client.connect(cluster.servers["g1"].address) as client,
            HistoryCallers(client, run, objects) as callers,
        ):
            await eventually(lambda: len(run.operations) > objects, 60)
            await faults(cluster, store, run, random.Random(seed), seconds)
            async with asyncio.timeout(SETTLE_S):
                await callers.stop()
    finally:
        await etcd.stop()
    return run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.histories")
    parser.add_argument("--database", choices=DATABASES, default="15")
    parser.add_argument("--objects", type=int, default=200)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, help="default: a new one")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    with tempfile.TemporaryDirectory(prefix="goverse-histories.") as folder:
        run = asyncio.run(
            histories(given.database, given.objects, given.seconds, seed, Path(folder))
        )
    wrong = run.violations()
    lines = [f"histories on {given.database}: {run}"]
    lines += [f"WRONG: {text}" for text in wrong]
    lines.append(f"seed {seed}: {'FAILED' if wrong else 'ok'}")
    keep(given.reports, "histories.txt", "\n".join(lines))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
