"""The same client for programs without an event loop: the loop runs in a thread of its own."""

from __future__ import annotations

import asyncio
import atexit
import datetime
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, TypeVar, overload

from goverse.client.client import Client, ClientSnapshot, connect
from goverse.client.inbox import Handler
from goverse.config.settings import LimitSettings
from goverse.objects.definition import Object
from goverse.transport.carrier import Network

T = TypeVar("T", bound=Object)
R = TypeVar("R")
M = TypeVar("M")


class SyncClient:
    """Connected by `connect_sync`; closed by `close` or at the end of a ``with`` block.

    Can be used from any number of threads.
    """

    def __init__(self, context: AbstractAsyncContextManager[Client]) -> None:
        self._context = context
        self._client: Client | None = None
        self._loop = asyncio.new_event_loop()
        # A daemon: a program that never closes its client must still be able to end.
        self._thread = threading.Thread(target=self._live, name="goverse-client", daemon=True)
        self._thread.start()
        try:
            self._client = self._run(context.__aenter__())
        except BaseException:
            self._end()
            raise
        atexit.register(self.close)

    def __enter__(self) -> SyncClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let calls in flight end, then end the session and the thread."""
        if self._client is None:
            return
        self._client = None
        atexit.unregister(self.close)
        try:
            self._run(self._context.__aexit__(None, None, None))
        finally:
            self._end()

    def run(self, call: Awaitable[R]) -> R:
        """Make ``call``, such as ``ref.add(5)``, and return its result.

        Raises what the call raises; a KeyboardInterrupt here cancels it.
        """
        if self._client is None:
            _discard(call)
            raise RuntimeError("this client is closed")
        return self._run(call)

    @overload
    def get(self, target: type[T], id: str) -> T: ...
    @overload
    def get(self, target: str, id: str) -> Any: ...
    def get(self, target: type[Object] | str, id: str) -> Any:
        """As `Client.get`; its methods are called with `run`."""
        return self._open().get(target, id)

    @overload
    def create(self, target: type[T], id: str, *, timeout_s: float | None = None) -> T: ...
    @overload
    def create(self, target: str, id: str, *, timeout_s: float | None = None) -> Any: ...
    def create(self, target: type[Object] | str, id: str, *, timeout_s: float | None = None) -> Any:
        """As `Client.create`, done when it returns."""
        created: Any = self.run(self._open().create(target, id, timeout_s=timeout_s))
        return created

    def delete(
        self, target: type[Object] | str, id: str, *, timeout_s: float | None = None
    ) -> None:
        """As `Client.delete`, done when it returns."""
        self.run(self._open().delete(target, id, timeout_s=timeout_s))

    def schedule(
        self,
        call: Coroutine[Any, Any, Any],
        *,
        run_at: datetime.datetime | float | None = None,
        delay_s: float | None = None,
        every_s: float | None = None,
        catch_up: str = "one",
    ) -> str:
        """As `Client.schedule`, accepted when it returns."""
        scheduling = self._open().schedule(
            call, run_at=run_at, delay_s=delay_s, every_s=every_s, catch_up=catch_up
        )
        return self.run(scheduling)

    def cancel(self, ref: Object, call_id: str, *, timeout_s: float | None = None) -> str:
        """As `Client.cancel`."""
        return self.run(self._open().cancel(ref, call_id, timeout_s=timeout_s))

    def on(self, message: type[M], handler: Handler[M]) -> None:
        """As `Client.on`. The handler runs in the client's own thread: it must be short, and call
        objects by ``await`` in an async handler, not by `run`."""
        self._open().on(message, handler)

    def on_reconnect(self, handler: Callable[[str], Awaitable[None] | None]) -> None:
        """As `Client.on_reconnect`, in the client's own thread."""
        self._open().on_reconnect(handler)

    def snapshot(self) -> ClientSnapshot:
        return self._open().snapshot()

    def _open(self) -> Client:
        if self._client is None:
            raise RuntimeError("this client is closed")
        return self._client

    def _run(self, call: Awaitable[R]) -> R:
        if _in_event_loop():
            _discard(call)
            raise RuntimeError(
                "the synchronous client would stop the event loop that runs here; "
                "use `async with goverse.client.connect(...)` in async code"
            )

        async def finish() -> R:
            return await call

        running = asyncio.run_coroutine_threadsafe(finish(), self._loop)
        try:
            return running.result()
        except BaseException:
            running.cancel()
            raise

    def _live(self) -> None:
        """The thread: runs the loop until it is stopped, then ends what is left in it."""
        loop = self._loop
        try:
            loop.run_forever()
            loop.run_until_complete(_end_tasks())
        finally:
            loop.close()

    def _end(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()


def connect_sync(
    *addresses: str,
    wait_s: float = 0.0,
    limits: LimitSettings | None = None,
    network: Network | None = None,
) -> SyncClient:
    """As `connect`, for use without ``async``; connected when it returns.

    ::

        with goverse.client.connect_sync("localhost:49000") as client:
            client.run(client.get(Counter, "a").add(5))
    """
    return SyncClient(connect(*addresses, wait_s=wait_s, limits=limits, network=network))


async def _end_tasks() -> None:
    """Whatever a start that was interrupted has left behind."""
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


def _in_event_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _discard(call: Awaitable[Any]) -> None:
    """A coroutine that is never awaited would be reported as a second fault."""
    if asyncio.iscoroutine(call):
        call.close()
