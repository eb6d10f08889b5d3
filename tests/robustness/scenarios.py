"""A bank under load and faults: ``python -m tests.robustness.scenarios``."""

from __future__ import annotations

import argparse
import asyncio
import pickle
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

import goverse.client
from goverse.errors import GoverseError
from tests.robustness import ledger
from tests.robustness.faults import GATES, Fault, Minima, Step, plan
from tests.robustness.report import FaultRecord, Report, write
from tests.robustness.traffic import Caller, Traffic
from tests.robustness.validate import violations
from tests.robustness.world import World, open_world
from tests.support.databases import DATABASES
from tests.support.pacing import last

FULL = Minima(kills=25, pauses=15, cuts=15, restarts=3, unknown=50, fenced=3)
#: The two-minute form, in `make test`.
SHORT = Minima(kills=4, pauses=3, cuts=3, restarts=1, unknown=5, fenced=1)

ACCOUNTS = tuple(f"account-{number}" for number in range(20))
CALLERS = 60
#: The longest that anything may take to work again once a fault is undone.
RECOVERY_LIMIT_S = 30.0
REST_LIMIT_S = 30.0
#: Before the first fault of a step, and behind its last: callers do not think from one to the
#: other, so that much is under way at each.
RUSH_S = 0.3


@dataclass
class Run:
    """One run, as far as it has come."""

    world: World
    traffic: Traffic
    report: Report
    began: float = field(default_factory=time.monotonic)

    def now(self) -> float:
        return time.monotonic() - self.began

    async def go(self, steps: list[Step]) -> None:
        traffic = self.traffic
        await traffic.pay_in()
        traffic.start()
        scraping = asyncio.create_task(self.world.keep_scraping(), name="scraping")
        try:
            await self._recovered(time.monotonic())
            for step in steps:
                await self._step(step)
            await traffic.stop()
            await traffic.look_up_the_rest()
            self.report.rest_s = await self.world.wait_at_rest(REST_LIMIT_S)
            await self.world.scrape()
        finally:
            scraping.cancel()
            traffic.abandon()
        await self._judge()

    async def _step(self, step: Step) -> None:
        await last(step.gap_s - RUSH_S)
        self.traffic.rush = True
        await last(RUSH_S)
        records = [FaultRecord(str(fault), fault.kind) for fault in step.faults]
        self.report.faults += records
        pairs = zip(step.faults, records, strict=True)
        await asyncio.gather(*(self._one(fault, record) for fault, record in pairs))
        over = time.monotonic()
        await self._recovered(over)
        for record in records:
            record.recovered_s = self.now()
            record.paired = len(records) > 1
            print(record.line(), flush=True)

    async def _one(self, fault: Fault, record: FaultRecord) -> None:
        await last(fault.after_s)
        record.began_s, record.in_flight = self.now(), self.traffic.in_flight
        await self.world.begin(fault)
        await last(min(RUSH_S, fault.lasts_s))
        if record is self.report.faults[-1]:
            self.traffic.rush = False
        await last(max(fault.lasts_s - RUSH_S, 0.0))
        await self.world.undo(fault)
        record.undone_s = self.now()

    async def _recovered(self, since: float) -> None:
        """Until every process is ready, and every account and gate has answered a call that began
        after ``since``. Raises AssertionError."""
        while True:
            slow = [*await self.world.not_ready(), *self.traffic.silent_since(since)]
            if not slow:
                return
            if time.monotonic() - since > RECOVERY_LIMIT_S:
                raise AssertionError(f"not back after {RECOVERY_LIMIT_S:g} s: {', '.join(slow)}")
            await last(0.05)

    async def _judge(self) -> None:
        report, traffic = self.report, self.traffic
        client = traffic.callers[0].client
        answered = {}
        for account in ACCOUNTS:
            answered[account] = await client.get("Account", account).get_balance()
        final = await asyncio.to_thread(ledger.final, self.world.store, answered)
        report.count(traffic, self.world.counters, self.now())
        report.ledger_rows = len(final.rows)
        report.starts_again = self.world.restarts
        kept = self.world.cluster.folder / "history.pickle"
        kept.write_bytes(pickle.dumps((traffic.history, final)))
        report.violations = await asyncio.to_thread(violations, traffic.history, final)
        report.violations += self.world.faults_in_logs()
        report.violations += [
            f"the auditor finds a difference: {difference}"
            for difference in (await client.get("Auditor", "main").audit()).items()
        ]


async def robustness(
    seed: int, minima: Minima, folder: Path, *, limit_s: float, reports: Path, kind: str = "15"
) -> Report:
    """One run; its report says whether all was well. Raises what kept it from its end, after
    writing the report."""
    steps = plan(seed, minima)
    report = Report(seed, [str(step) for step in steps], minima)
    print(report.head(), flush=True)
    try:
        async with open_world(folder, kind) as world, _traffic(world, seed) as traffic:
            run = Run(world, traffic, report)
            try:
                async with asyncio.timeout(limit_s):
                    await run.go(steps)
            except TimeoutError:
                report.count(traffic, world.counters, run.now())
                raise AssertionError(f"{limit_s:g} s are over, and the run is not") from None
            except BaseException:
                report.count(traffic, world.counters, run.now())
                raise
    except (AssertionError, RuntimeError, GoverseError) as error:
        report.violations.append(f"the run did not come to its end: {error}")
    finally:
        write(report, reports)
    return report


@asynccontextmanager
async def _traffic(world: World, seed: int) -> AsyncIterator[Traffic]:
    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=200)) as http:
        async with _sessions(world) as callers:
            yield Traffic(callers, ACCOUNTS, random.Random(seed), http)


@asynccontextmanager
async def _sessions(world: World) -> AsyncIterator[list[Caller]]:
    """Four sessions: two at each gate."""
    first, second = (world.servers[name] for name in GATES)
    connect = goverse.client.connect
    async with (
        connect(first.address) as a,
        connect(second.address) as b,
        connect(first.address) as c,
        connect(second.address) as d,
    ):
        clients = ((a, first), (b, second), (c, first), (d, second))
        yield [
            Caller(f"caller {n}", gate.name, client, gate.http_address)
            for n in range(CALLERS)
            for client, gate in (clients[n % len(clients)],)
        ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.scenarios")
    parser.add_argument("--seed", type=int, default=None, help="default: a new one")
    parser.add_argument("--minutes", type=float, default=20.0, help="the longest that it may take")
    parser.add_argument("--kills", type=int, default=FULL.kills)
    parser.add_argument("--pauses", type=int, default=FULL.pauses)
    parser.add_argument("--cuts", type=int, default=FULL.cuts)
    parser.add_argument("--restarts", type=int, default=FULL.restarts, help="of each service")
    parser.add_argument("--short", action="store_true", help="the two-minute form")
    parser.add_argument("--database", choices=DATABASES, default="15")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(2**32) if given.seed is None else given.seed
    minima = SHORT
    if not given.short:
        asked = (given.kills, given.pauses, given.cuts, given.restarts)
        minima = Minima(*asked, unknown=FULL.unknown, fenced=FULL.fenced)
    folder = Path(tempfile.mkdtemp(prefix="goverse-robustness."))
    report = asyncio.run(
        robustness(
            seed,
            minima,
            folder,
            limit_s=given.minutes * 60,
            reports=given.reports,
            kind=given.database,
        )
    )
    print(report)
    if report.ok:
        shutil.rmtree(folder)
    else:
        print(f"the logs of all processes are in {folder}")
    return 0 if report.ok else 1


if __name__ == "__main__":
    sys.exit(main())
