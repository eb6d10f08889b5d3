"""The database is away under load: ``python -m tests.robustness.database_away``."""

from __future__ import annotations

import argparse
import asyncio
import shutil
import sys
import tempfile
from pathlib import Path

from goverse.coordination.supervised import EtcdOptions, EtcdProcess
from tests.robustness.report import keep
from tests.support.databases import DATABASES
from tests.support.durable_cluster import Outage, database_away, running

CALLERS = 200


async def outage(seconds: float, folder: Path, kind: str) -> Outage:
    """Raises AssertionError if something spins, grows, or does not recover."""
    etcd = EtcdProcess(EtcdOptions(folder / "etcd"))
    await etcd.start()
    try:
        async with running(etcd, folder, kind) as (cluster, store):
            return await database_away(cluster, store, outage_s=seconds, callers=CALLERS)
    finally:
        await etcd.stop()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.database_away")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--database", choices=DATABASES, default="15")
    parser.add_argument("--reports", type=Path, default=Path("reports"))
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="goverse-robustness."))
    found = asyncio.run(outage(given.seconds, folder, given.database))
    shutil.rmtree(folder)
    keep(given.reports, "database-away.txt", str(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
