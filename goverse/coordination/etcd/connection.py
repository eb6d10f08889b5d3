"""One connection to one member of etcd, and whether that member still answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from aetcd import rpc

from goverse.aio.tasks import Tasks
from goverse.config.settings import EtcdSettings
from goverse.coordination.etcd import codec
from goverse.coordination.etcd.doors import METADATA, open_channel
from goverse.coordination.etcd.failures import Fate, RequestFailed, explain

#: How long a member may take for its hello, and for a probe.
HELLO_S = 1.5
#: A request that waits longer than this makes the member prove that it is there.
PATIENCE_S = 0.75
PROBE_EVERY_S = 0.25

_DEAD = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)

Method = Callable[..., Any]


@dataclass(slots=True)
class _Waiting:
    since: float  # loop time
    term: int  # Raft's, as far as it was known
    suspected: bool = False


class Connection:
    """One connection's life.

    ::

        new --hello--> proven --retire--> retired --(nothing waits any more)--> lost
                          `------lose--------`----------------------------------^

    A retired connection takes no new requests, but those that wait may still be answered: the
    member said that it cannot serve now, or a request met a broken stream. A lost one is dead.

    A member that was stopped or cut off sends no FIN. So while a request waits for longer than a
    moment, the member is asked for its status; if that is not answered the connection is lost,
    and everything that waits on it ends, instead of each request having to guess by a timeout
    whether etcd is slow or gone.

    A member that forwarded a request to a leader that then died never hears of it again, and says
    so only after 7 s. So what was sent in an earlier term of Raft and still waits at the second
    look into a later one is given up, too.
    """

    def __init__(self, address: str, settings: EtcdSettings, tasks: Tasks) -> None:
        self.address = address
        self._settings = settings
        self._tasks = tasks
        self._channel = open_channel(address, settings)
        self.kv: Any = rpc.KVStub(self._channel)
        self.leases: Any = rpc.LeaseStub(self._channel)
        self._watch: Any = rpc.WatchStub(self._channel)
        self._maintenance: Any = rpc.MaintenanceStub(self._channel)
        self._auth: Any = rpc.AuthStub(self._channel)
        self._metadata: tuple[tuple[str, str], ...] = METADATA
        # Requests that wait, by the future that ends their wait: with None, or with the reason
        # why the connection was lost. Oldest first.
        self._waiting: dict[asyncio.Future[str | None], _Waiting] = {}
        self._term = 0
        self._proven = False
        self._retired = ""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def usable(self) -> bool:
        """Whether a request can be sent. An idle connection that broke is noticed here."""
        if self.lost.done() or self._retired:
            return False
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def hello(self) -> None:
        """Connect, log in where asked to, and make sure that the member reaches a majority.

        Only a linearizable read shows that: a member goes on naming a leader that just died.
        Raises `RequestFailed`.
        """
        if self._settings.username:
            await self._log_in()
        request = rpc.RangeRequest(key=codec.own_key(self._settings), count_only=True)
        await self._ask_once(self.kv.Range, request, HELLO_S, self._metadata)
        self._proven = True
        self._tasks.spawn(f"silence {self.address}", self._notice_silence())

    async def _log_in(self) -> None:
        request = rpc.AuthenticateRequest(
            name=self._settings.username, password=self._settings.password
        )
        answer = await self._ask_once(self._auth.Authenticate, request, HELLO_S, METADATA)
        self._metadata = (*METADATA, ("token", answer.token))

    async def ask(self, method: Method, request: Any, timeout_s: float) -> Any:
        """Send ``request`` and return the answer. Raises `RequestFailed`.

        It is sent a second time only if it was refused for its token.
        """
        used = self._metadata
        try:
            return await self._ask_once(method, request, timeout_s, used)
        except RequestFailed as error:
            if not error.stale_token or not self._settings.username:
                raise
        if self._metadata is used:
            await self._log_in()
        return await self._ask_once(method, request, timeout_s, self._metadata)

    async def _ask_once(
        self, method: Method, request: Any, timeout_s: float, metadata: tuple[tuple[str, str], ...]
    ) -> Any:
        if self._proven and not self.usable:
            raise RequestFailed(self.why, Fate.NOT_TAKEN)
        loop = asyncio.get_running_loop()
        ended: asyncio.Future[str | None] = loop.create_future()
        call = method(request, timeout=timeout_s, metadata=metadata)
        call.add_done_callback(lambda _: _end(ended, None))
        self._waiting[ended] = _Waiting(loop.time(), self._term)
        try:
            reason = await ended
            if reason is not None:
                raise RequestFailed(reason, Fate.UNKNOWN)
            answer = await call
            self._term = max(self._term, answer.header.raft_term)
            return answer
        except grpc.aio.AioRpcError as error:
            failed = explain(error.code(), error.details())
            if failed.blames_member:
                self.retire(failed.text)
            raise failed from None
        finally:
            del self._waiting[ended]
            call.cancel()

    def open_watch(self) -> Any:
        """A new watch stream: to be written by one task and read by one task."""
        return self._watch.Watch(metadata=self._metadata)

    async def _notice_silence(self) -> None:
        loop = asyncio.get_running_loop()
        while not self.lost.done():
            await asyncio.wait([self.lost], timeout=PROBE_EVERY_S)
            oldest = next(iter(self._waiting.values()), None)
            if oldest is None or loop.time() - oldest.since < PATIENCE_S:
                continue
            try:
                # The deadline is gRPC's, kept outside the event loop: if the loop hangs
                # meanwhile, an answer that came in time still counts.
                status = await self._maintenance.Status(rpc.StatusRequest(), timeout=HELLO_S)
            except grpc.aio.AioRpcError as error:
                if error.code() in _DEAD:
                    self.lose("it does not answer")
                continue
            if status.leader:
                self._give_up_before(status.raftTerm)

    def _give_up_before(self, term: int) -> None:
        self._term = max(self._term, term)
        for ended, waiting in self._waiting.items():
            if waiting.term < term and waiting.suspected:
                _end(ended, "the leader changed while it waited")
            waiting.suspected = waiting.term < term

    @property
    def why(self) -> str:
        """Why it is not usable."""
        if self._retired:
            return self._retired
        return self.lost.result() if self.lost.done() else "the connection broke"

    def retire(self, reason: str) -> None:
        """Take no new requests."""
        self._retired = self._retired or reason

    def lose(self, reason: str) -> None:
        """Give this connection up; what waits on it ends with an unknown fate."""
        if self.lost.done():
            return
        self.lost.set_result(reason)
        for ended in self._waiting:
            _end(ended, reason)

    async def drain(self) -> None:
        """Wait for what still waits, then close. Bounded: each request has a deadline."""
        try:
            while self._waiting and not self.lost.done():
                first: list[asyncio.Future[Any]] = [*self._waiting, self.lost]
                await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        finally:
            await self.close()

    async def close(self) -> None:
        self.lose("closed")
        await self._channel.close(None)


def _end(waiting: asyncio.Future[str | None], reason: str | None) -> None:
    if not waiting.done():
        waiting.set_result(reason)
