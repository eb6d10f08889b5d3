"""A batch that the database refuses as a whole is halved until the culprit is alone."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from goverse.storage.api import OutcomeUnknown, StorageUnavailable

Item = TypeVar("Item")
Result = TypeVar("Result")


class BatchRefused(Exception):
    """The database refused what was sent, for good, and wrote nothing of it."""


async def halved(
    items: Sequence[Item],
    send: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
    refused: Callable[[str], Result],
) -> list[Result]:
    """The results of ``items`` in their order; ``refused`` makes that of a culprit.

    Parts are sent one after the other. Once one is written, an error of a later one is
    `OutcomeUnknown` for the whole.
    """
    results: list[Result] = []
    parts = [items]
    while parts:
        part = parts.pop()
        try:
            results.extend(await send(part))
        except BatchRefused as error:
            if len(part) == 1:
                results.append(refused(str(error)))
            else:
                middle = len(part) // 2
                parts += [part[middle:], part[:middle]]
        except StorageUnavailable as error:
            if not results:
                raise
            raise OutcomeUnknown(f"only a part of a batch was written: {error}") from error
    return results
