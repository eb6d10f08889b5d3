"""The order of turns, against a model, under random arrivals, ends and cancellations."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.objects.mailbox import Mailbox, MailboxFull


class One:
    def __init__(self, name: int, shared: bool) -> None:
        self.name = name
        self.shared = shared
        self.runs = False

    def granted(self) -> None:
        assert not self.runs
        self.runs = True


def enter(mailbox: Mailbox, entry: One) -> bool:
    entered = mailbox.enter(entry)
    if entered:
        entry.runs = True
    return entered


def test_exclusive_entries_run_one_by_one_in_order():
    mailbox = Mailbox(10)
    first, second, third = (One(n, False) for n in range(3))
    assert enter(mailbox, first)
    assert not enter(mailbox, second)
    assert not enter(mailbox, third)
    mailbox.leave()
    assert (second.runs, third.runs) == (True, False)
    mailbox.leave()
    assert third.runs


def test_a_shared_entry_does_not_overtake_a_waiting_exclusive_one():
    mailbox = Mailbox(10)
    reader, writer, late = One(0, True), One(1, False), One(2, True)
    assert enter(mailbox, reader)
    assert not enter(mailbox, writer)
    assert not enter(mailbox, late)
    mailbox.leave()
    assert (writer.runs, late.runs) == (True, False)


def test_a_writer_that_gives_up_lets_the_readers_behind_it_in():
    mailbox = Mailbox(10)
    reader, writer, late = One(0, True), One(1, False), One(2, True)
    for entry in (reader, writer, late):
        enter(mailbox, entry)
    mailbox.withdraw(writer)
    assert late.runs and not writer.runs
    assert mailbox.running == 2


def test_the_limits_of_waiting_and_of_running():
    mailbox = Mailbox(2)
    enter(mailbox, One(0, False))
    enter(mailbox, One(1, False))
    enter(mailbox, One(2, False))
    with pytest.raises(MailboxFull):
        mailbox.enter(One(3, False))
    shared = Mailbox(2)
    enter(shared, One(0, True))
    enter(shared, One(1, True))
    with pytest.raises(MailboxFull):
        shared.enter(One(2, True))


steps = st.lists(
    st.one_of(
        st.tuples(st.just("enter"), st.booleans()),
        st.tuples(st.just("leave"), st.integers(0, 30)),
        st.tuples(st.just("withdraw"), st.integers(0, 30)),
        st.tuples(st.just("take"), st.booleans()),
    ),
    max_size=80,
)


@given(steps)
def test_it_does_what_the_model_does(script):
    """Model: a queue whose head runs as soon as it may; nobody behind it before."""
    mailbox, limit = Mailbox(6), 6
    waiting: deque[One] = deque()
    running: list[One] = []
    names = iter(range(1000))

    def admit():
        while waiting:
            head = waiting[0]
            free = not running or (head.shared and running[0].shared and len(running) < limit)
            if not free:
                break
            running.append(waiting.popleft())

    for step, argument in script:
        if step == "enter":
            entry = One(next(names), argument)
            free = not waiting and (not running or (entry.shared and running[0].shared))
            full = len(running) >= limit if free else len(waiting) >= limit
            if full:
                with pytest.raises(MailboxFull):
                    mailbox.enter(entry)
            else:
                waiting.append(entry)
                admit()
                assert enter(mailbox, entry) == (entry in running)
        elif step == "leave" and running:
            running.pop(argument % len(running))
            mailbox.leave()
            admit()
        elif step == "withdraw" and waiting:
            entry = waiting[argument % len(waiting)]
            waiting.remove(entry)
            mailbox.withdraw(entry)
            admit()
        elif step == "take":
            taken = [entry for entry in waiting if entry.shared is argument]
            assert mailbox.take_waiting(lambda e, wanted=argument: e.shared is wanted) == taken
            for entry in taken:
                waiting.remove(entry)
            admit()
        # Exclusion, order, and no lost waiter: exactly those run that the model says run.
        assert all(entry.runs for entry in running)
        assert not any(entry.runs for entry in waiting)
        assert mailbox.running == len(running)
        assert mailbox.waiting == len(waiting)
        assert len(running) <= 1 or all(entry.shared for entry in running)
        assert running or not waiting
