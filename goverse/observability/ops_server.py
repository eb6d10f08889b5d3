"""The operations listener: `/healthz`, `/ready`, `/metrics`, and what else is mounted.

It runs in a thread with an event loop of its own, so that a probe is answered, with 503, when
the process's main loop hangs. What needs the main loop's state is asked of it with a limit.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future
from typing import TypeVar

from goverse.aio.limits import Limit
from goverse.config.addresses import Address, parse_address
from goverse.errors import GoverseError
from goverse.observability.health import LoopWatchdog, Readiness
from goverse.observability.metrics import CONTENT_TYPE, Metrics
from goverse.observability.ops_http import (
    MAX_CONNECTIONS,
    Connections,
    Request,
    Response,
    Route,
)

log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: How long the main loop may take to say whether it is ready or to read its gauges.
ANSWER_TIMEOUT_S = 2.0
#: How long a mounted route may take.
ROUTE_TIMEOUT_S = 10.0


class OpsServer:
    """Serves operators from `start` to `close`, both in the main loop.

    :param listen: host:port; port 0 asks for a free one.
    :param ready: called in the main loop, anew for every question.
    :param routes: their handlers run in the main loop too, for at most `ROUTE_TIMEOUT_S`.
    """

    def __init__(
        self,
        listen: str,
        *,
        metrics: Metrics,
        watchdog: LoopWatchdog,
        ready: Callable[[], Readiness],
        routes: Sequence[Route] = (),
    ) -> None:
        self._listen = parse_address(listen)
        self._metrics = metrics
        self._watchdog = watchdog
        self._ready = ready
        self._routes = tuple(routes)
        self._main: asyncio.AbstractEventLoop | None = None
        self._own: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._connections: Connections | None = None
        self._thread: threading.Thread | None = None
        self._bound: Future[Address] = Future()
        metrics.loop_lag_seconds.watch(watchdog.lag_s)

    @property
    def address(self) -> str:
        """host:port really bound."""
        return str(self._bound.result(timeout=0))

    def limits(self) -> Iterator[Limit]:
        open_now = len(self._connections) if self._connections is not None else 0
        yield Limit("ops.connections", open_now, MAX_CONNECTIONS, standing=True)

    async def start(self) -> None:
        """Bind and serve. Raises OSError if the address cannot be bound."""
        self._main = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._run, name="goverse-ops", daemon=True)
        self._thread.start()
        await asyncio.wrap_future(self._bound)

    async def close(self) -> None:
        """Stop answering; connections that are still open are cut."""
        if self._thread is None or self._own is None or self._stop is None:
            return
        try:
            self._own.call_soon_threadsafe(self._stop.set)
        except RuntimeError:
            pass  # its loop has ended already
        await asyncio.to_thread(self._thread.join, 5.0)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:
            if self._bound.done():
                log.exception("the operations listener ended")
            else:
                self._bound.set_exception(error)

    async def _serve(self) -> None:
        self._own = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        connections = self._connections = Connections(self._answer)
        server = await self._own.create_server(
            connections.protocol, self._listen.host, self._listen.port
        )
        host, port = server.sockets[0].getsockname()[:2]
        self._bound.set_result(Address(host, port))
        await self._stop.wait()
        # Accept no more, then let what was accepted get its transport: asyncio loses a connection
        # whose server is closed in between.
        for listener in server.sockets:
            self._own.remove_reader(listener.fileno())
        await asyncio.sleep(0)
        server.close()
        await connections.close()

    async def _answer(self, request: Request) -> Response:
        if request.method in ("GET", "HEAD"):
            match request.path:
                case "/healthz":
                    report = self._watchdog.report()
                    return Response.text(str(report), 200 if report.healthy else 503)
                case "/ready":
                    return await self._answer_ready()
                case "/metrics":
                    return await self._answer_metrics()
        elif "origin" in request.headers:
            # A web page may make its visitor's browser, which runs on this machine, send this.
            return Response.text("requests from web pages change nothing here", 403)
        return await self._answer_route(request)

    async def _answer_ready(self) -> Response:
        try:
            readiness = await self._in_main(_as_coroutine(self._ready), ANSWER_TIMEOUT_S)
        except TimeoutError:
            return Response.text("not ready\n- the event loop does not answer", 503)
        except Exception:
            log.exception("readiness cannot be told")
            return Response.text("not ready\n- readiness cannot be told, see the log", 503)
        return Response.text(str(readiness), 200 if readiness.ready else 503)

    async def _answer_metrics(self) -> Response:
        try:
            sample = await self._in_main(_as_coroutine(self._metrics.sample), ANSWER_TIMEOUT_S)
        except TimeoutError:
            sample = None  # what the stuck loop would have to tell is left out
        return Response(200, self._metrics.exposition(sample), CONTENT_TYPE)

    async def _answer_route(self, request: Request) -> Response:
        allowed = []
        for route in self._routes:
            params = route.match(request.path)
            if params is None:
                continue
            if route.method != request.method:
                allowed.append(route.method)
                continue
            full = Request(**{**vars(request), "params": params})
            return await self._run_route(route, full)
        if allowed:
            return Response.text(f"{request.path} takes {', '.join(allowed)}", 405)
        known = ", ".join(["/healthz", "/ready", "/metrics", *(r.pattern for r in self._routes)])
        return Response.text(f"there is no {request.path}; there are {known}", 404)

    async def _run_route(self, route: Route, request: Request) -> Response:
        try:
            return await self._in_main(lambda: route.handler(request), ROUTE_TIMEOUT_S)
        except GoverseError as error:
            problem = {
                "type": "about:blank",
                "title": error.code,
                "status": error.http_status,
                "detail": error.message,
                "code": error.code,
                "executed": error.executed.value,
            }
            return Response.json(problem, error.http_status, "application/problem+json")
        except TimeoutError:
            return Response.text(f"no answer within {ROUTE_TIMEOUT_S:g} s", 504)

    async def _in_main(self, make: Callable[[], Awaitable[_T]], timeout_s: float) -> _T:
        """Run something in the main loop. Raises TimeoutError; it is cancelled then."""
        assert self._main is not None

        async def run() -> _T:
            return await make()

        coroutine = run()
        try:
            future = asyncio.run_coroutine_threadsafe(coroutine, self._main)
        except RuntimeError:
            coroutine.close()
            raise TimeoutError("the main loop has ended") from None
        async with asyncio.timeout(timeout_s):
            return await asyncio.wrap_future(future)


def _as_coroutine(function: Callable[[], _T]) -> Callable[[], Awaitable[_T]]:
    async def call() -> _T:
        return function()

    return call
