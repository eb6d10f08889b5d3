"""The coordinator forgets: an old copy of etcd's data is put back under a running cluster."""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

import goverse.client
from goverse.coordination.supervised import EtcdProcess
from tests.support.durable_counter import DurableCounter, Load
from tests.support.etcd import advance
from tests.support.eventually import eventually
from tests.system.test_durable_failure import CALLERS, COUNTERS, running

pytestmark = pytest.mark.system

REPEATED = 20
ELSEWHERE = 500
RECOVERY_S = 60.0


def fences(session: Any) -> dict[int, tuple[int, int]]:
    """Of every slot the epoch under which it was last opened: generation and revision."""
    rows = session.execute("SELECT slot, generation, revision FROM goverse_fences")
    return {slot: (generation, revision) for slot, generation, revision in rows}


async def test_L36_an_old_copy_of_etcd_costs_no_acknowledged_effect_and_no_epoch(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    data, copy = etcd.options.data_dir / "data", tmp_path / "copy"
    async with running(etcd, tmp_path, "18") as (cluster, postgres):
        async with (
            goverse.client.connect(cluster.servers["g1"].address) as client,
            Load(client, counters=COUNTERS, callers=CALLERS) as load,
        ):
            await eventually(lambda: load.all_answered_after(0), timeout_s=30)
            await etcd.stop()
            shutil.copytree(data, copy)
            await etcd.start()

            async def repeat() -> list[int]:
                """The same calls every time: each counts once, and always answers the same."""
                calls = [
                    goverse.options(
                        client.get(DurableCounter, "repeated"), call_id=f"r{number}", timeout_s=60
                    ).add()
                    for number in range(REPEATED)
                ]
                return [value for value, _ in await asyncio.gather(*calls)]

            answers = await repeat()
            assert sorted(answers) == list(range(1, REPEATED + 1))
            # What the copy does not know: that n3 has died, and who owns its shards since. So much
            # was written that the revisions of the copy will not come up to that soon.
            await advance(etcd.endpoint, ELSEWHERE)
            killed_at = time.monotonic()
            await cluster.kill("n3")
            await eventually(lambda: load.all_answered_after(killed_at), timeout_s=RECOVERY_S)
            with postgres.connect() as session:
                before = fences(session)
            assert max(before.values()) > (1, ELSEWHERE)

            await etcd.kill()
            shutil.rmtree(data)
            shutil.copytree(copy, data)
            restored_at = time.monotonic()
            await etcd.start()
            # The claims that the copy knows still stand at first: until those of the dead node have
            # ended, nobody opens anything again.
            with postgres.connect() as session:
                await eventually(
                    lambda: max(fences(session).values()) > (2, 0), timeout_s=RECOVERY_S
                )
            raised_at = time.monotonic()
            await eventually(lambda: load.all_answered_after(raised_at), timeout_s=RECOVERY_S)
            print(f"all counters answered {time.monotonic() - restored_at:.1f} s after it")
            assert await repeat() == answers
            await load.stop()
            await load.check()
            await cluster.wait_ready("n1", "n2", "g1")
            with postgres.connect() as session:
                after = fences(session)
            assert all(after[slot] >= epoch for slot, epoch in before.items())
