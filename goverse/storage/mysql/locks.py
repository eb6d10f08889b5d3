"""Statements that lock, in the order of every write: fences, calls, objects, each ascending."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from goverse.ids import ObjectId
from goverse.storage.mysql import sql
from goverse.storage.mysql.session import Answer
from goverse.storage.values import Fence

#: Ids in one statement.
LISTED = 1024

#: Numbers that one row of ``goverse_seq`` stands for.
NUMBERS = 1024


def fences(stated: Iterable[Fence]) -> str:
    """Lock fences for sharing, and fail unless each stands as it is stated.

    The failure ends the script: whoever was shut out locks nothing else, however late this comes.
    What fails is a row of two rows, because a plain query cannot raise an error of its own.
    """
    different = sorted(set(stated))
    wanted = [
        f"({fence.slot}, {fence.epoch.generation}, {fence.epoch.revision}, {fence.opening})"
        for fence in different
    ]
    return (
        f"SELECT IF(count(*) = {len(different)}, 1, (SELECT 1 UNION SELECT 2)) "
        f"FROM goverse_fences FORCE INDEX (PRIMARY) "
        f"WHERE slot IN {sql.numbers(fence.slot for fence in different)} "
        f"AND (slot, generation, revision, opening) IN {sql.listed(wanted)} LOCK IN SHARE MODE"
    )


def calls(call_ids: Iterable[str]) -> list[str]:
    """Rows of call id, slot, status, attempts, seq, type and id of the object."""
    return _listed(
        "SELECT call_id, slot, status, attempts, seq, object_type, object_id "
        "FROM goverse_reliable_calls FORCE INDEX (PRIMARY) WHERE call_id IN {ids} "
        "ORDER BY call_id FOR UPDATE",
        call_ids,
    )


def delayed(call_ids: Iterable[str]) -> list[str]:
    """Rows of call id, slot, run_at and attempts, of what is delayed."""
    return _listed(
        "SELECT call_id, slot, run_at, attempts FROM goverse_reliable_calls FORCE INDEX (PRIMARY) "
        "WHERE call_id IN {ids} AND status = 'delayed' ORDER BY call_id FOR UPDATE",
        call_ids,
    )


def outbox(call_ids: Iterable[str]) -> list[str]:
    """Rows of call id and slot."""
    return _listed(
        "SELECT call_id, slot FROM goverse_outbox FORCE INDEX (PRIMARY) WHERE call_id IN {ids} "
        "ORDER BY call_id FOR UPDATE",
        call_ids,
    )


def objects(wanted: Iterable[ObjectId]) -> list[str]:
    """Rows of type, id and version: a statement for each type, as a range of pairs is none."""
    return [
        "SELECT object_type, object_id, version FROM goverse_objects FORCE INDEX (PRIMARY) "
        f"WHERE object_type = {sql.text(type)} AND object_id IN {sql.texts(ids)} "
        "ORDER BY object_id FOR UPDATE"
        for type, ids in by_type(wanted)
    ]


def by_type(wanted: Iterable[ObjectId]) -> list[tuple[str, list[str]]]:
    """Types in their order, byte by byte, each with its ids."""
    found: dict[str, list[str]] = {}
    for object in wanted:
        found.setdefault(object.type, []).append(object.id)
    return sorted(found.items(), key=lambda item: item[0].encode())


def draw(count: int) -> list[str]:
    """What draws ``count`` numbers of the one order, in the sequence that `drawn` gives them."""
    rows = -(-count // NUMBERS)
    return [f"INSERT INTO goverse_seq (drawn) VALUES {', '.join(['(NULL)'] * rows)}"] * (rows > 0)


def drawn(answer: Answer, count: int) -> range:
    """The numbers, which are above all that were drawn before."""
    first = answer.insert_id * NUMBERS
    return range(first, first + count)


def put_back(numbers: range) -> list[str]:
    """Remove the rows of ``numbers``; the counter itself never goes back."""
    if not numbers:
        return []
    first, last = numbers[0] // NUMBERS, numbers[-1] // NUMBERS
    return [f"DELETE FROM goverse_seq WHERE drawn BETWEEN {first} AND {last}"]


def rows_of(answers: Sequence[Answer]) -> list[tuple[Any, ...]]:
    return [row for answer in answers for row in answer.rows]


def _listed(statement: str, ids: Iterable[str]) -> list[str]:
    """Ascending over all: a list beyond some thousands would no longer be looked up."""
    wanted = sorted({id.encode(): id for id in ids}.items())
    parts = [wanted[start : start + LISTED] for start in range(0, len(wanted), LISTED)]
    return [statement.format(ids=sql.texts(id for _, id in part)) for part in parts]
