"""Waiting for conditions instead of for time."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any


async def eventually(check: Callable[[], Any], timeout_s: float = 10) -> Any:
    """Return what ``check`` gives once it is true; it may be async and may raise AssertionError."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while True:
        failure: AssertionError | None = None
        try:
            value = check()
            if inspect.isawaitable(value):
                value = await value
            if value:
                return value
        except AssertionError as error:
            failure = error
        if asyncio.get_running_loop().time() >= deadline:
            raise failure or AssertionError(f"not within {timeout_s} s: {check}")
        await asyncio.sleep(0.005)
