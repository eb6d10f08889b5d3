"""Group commit over a store that loses answers, delays transactions and is away."""

from __future__ import annotations

import asyncio
import random
from typing import Any, TypeVar

import pytest
from durable_kit import Counted, Wire
from objects_kit import turns_of_the_loop

from goverse.aio.runtime import Runtime
from goverse.aio.tasks import Tasks
from goverse.errors import Fenced, GoverseError, ObjectFailed, Overloaded, Unavailable
from goverse.ids import Epoch, ObjectId
from goverse.objects.durability.commits import Commits
from goverse.objects.durability.fences import Fences, Opening
from goverse.objects.durability.journal import Journal, Subject
from goverse.storage.api import StoreRefused
from goverse.storage.memory import MemoryStore
from goverse.storage.values import Act, CallStatus, Outcome, State
from goverse.testing.loop import run_virtual
from tests.support.eventually import eventually

T = TypeVar("T")
EPOCH = Epoch(1, 10)
NEWER = Epoch(1, 20)


class Facts:
    incarnation = "me"

    async def slots_of(self, shard: int) -> tuple[int, ...]:
        return (shard, shard + 8)


class Kit:
    """One node's commits on a store in memory."""

    def __init__(self, *, lanes: int = 2, max_bytes: int = 1 << 20) -> None:
        runtime = Runtime(random=random.Random(1))
        self.store = MemoryStore(runtime)
        self.wire = Wire()
        client = self.store.connect(self.wire, operation_timeout_s=1.0)
        self.client = client
        self.tasks = Tasks("kit")
        self.counted = Counted()
        self.fences = Fences(client, Facts(), self.tasks)
        self.commits = Commits(
            client,
            self.fences,
            self.tasks,
            runtime,
            self.counted,
            lanes=lanes,
            max_bytes=max_bytes,
        )
        self.commits.start()

    async def journal(self, id: str, shard: int = 1, **more: Any) -> Journal:
        opening = await self.fences.open(shard, EPOCH)
        return self.journal_under(opening, id, **more)

    def journal_under(self, opening: Opening, id: str, **more: Any) -> Journal:
        subject = Subject(ObjectId("Counter", id), opening.shard, opening)
        return Journal(subject, self.commits, self, 0, max_turns=100, **more)

    def lost(self, error: GoverseError) -> None:
        pass

    def landed(self) -> None:
        pass

    async def stored(self, id: str) -> bytes | None:
        row = (await self.client.load([ObjectId("Counter", id)])).get(ObjectId("Counter", id))
        return row.state.data if row is not None and row.state is not None else None

    async def close(self) -> None:
        await self.tasks.close()
        self.commits.close()


@pytest.fixture
async def kit() -> Any:
    kit = Kit()
    yield kit
    await kit.close()


async def lost(journal: Journal, number: int) -> GoverseError:
    with pytest.raises(GoverseError) as caught:
        await journal.wait(number)
    return caught.value


async def test_what_is_noted_while_a_commit_is_in_flight_goes_into_the_next(kit: Kit) -> None:
    opening = await kit.fences.open(1, EPOCH)
    journals = [kit.journal_under(opening, f"o{number}") for number in range(40)]
    for text in ("1", "2", "3"):
        for journal in journals:
            journal.note(State(text.encode()))
    await asyncio.gather(*(journal.wait(journal.last) for journal in journals))
    assert kit.counted.batches == [40]
    assert [await kit.stored(f"o{number}") for number in range(40)] == [b"3"] * 40
    assert kit.commits.snapshot().bytes == 0


@pytest.mark.parametrize("plan", ["do and lose the answer", "hold and lose the answer"])
async def test_an_unknown_outcome_is_settled_before_anybody_is_told(kit: Kit, plan: str) -> None:
    journal = await kit.journal("a")
    kit.wire.plans = [plan]
    number = journal.note(State(b"1"))
    await journal.wait(number)
    assert await kit.stored("a") == b"1"
    assert journal.version == 1
    kit.wire.deliver()  # shut out: it changes nothing
    second = journal.note(State(b"2"))
    await journal.wait(second)
    kit.wire.deliver()
    assert (await kit.stored("a"), journal.version) == (b"2", 2)
    assert kit.counted.reasons == ["unknown"]


async def test_while_it_is_not_settled_nobody_is_answered(kit: Kit) -> None:
    journal = await kit.journal("a")
    # The commit, and the first two attempts to raise the fence again.
    kit.wire.plans = ["hold and lose the answer", "refuse", "do and lose the answer"]
    waiting = asyncio.ensure_future(journal.wait(journal.note(State(b"1"))))
    later = asyncio.ensure_future(journal.wait(journal.note(State(b"2"))))
    await turns_of_the_loop(50)
    assert not waiting.done() and not later.done()
    await asyncio.gather(waiting, later)
    kit.wire.deliver()
    assert await kit.stored("a") == b"2"


async def test_a_commit_of_another_lane_refused_by_a_settling_is_sent_again(kit: Kit) -> None:
    opening = await kit.fences.open(1, EPOCH)
    settled, bystander = (kit.journal_under(opening, id) for id in "ab")
    kit.wire.plans = ["wait", "hold and lose the answer"]
    second = asyncio.ensure_future(bystander.wait(bystander.note(State(b"1"))))
    await eventually(lambda: not kit.wire.plans[1:])
    first = asyncio.ensure_future(settled.wait(settled.note(State(b"1"))))
    await eventually(lambda: opening.number == 2)
    kit.wire.gate.set()  # the commit under number 1 arrives after number 2 was raised
    await asyncio.gather(first, second)
    assert (await kit.stored("a"), await kit.stored("b")) == (b"1", b"1")
    assert sorted(kit.counted.reasons) == ["fenced", "unknown"]


async def test_L02_a_former_owner_commits_nothing(kit: Kit) -> None:
    journal = await kit.journal("a")
    other = kit.store.connect()
    await other.raise_fence((1, 9), Epoch(1, 11), "other", 1)
    error = await lost(journal, journal.note(State(b"1")))
    assert isinstance(error, Unavailable)
    assert (error.executed.value, error.details["rolled_back"]) == ("unknown", True)
    assert await kit.stored("a") is None
    assert kit.counted.reasons == ["fenced"]


async def test_a_former_owner_that_settles_learns_that_it_is_one(kit: Kit) -> None:
    journal = await kit.journal("a")
    kit.wire.plans = ["hold and lose the answer"]
    await kit.store.connect().raise_fence((1, 9), Epoch(1, 11), "other", 1)
    assert isinstance(await lost(journal, journal.note(State(b"1"))), Fenced)
    kit.wire.deliver()
    assert await kit.stored("a") is None


async def test_an_object_that_another_has_written_is_lost_and_its_neighbours_are_not(
    kit: Kit,
) -> None:
    opening = await kit.fences.open(1, EPOCH)
    good, bad = kit.journal_under(opening, "good"), kit.journal_under(opening, "bad")
    bad.version = 7
    bad_number, good_number = bad.note(State(b"1")), good.note(State(b"1"))
    assert isinstance(await lost(bad, bad_number), Unavailable)
    await good.wait(good_number)
    assert await kit.stored("bad") is None


async def test_one_poisoned_object_fails_alone(kit: Kit, monkeypatch: pytest.MonkeyPatch) -> None:
    from goverse.storage.values import CommitResult, Verdict

    opening = await kit.fences.open(1, EPOCH)
    journals = [kit.journal_under(opening, f"o{number}") for number in range(64)]
    commit = kit.client.commit

    async def poisoned(batch: Any) -> Any:
        healthy = [one for one in batch if one.object.id != "o13"]
        results = iter(await commit(healthy))
        refused = CommitResult(Verdict.REFUSED, message="no such encoding")
        return [refused if one.object.id == "o13" else next(results) for one in batch]

    monkeypatch.setattr(kit.client, "commit", poisoned)
    numbers = [journal.note(State(b"1")) for journal in journals]
    ends = await asyncio.gather(
        *(j.wait(n) for j, n in zip(journals, numbers, strict=True)), return_exceptions=True
    )
    assert [index for index, end in enumerate(ends) if end is not None] == [13]
    assert isinstance(ends[13], ObjectFailed)


async def test_L27_a_store_that_is_away_is_not_asked_in_a_hot_loop(kit: Kit) -> None:
    journal = await kit.journal("a")
    kit.wire.away = True
    waiting = asyncio.ensure_future(journal.wait(journal.note(State(b"1"))))
    before = kit.wire.requests
    await eventually(lambda: kit.wire.requests >= before + 2)
    await turns_of_the_loop(200)
    assert kit.wire.requests <= before + 4
    assert not waiting.done()
    kit.wire.away = False
    await waiting
    assert await kit.stored("a") == b"1"


async def test_uncommitted_bytes_are_limited_and_given_back() -> None:
    kit = Kit(max_bytes=1000)
    journal = await kit.journal("a")
    kit.wire.away = True
    kit.commits.check_room()
    number = journal.note(State(bytes(1000)))
    with pytest.raises(Overloaded, match="max_uncommitted_bytes"):
        kit.commits.check_room()
    kit.wire.away = False
    await journal.wait(number)
    kit.commits.check_room()
    assert kit.commits.snapshot().bytes == 0
    await kit.close()


async def test_an_interval_gathers_turns_and_an_outcome_does_not_wait(kit: Kit) -> None:
    journal = await kit.journal("a", interval_s=3600.0)
    for text in (b"1", b"2", b"3"):
        journal.note(State(text))
    await turns_of_the_loop()
    assert kit.commits.snapshot().delayed == 1
    assert await kit.stored("a") is None
    journal.flush()
    await journal.wait(journal.last)
    assert await kit.stored("a") == b"3"
    journal.note(State(b"4"))
    await turns_of_the_loop()
    assert await kit.stored("a") == b"3"


async def test_a_deletion_of_what_was_never_saved_and_of_what_was(kit: Kit) -> None:
    journal = await kit.journal("a")
    await journal.wait(journal.note(Act.DELETE))
    await journal.wait(journal.note(State(b"1")))
    kit.wire.plans = ["do and lose the answer"]
    await journal.wait(journal.note(Act.DELETE))
    assert await kit.stored("a") is None
    assert journal.version == 0


async def test_L01_an_outcome_is_written_with_the_state_or_not_at_all(kit: Kit) -> None:
    journal = await kit.journal("a")
    number = journal.note(State(b"1"), Outcome("never accepted", CallStatus.SUCCESS))
    await lost(journal, number)
    assert await kit.stored("a") is None


async def test_a_store_that_is_another_clusters_leaves_the_shard_waiting(
    kit: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def slots_of(_: Facts, shard: int) -> tuple[int, ...]:
        raise StoreRefused("this store belongs to the cluster b")

    monkeypatch.setattr(Facts, "slots_of", slots_of)
    with pytest.raises(Unavailable, match="belongs to the cluster b"):
        await kit.fences.open(1, EPOCH)


@pytest.mark.parametrize("seed", range(30))
def test_L07_L11_random_faults_lose_no_answered_commit_and_double_none(seed: int) -> None:
    run_virtual(lambda _: _random_faults(seed), seed=seed)


async def _random_faults(seed: int) -> None:
    chance = random.Random(seed)
    kit = Kit()
    opening = await kit.fences.open(1, EPOCH)
    journals = [kit.journal_under(opening, f"o{number}") for number in range(5)]
    faults = ["refuse", "do and lose the answer", "hold and lose the answer"]
    turns = dict.fromkeys(range(5), 0)
    waits = []
    for _ in range(60):
        if chance.random() < 0.4:
            kit.wire.plans.append(chance.choice(faults))
        which = chance.randrange(5)
        turns[which] += 1
        number = journals[which].note(State(str(turns[which]).encode()))
        waits.append(asyncio.ensure_future(journals[which].wait(number)))
        if chance.random() < 0.3:
            await turns_of_the_loop(chance.randrange(6))
        if chance.random() < 0.2:
            kit.wire.deliver()
    await asyncio.gather(*waits)
    kit.wire.deliver()
    for which, count in turns.items():
        expected = str(count).encode() if count else None
        assert await kit.stored(f"o{which}") == expected, f"seed {seed}"
    await kit.close()


def test_L07_what_is_left_of_an_older_epoch_is_settled_while_the_newer_one_is_not_raised_yet() -> (
    None
):
    """A shard was lost and regained while the store was away, and a batch was under way."""

    async def main(_: Any) -> None:
        kit = Kit()
        older = await kit.fences.open(1, EPOCH)
        kit.wire.plans = ["refuse"]
        with pytest.raises(Unavailable):
            await kit.fences.open(1, NEWER)
        await kit.fences.raise_again(older)
        newer = await kit.fences.open(1, NEWER)
        with pytest.raises(Fenced):
            await kit.fences.raise_again(older)
        before = newer.number
        await kit.fences.raise_again(newer)
        assert newer.number > before, "a number that was used shuts nothing out"
        await kit.close()

    run_virtual(main, seed=1)
