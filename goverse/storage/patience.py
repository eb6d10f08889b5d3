"""Reading from a store that may be away."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from goverse.aio.backoff import Backoff
from goverse.aio.runtime import Runtime
from goverse.storage.api import OutcomeUnknown, StorageUnavailable

T = TypeVar("T")


async def until_read(
    read: Callable[[], Awaitable[T]], what: str, runtime: Runtime, log: logging.Logger
) -> T:
    """What ``read`` returns; a store that is away is waited for, however long that is.

    :param what: is read, for ``log``.
    """
    backoff = Backoff(runtime.random, min_s=0.1, max_s=2.0)
    while True:
        try:
            return await read()
        except (StorageUnavailable, OutcomeUnknown) as error:
            log.warning("%s cannot be read: %s", what, error)
            await asyncio.sleep(backoff.next_s())
