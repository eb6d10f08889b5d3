"""Scripts and transactions on one session, with a limit that the network cannot stretch."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, NamedTuple, Protocol, TypeVar

from asyncmy.errors import MySQLError

from goverse.storage.halving import BatchRefused
from goverse.storage.mysql.failures import MORE_THAN_ONE_ROW, is_lost, number, of_write
from goverse.storage.mysql.session import Answer, Session

Result = TypeVar("Result", covariant=True)

#: The server ends a statement by itself at its own limit; only its silence lasts longer.
GRACE_S = 0.5

#: Characters that one journey takes, unless a single statement has more.
MAX_SCRIPT_CHARS = 16 * 1024 * 1024

# The transaction is known to the tables of locks by a number that only a writer is given. A raiser
# finds by it whose session holds a fence.
BEGIN = ("START TRANSACTION", "SELECT drawn FROM goverse_seq WHERE drawn = 0 FOR UPDATE")


class Decision(NamedTuple, Generic[Result]):
    """:param writes: what is carried out before COMMIT; empty: nothing is to be written."""

    writes: Sequence[str]
    results: Sequence[Result]


class Plan(Protocol[Result]):
    """A batch: what it locks and reads first, and what it decides from that."""

    def locks(self) -> Sequence[str]:
        """The first raises an error, on purpose, unless every stated fence stands."""
        ...

    def decide(self, answers: Sequence[Answer]) -> Decision[Result]:
        """:param answers: of `locks`."""
        ...


class FenceFell(Exception):
    """Not every stated fence stands. Nothing was locked beyond fences, and nothing written."""


@contextmanager
def limited(session: Session, limit_s: float | None) -> Iterator[None]:
    """Past the limit the session breaks under whoever waits for it."""
    if limit_s is None:
        yield
        return
    timer = asyncio.get_running_loop().call_later(limit_s + GRACE_S, session.abort)
    try:
        yield
    finally:
        timer.cancel()


async def run(
    session: Session,
    statements: Sequence[str],
    limit_s: float | None,
    answers: list[Answer] | None = None,
) -> list[Answer]:
    """Statements that are each a transaction. Raises MySQLError; an error that leaves the session
    out of step with its server breaks it.

    :param answers: gets what came, also before an error.
    """
    answers = [] if answers is None else answers
    with limited(session, limit_s):
        try:
            await session.script(statements, answers)
        except MySQLError as error:
            if is_lost(error):
                session.abort()
            raise
    return answers


async def transact(session: Session, plan: Plan[Result], limit_s: float) -> Sequence[Result]:
    """Lock, decide, write, commit: two journeys, unless much is written.

    Raises `FenceFell`, and what `failures.of_write` makes of errors. Whatever happens, nothing of
    the transaction is left when this ends, except where its outcome is unknown.
    """
    answers: list[Answer] = []
    writes: Sequence[str] = ()
    with limited(session, limit_s):
        try:
            await _send(session, [*BEGIN, *plan.locks()], answers)
            decision = plan.decide(answers[len(BEGIN) :])
            if decision.writes:
                answers, writes = [], [*decision.writes, "COMMIT"]
                await _send(session, writes, answers)
            else:
                await _roll_back(session)
            return decision.results
        except BatchRefused:
            await _roll_back(session)
            raise
        except MySQLError as error:
            lost = session.closed or is_lost(error)
            # What failed is the statement after the last that was answered.
            committing = bool(writes) and len(answers) == len(writes) - 1
            if lost or committing:
                session.abort()
            else:
                # Some errors end a transaction, some a statement alone.
                await _roll_back(session)
                if number(error) == MORE_THAN_ONE_ROW and not writes:
                    raise FenceFell from None
            raise of_write(error, lost=lost, committing=committing) from error


async def _send(session: Session, statements: Sequence[str], answers: list[Answer]) -> None:
    """In as few packets as the server takes. Raises `BatchRefused` for what it never takes."""
    most = max(len(statement) for statement in statements)
    if most >= session.max_packet:
        raise BatchRefused(
            f"a statement of {most} bytes is more than the server takes: max_allowed_packet is "
            f"{session.max_packet}, and a value takes twice its size"
        )
    packet: list[str] = []
    size = 0
    for statement in statements:
        if packet and size + len(statement) > min(MAX_SCRIPT_CHARS, session.max_packet - 1):
            await session.script(packet, answers)
            packet, size = [], 0
        packet.append(statement)
        size += len(statement) + 2
    await session.script(packet, answers)


async def _roll_back(session: Session) -> None:
    """Nothing of the transaction is left, if need be because its session is not."""
    if session.closed:
        return
    try:
        await session.script(["ROLLBACK"], [])
    except MySQLError:
        session.abort()
