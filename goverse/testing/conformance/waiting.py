"""Waiting for conditions in tests, instead of for time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import Any


async def eventually(check: Callable[[], Any | Awaitable[Any]], timeout_s: float = 10) -> Any:
    """Call ``check``, which may be asynchronous, until it returns something true; return that.

    An AssertionError counts as not yet; the last one is raised when time is up.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while True:
        failed: AssertionError | None = None
        found: Any = None
        try:
            found = check()
            if inspect.isawaitable(found):
                found = await found
        except AssertionError as error:
            failed = error
        if failed is None and found:
            return found
        if loop.time() >= deadline:
            raise failed or AssertionError(f"not true after {timeout_s} s: {check}")
        await asyncio.sleep(0.01)
