"""Call ids that are there already, or stand twice in one batch of accepts."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

from goverse.storage.api import OutcomeUnknown, StorageUnavailable
from goverse.storage.rules import known_or_conflict
from goverse.storage.values import (
    Acceptance,
    AcceptResult,
    ReliableCall,
    StoredCall,
    Verdict,
)


def firsts(acceptances: Sequence[Acceptance]) -> list[Acceptance]:
    """The first of each id is sent; what follows under the same id finds that one."""
    return list({a.call.call_id: a for a in reversed(acceptances)}.values())[::-1]


async def with_known(
    acceptances: Sequence[Acceptance],
    first: Sequence[Acceptance],
    sent: Sequence[AcceptResult],
    get_calls: Callable[[Sequence[str]], Awaitable[Mapping[str, StoredCall]]],
) -> list[AcceptResult]:
    """The results of ``acceptances``, with what is stored where an id was there before.

    :param first: what was sent of them. :param sent: its results; KNOWN without a stored call.
    """
    by_id = {a.call.call_id: r for a, r in zip(first, sent, strict=True)}
    originals = {id(acceptance): None for acceptance in first}
    results: list[AcceptResult | None] = []
    for acceptance in acceptances:
        result = by_id[acceptance.call.call_id]
        again = id(acceptance) not in originals and result.verdict is Verdict.DONE
        results.append(None if again or result.verdict is Verdict.KNOWN else result)
    missing = [
        acceptance.call.call_id
        for acceptance, result in zip(acceptances, results, strict=True)
        if result is None
    ]
    try:
        stored = await get_calls(list(dict.fromkeys(missing))) if missing else {}
    except StorageUnavailable as error:
        # Others of the batch may be written; this cannot be said of each alone.
        raise OutcomeUnknown(str(error)) from error
    return [
        _known(acceptance.call, stored.get(acceptance.call.call_id)) if r is None else r
        for acceptance, r in zip(acceptances, results, strict=True)
    ]


def _known(call: ReliableCall, stored: StoredCall | None) -> AcceptResult:
    if stored is None:
        # Cleaned up between the two statements; whoever repeats the id gets it recorded.
        return AcceptResult(Verdict.REFUSED, message=f"call {call.call_id} was cleaned up just now")
    return known_or_conflict(call, stored)
