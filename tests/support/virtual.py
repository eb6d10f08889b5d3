"""Virtual time: a test in it waits for a time, and none passes."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

from goverse.testing.loop import SimLoop, run_virtual


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run an asynchronous test in virtual time; an error that reached the loop fails it."""

    @functools.wraps(test)
    def run(*args: Any, **kwargs: Any) -> None:
        errors: list[str] = []

        async def main(loop: Any) -> None:
            await test(*args, **kwargs)
            errors.extend(loop.errors)

        run_virtual(main)
        assert errors == []

    return run


async def elapse(seconds: float) -> None:
    """Let ``seconds`` of virtual time pass. Refuses to wait for real."""
    if not isinstance(asyncio.get_running_loop(), SimLoop):
        raise RuntimeError("tests wait for conditions; only virtual time may be waited for")
    await asyncio.sleep(seconds)
