"""Both forms of a call: awaited, and forwarded with a receiver. They must end alike."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest

from goverse.call import Call, Forwarded, Receiver, Reply


class Told:
    """A receiver; what it is told becomes the outcome of ``future``. Twice is an error."""

    def __init__(self) -> None:
        self.future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.cancelled = False

    def succeed(self, reply: Reply) -> None:
        assert not self.cancelled and not self.future.done(), "told after the end"
        self.future.set_result(reply)

    def fail(self, error: Exception) -> None:
        assert not self.cancelled and not self.future.done(), "told after the end"
        self.future.set_exception(error)
        self.future.exception()


Invoke = Callable[[Any, Call], Coroutine[Any, Any, Reply]]


async def by_forwarding(target: Any, call: Call, invoke: Invoke) -> Reply:
    """Forward ``call``; ``invoke`` it if that is declined."""
    told = Told()
    under_way = target.forward(call, told)
    if under_way is None:
        assert not told.future.done()
        return await invoke(target, call)
    try:
        return await asyncio.shield(told.future)
    except asyncio.CancelledError:
        if not told.future.done():
            told.cancelled = True
            under_way.cancel()
        raise


def both_ways(*classes: type[Any], targets: tuple[type[Any], ...] = ()) -> Any:
    """A fixture that runs every test of a module twice: the second time, whatever is invoked on
    an instance of ``classes`` is forwarded, and the fakes ``targets`` take what is forwarded."""

    @pytest.fixture(params=["invoke", "forward"], scope="module", autouse=True)
    def way(request: pytest.FixtureRequest) -> Iterator[str]:
        with pytest.MonkeyPatch.context() as patch:
            if request.param == "forward":
                for cls in classes:
                    patch.setattr(cls, "invoke", _forwarding(cls.invoke))
                for fake in targets:
                    patch.setattr(fake, "forward", Forwarding.forward, raising=False)
            yield request.param

    return way


def _forwarding(original: Invoke) -> Invoke:
    async def invoke(self: Any, call: Call) -> Reply:
        return await by_forwarding(self, call, original)

    return invoke


class Forwarding:
    """Gives a fake `CallTarget` the form that it lacks, by a task."""

    async def invoke(self, call: Call) -> Reply:
        raise NotImplementedError

    def forward(self, call: Call, receiver: Receiver) -> Forwarded:
        async def run() -> None:
            try:
                reply = await self.invoke(call)
            except Exception as error:
                receiver.fail(error)
            else:
                receiver.succeed(reply)

        return asyncio.get_running_loop().create_task(run())
