"""A journal: what waits for what, and that nothing is forgotten or told too early."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from objects_kit import turns_of_the_loop

from goverse.errors import GoverseError, Overloaded, Unavailable
from goverse.ids import Epoch, ObjectId
from goverse.objects.durability.fences import Opening
from goverse.objects.durability.journal import Change, Journal, Subject
from goverse.storage.values import Act, CallStatus, Outcome, Payload, ReliableCall, State

SUBJECT = Subject(ObjectId("Counter", "a"), 1, Opening(1, (1,), Epoch(1, 1), 1))


def state(text: str) -> State:
    return State(text.encode())


def outcome(call_id: str) -> Outcome:
    return Outcome(call_id, CallStatus.SUCCESS)


def child(call_id: str) -> ReliableCall:
    return ReliableCall(call_id, ObjectId("Counter", "b"), "add", Payload(b""), b"d")


class Kit:
    """A journal and how often it asked to be taken."""

    def __init__(self, max_turns: int = 100, interval_s: float = 0.0) -> None:
        self.offers = 0
        self.bytes = 0
        self.ends: list[Any] = []
        self.journal = Journal(SUBJECT, self, self, 0, max_turns=max_turns, interval_s=interval_s)

    def dirty(self, journal: Journal) -> None:
        assert journal.takeable
        self.offers += 1

    def lost(self, error: GoverseError) -> None:
        self.ends.append(error)

    def landed(self) -> None:
        self.ends.append("landed")

    def resized(self, by: int) -> None:
        self.bytes += by
        assert self.bytes >= 0


async def test_a_reply_waits_for_its_own_commit_and_not_for_later_ones() -> None:
    journal = Kit().journal
    first = journal.note(state("1"))
    waiting = asyncio.ensure_future(journal.wait(first))
    change = journal.take()
    journal.note(state("2"))
    await turns_of_the_loop(1)
    assert not waiting.done()
    journal.committed(1)
    await waiting
    assert (change.state, journal.version, journal.clean) == (state("1"), 1, False)
    assert journal.take().state == state("2")


async def test_a_turn_that_changed_nothing_waits_for_what_it_may_have_read() -> None:
    journal = Kit().journal
    await journal.wait(journal.last)
    journal.note(state("1"))
    waiting = asyncio.ensure_future(journal.wait(journal.last))
    await turns_of_the_loop(1)
    assert not waiting.done()
    journal.take()
    journal.committed(1)
    await waiting


async def test_what_is_put_back_is_sent_again_with_what_came_since() -> None:
    kit = Kit()
    journal = kit.journal
    journal.note(state("1"), outcome("a"), (child("x"),))
    journal.take()
    journal.note(outcome=outcome("b"), outbox=(child("y"), child("z")))
    journal.put_back()
    assert kit.offers == 2
    change = journal.take()
    assert [one.call_id for one in change.outcomes] == ["a", "b"]
    assert [one.call_id for one in change.outbox] == ["x", "y", "z"]
    assert (change.state, change.last) == (state("1"), 2)


async def test_a_newer_state_is_not_replaced_by_one_put_back() -> None:
    journal = Kit().journal
    journal.note(state("1"))
    journal.take()
    journal.note(state("2"))
    journal.put_back()
    assert journal.take().state == state("2")


async def test_a_deletion_put_back_stays_one() -> None:
    journal = Kit().journal
    journal.note(Act.DELETE)
    journal.take()
    journal.put_back()
    assert journal.take().state is Act.DELETE


async def test_a_lost_journal_tells_everybody_and_takes_nothing_more() -> None:
    kit = Kit(max_turns=1)
    journal = kit.journal
    number = journal.note(state("1"))
    waiting = [asyncio.ensure_future(journal.wait(number)) for _ in range(3)]
    await turns_of_the_loop(1)
    waiting[1].cancel()
    journal.take()
    gone = Unavailable("fenced")
    journal.lose(gone)
    journal.committed(9)  # a verdict that comes late changes nothing
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert kit.ends == [gone, "landed"]
    assert results[0] is gone and results[2] is gone
    assert isinstance(results[1], asyncio.CancelledError)
    for refused in (journal.check_room, lambda: journal.note(state("2"))):
        with pytest.raises(Unavailable, match="fenced"):
            refused()
    await journal.wait(0)  # what is committed stays so
    with pytest.raises(Unavailable, match="fenced"):
        await journal.wait(number)
    assert not journal.takeable and kit.bytes == 0


async def test_a_journal_with_too_many_uncommitted_turns_is_full() -> None:
    journal = Kit(max_turns=2).journal
    journal.note(state("1"))
    journal.check_room()
    journal.note(state("2"))
    with pytest.raises(Overloaded, match="max_uncommitted_turns"):
        journal.check_room()
    journal.take()
    journal.committed(1)
    journal.check_room()


async def test_waiters_come_in_any_order() -> None:
    journal = Kit().journal
    first, second = journal.note(state("1")), journal.note(state("2"))
    late = asyncio.ensure_future(journal.wait(second))
    await turns_of_the_loop(1)
    early = asyncio.ensure_future(journal.wait(first))
    await turns_of_the_loop(1)
    journal.take()
    journal.committed(1)
    await asyncio.gather(early, late)


steps = st.lists(
    st.sampled_from(["state", "outcome", "outbox", "nothing", "take", "committed", "put_back"]),
    max_size=60,
)


@given(steps)
def test_the_store_ends_with_everything_in_order_and_nobody_is_told_early(
    actions: list[str],
) -> None:
    asyncio.run(_play(actions))


async def _play(actions: list[str]) -> None:
    kit = Kit()
    journal = kit.journal
    noted: list[Any] = []
    store: dict[str, Any] = {"state": None, "outcomes": [], "outbox": [], "last": 0}
    in_flight: Change | None = None
    waits: list[tuple[int, asyncio.Task[None]]] = []
    expected: dict[str, Any] = {"state": None, "outcomes": [], "outbox": []}

    def commit() -> None:
        nonlocal in_flight
        assert in_flight is not None
        if in_flight.state is not Act.KEEP:
            store["state"] = in_flight.state
        store["outcomes"] += [one.call_id for one in in_flight.outcomes]
        store["outbox"] += [one.call_id for one in in_flight.outbox]
        store["last"] = in_flight.last
        journal.committed(journal.version + 1)
        in_flight = None

    for step, action in enumerate(actions):
        value = str(step)
        if action == "state":
            journal.note(state(value))
            expected["state"] = state(value)
        elif action == "outcome":
            journal.note(outcome=outcome(value))
            expected["outcomes"].append(value)
        elif action == "outbox":
            journal.note(state("s" + value), outbox=(child(value), child(value)))
            expected["state"] = state("s" + value)
            expected["outbox"] += [value, value]
        elif action == "take" and journal.takeable:
            in_flight = journal.take()
        elif action == "committed" and in_flight is not None:
            commit()
        elif action == "put_back" and in_flight is not None:
            journal.put_back()
            in_flight = None
        waits.append((journal.last, asyncio.ensure_future(journal.wait(journal.last))))
        noted.append(action)
        await turns_of_the_loop(2)
        for number, task in waits:
            assert task.done() == (number <= store["last"]), noted
    while journal.takeable or in_flight is not None:
        in_flight = in_flight or journal.take()
        commit()
    await asyncio.gather(*(task for _, task in waits))
    assert journal.clean and kit.bytes == 0
    assert {key: store[key] for key in expected} == expected
