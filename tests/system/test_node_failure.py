"""A node is killed, or paused past its lease, while clients call."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

import goverse.client
from goverse.errors import Executed, GoverseError
from goverse.testing.processes import ProcessCluster
from tests.support.balance import balanced
from tests.support.eventually import eventually
from tests.support.witness import Witness
from tests.system.conftest import LEASE_TTL_S

pytestmark = pytest.mark.system

NODES = ("n1", "n2", "n3")
CALLERS = 48
RECOVERY_S = LEASE_TTL_S + 2


@dataclass
class Outcome:
    object_id: str
    began: float
    ended: float
    activation: str = ""
    count: int = 0
    pid: int = 0
    error: GoverseError | None = None


async def _call_for_ever(
    client: goverse.client.Client, object_id: str, outcomes: list[Outcome], stop: asyncio.Event
) -> None:
    witness = client.get(Witness, object_id)
    while not stop.is_set():
        outcome = Outcome(object_id, time.monotonic(), 0.0)
        try:
            answer = await witness.touch(work_s=0.005)
            outcome.activation = str(answer["activation"])
            outcome.count = int(answer["count"])
            outcome.pid = int(answer["pid"])
        except GoverseError as error:
            outcome.error = error
        outcome.ended = time.monotonic()
        outcomes.append(outcome)


def _assert_one_activation_at_a_time(outcomes: list[Outcome]) -> None:
    """Per object: counts rise by one within an activation, and activations follow each other."""
    by_object: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.error is None:
            by_object.setdefault(outcome.object_id, []).append(outcome)
    for object_id, answered in by_object.items():
        spans: dict[str, list[Outcome]] = {}
        for outcome in answered:
            spans.setdefault(outcome.activation, []).append(outcome)
        for activation, mine in spans.items():
            counts = [outcome.count for outcome in mine]
            assert counts == sorted(set(counts)), f"{object_id}: {activation} repeats a turn"
        order = [outcome.activation for outcome in answered]
        changes = [a for a, b in zip(order, [None, *order], strict=False) if a != b]
        assert len(changes) == len(set(changes)), f"{object_id} went back to an old activation"


async def start(cluster: ProcessCluster) -> None:
    for name in NODES:
        await cluster.start_node(name)
    await cluster.start_gate("g1")
    await cluster.wait_ready()
    await balanced(cluster, *NODES)  # no shard leaves a node for any other reason any more


async def test_kill_9_fails_only_what_was_in_flight(cluster: ProcessCluster) -> None:
    await start(cluster)
    outcomes: list[Outcome] = []
    stop = asyncio.Event()
    async with goverse.client.connect(cluster.servers["g1"].address) as client:
        async with asyncio.TaskGroup() as callers:
            for number in range(CALLERS):
                callers.create_task(_call_for_ever(client, f"w{number}", outcomes, stop))
            await eventually(lambda: len({o.object_id for o in outcomes}) == CALLERS)
            victim = cluster.servers["n2"].process.pid
            killed_objects = {o.object_id for o in outcomes if o.pid == victim}
            assert killed_objects, "no object lived on the node to be killed"
            killed_at = time.monotonic()
            await cluster.kill("n2")

            def all_moved() -> bool:
                alive = {
                    o.object_id
                    for o in outcomes
                    if o.began > killed_at and o.error is None and o.pid != victim
                }
                return killed_objects <= alive

            await eventually(all_moved, timeout_s=30)
            stop.set()
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    assert all(o.error is not None and o.error.executed is Executed.UNKNOWN for o in failed)
    per_object = Counter(outcome.object_id for outcome in failed)
    assert set(per_object) <= killed_objects, "a call to a surviving node failed"
    assert all(times == 1 for times in per_object.values()), "a caller saw more than one failure"
    for outcome in failed:
        assert outcome.began < killed_at + 0.5
        assert outcome.ended - killed_at < 1.0, "an unanswered call was told too late"
    for outcome in outcomes:
        if outcome.error is None and outcome.object_id in killed_objects:
            assert outcome.ended - outcome.began < RECOVERY_S, "a held call waited too long"
    _assert_one_activation_at_a_time(outcomes)


async def test_paused_past_its_lease_a_node_is_ignored_and_starts_afresh(
    cluster: ProcessCluster, tmp_path: Path
) -> None:
    await start(cluster)
    async with goverse.client.connect(cluster.servers["g1"].address) as client:
        where = {}
        for number in range(60):
            answer = await client.get(Witness, f"w{number}").touch()
            where[f"w{number}"] = answer["pid"]
        paused = cluster.servers["n2"]
        on_paused = [name for name, pid in where.items() if pid == paused.process.pid]
        elsewhere = [name for name, pid in where.items() if pid != paused.process.pid]
        flag = tmp_path / "resumed"
        stale = [
            asyncio.create_task(
                goverse.options(client.get(Witness, name), timeout_s=120).tell_when(
                    str(flag), elsewhere[0], f"stale {name}"
                )
            )
            for name in on_paused[:5]
        ]
        before = {name: await client.get(Witness, name).touch() for name in on_paused[5:]}
        paused.signal(signal.SIGSTOP)
        try:
            stopped_at = time.monotonic()
            for call in stale:
                with pytest.raises(GoverseError) as told:
                    await call
                assert told.value.executed is Executed.UNKNOWN
            after = {name: await client.get(Witness, name).touch() for name in on_paused}
            assert all(answer["pid"] != paused.process.pid for answer in after.values())
            await eventually(lambda: time.monotonic() - stopped_at > 3 * LEASE_TTL_S, timeout_s=60)
            flag.touch()
        finally:
            paused.signal(signal.SIGCONT)
        await eventually(lambda: "lost its lease" in paused.log(), timeout_s=30)
        await cluster.wait_ready("n2")
        assert await client.get(Witness, elsewhere[0]).recorded() == []
        # Back under a new registration: what it hosts now was born after the pause.
        names = [f"x{number}" for number in range(200)]
        answers = [await client.get(Witness, name).touch() for name in names + on_paused]
        assert all(answer["count"] == 1 for answer in answers[:200])
        born_before = {answer["activation"] for answer in before.values()}
        assert not born_before & {answer["activation"] for answer in answers}
        for name, answer in zip(on_paused, answers[200:], strict=True):
            if answer["activation"] == after[name]["activation"]:
                assert answer["count"] == 2
