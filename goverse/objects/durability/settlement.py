"""What became of a batch whose answer did not come.

The fence of its shards is raised again by their owner: that waits for the old transaction or shuts
it out, and what is read afterwards is final. Until then nothing of these objects is read, run or
answered: their journals have a change in flight.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.errors import Fenced, GoverseError, Unavailable
from goverse.ids import ObjectId
from goverse.objects.durability.fences import Fences, Opening
from goverse.objects.durability.journal import Taken
from goverse.storage.api import Store
from goverse.storage.patience import until_read
from goverse.storage.rules import outcomes_of
from goverse.storage.values import Act, StoredCall, StoredObject

log = logging.getLogger(__name__)


async def settle(batch: Sequence[Taken], store: Store, fences: Fences, runtime: Runtime) -> None:
    """Return when every journal of ``batch`` has its verdict."""
    openings = [taken.journal.subject.opening for taken in batch]
    with ExitStack() as settling:
        over = await shut_out(openings, settling, fences, runtime)
        for taken in batch:
            # Lost journals had to be waited for too: their successors wait for them.
            error = over.get(taken.journal.subject.opening)
            if error is not None:
                taken.journal.refused(Fenced(str(error)))
        live = [taken for taken in batch if not taken.journal.is_lost]
        if live:
            _tell(live, *await _read(live, store, runtime))
        for taken in batch:
            if taken.journal.is_lost and taken.journal.in_flight:
                taken.journal.put_back()  # nothing of it is under way any more


async def shut_out(
    openings: Iterable[Opening], settling: ExitStack, fences: Fences, runtime: Runtime
) -> Mapping[Opening, Fenced]:
    """Raise the fences of ``openings`` again, however long it takes: nothing of before is under
    way any more when this returns. They count as being settled until ``settling`` is closed.

    Returns those that are over, as somebody else stands higher.
    """
    distinct = list(dict.fromkeys(openings))
    for opening in distinct:
        settling.enter_context(opening.being_settled())
    errors = await asyncio.gather(*(_shut_out(opening, fences, runtime) for opening in distinct))
    return {
        opening: error for opening, error in zip(distinct, errors, strict=True) if error is not None
    }


async def _shut_out(opening: Opening, fences: Fences, runtime: Runtime) -> Fenced | None:
    backoff = Backoff(runtime.random, min_s=0.1, max_s=2.0)
    while True:
        try:
            await fences.raise_again(opening)
            return None
        except Fenced as error:
            return error
        except Unavailable as error:
            log.warning("shard %d: %s", opening.shard, error)
            await asyncio.sleep(backoff.next_s())


async def _read(
    batch: Sequence[Taken], store: Store, runtime: Runtime
) -> tuple[Mapping[ObjectId, StoredObject], Mapping[str, StoredCall]]:
    call_ids = [taken.commit.outcomes[0].call_id for taken in batch if taken.commit.outcomes]

    async def read() -> tuple[Mapping[ObjectId, StoredObject], Mapping[str, StoredCall]]:
        objects = await store.load([taken.commit.object for taken in batch])
        calls = await store.get_calls(call_ids) if call_ids else {}
        return objects, calls

    return await until_read(read, "what was committed", runtime, log)


def _tell(
    batch: Sequence[Taken],
    objects: Mapping[ObjectId, StoredObject],
    calls: Mapping[str, StoredCall],
) -> None:
    for taken in batch:
        commit, journal = taken.commit, taken.journal
        row = objects.get(commit.object)
        version = row.version if row is not None else 0
        if _was_written(taken, version, calls):
            journal.committed(version)
        elif version == commit.version:
            journal.put_back()
        else:
            journal.refused(_overtaken(taken, version))


def _was_written(taken: Taken, version: int, calls: Mapping[str, StoredCall]) -> bool:
    """The version tells: every commit changes it, and nobody else's can have come in between. A
    call's row does not: an operator may have cancelled the call, or it may be cleaned up."""
    commit = taken.commit
    if commit.state is not Act.DELETE:
        return version == commit.version + 1
    if commit.version > 0:
        return version == 0
    # A deletion of what was never stored leaves nothing but outcomes: the first, as all or none.
    for outcome in outcomes_of(commit)[:1]:
        call = calls.get(outcome.call_id)
        return call is not None and (call.status, call.reason, call.result) == (
            outcome.status,
            outcome.reason,
            outcome.result,
        )
    return False


def _overtaken(taken: Taken, version: int) -> GoverseError:
    return Fenced(
        f"{taken.commit.object} has version {version} in the store, and this activation knows "
        f"{taken.commit.version}"
    )
