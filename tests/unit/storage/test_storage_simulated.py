"""The in-memory store in simulated time, with the faults of the test kit."""

from __future__ import annotations

import pytest

from goverse.ids import Epoch, ObjectId
from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.memory import MemoryStore
from goverse.storage.values import Fence, ObjectCommit, State, Verdict
from goverse.testing import STORE, Faults, SimLoop, run_virtual, sim_runtime
from goverse.testing.channel import FaultyChannel

OBJECT = ObjectId("Thing", "o")


def commit(opening: int, version: int, data: bytes = b"x") -> ObjectCommit:
    return ObjectCommit(Fence(1, Epoch(1, 1), opening), OBJECT, version, State(data))


def test_a_slow_path_delivers_late_and_a_raise_shuts_it_out() -> None:
    async def main(loop: SimLoop) -> None:
        runtime = sim_runtime(1, "n1")
        faults = Faults(runtime.random)
        store = MemoryStore(runtime)
        path = FaultyChannel(faults, "n1", server=STORE)
        client = store.connect(path, operation_timeout_s=1.0)
        beside = store.connect()
        await client.raise_fence([1], Epoch(1, 1), "n1", 1)
        faults.slow("n1", STORE, 5.0)
        with pytest.raises(OutcomeUnknown):
            await client.commit([commit(1, 0, b"late")])
        await beside.raise_fence([1], Epoch(1, 1), "n1", 2)
        [done] = await beside.commit([commit(2, 0, b"new")])
        assert done.verdict is Verdict.DONE
        # Goes the same way as the late commit, and therefore comes after it.
        await store.connect(path, operation_timeout_s=60.0).cluster_id()
        found = (await beside.load([OBJECT]))[OBJECT]
        assert (found.version, found.state) == (1, State(b"new"))

    run_virtual(main, seed=1)


def test_a_late_commit_is_written_where_nobody_raised() -> None:
    async def main(loop: SimLoop) -> None:
        runtime = sim_runtime(2, "n1")
        faults = Faults(runtime.random)
        store = MemoryStore(runtime)
        path = FaultyChannel(faults, "n1", server=STORE)
        client = store.connect(path, operation_timeout_s=1.0)
        await client.raise_fence([1], Epoch(1, 1), "n1", 1)
        faults.slow("n1", STORE, 5.0)
        with pytest.raises(OutcomeUnknown):
            await client.commit([commit(1, 0, b"late")])
        patient = store.connect(path, operation_timeout_s=60.0)
        assert (await patient.load([OBJECT]))[OBJECT].state == State(b"late")

    run_virtual(main, seed=2)


def test_a_closed_port_is_refused_at_once() -> None:
    async def main(loop: SimLoop) -> None:
        runtime = sim_runtime(3, "n1")
        faults = Faults(runtime.random)
        client = MemoryStore(runtime).connect(FaultyChannel(faults, "n1", server=STORE))
        faults.close_port(STORE)
        with pytest.raises(StorageUnavailable, match="refused"):
            await client.load([OBJECT])
        assert client.snapshot().unknown == 0

    run_virtual(main, seed=3)
