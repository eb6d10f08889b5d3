"""Waiting for a condition instead of for time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(
    check: Callable[[], Any] | Callable[[], Awaitable[Any]], timeout_s: float = 10
) -> Any:
    """Return the first true result of ``check``, which may be asynchronous.

    An AssertionError of ``check`` counts as not yet; the last one is raised at the end.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        failure: AssertionError | None = None
        result: Any = None
        try:
            result = check()
            if inspect.isawaitable(result):
                result = await result
        except AssertionError as error:
            failure = error
        if result:
            return result
        if loop.time() >= deadline:
            raise failure or AssertionError(f"not within {timeout_s} s: last result {result!r}")
        await asyncio.sleep(0.01)
