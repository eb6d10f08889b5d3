"""Asking etcd to renew one lease, from a thread: blocking, with a deadline, one at a time."""

from __future__ import annotations

import threading
from typing import Any, Protocol

import grpc
from aetcd import rpc

from goverse.aio.runtime import Runtime
from goverse.config.settings import EtcdSettings
from goverse.coordination.etcd.doors import METADATA, open_blocking_channel
from goverse.coordination.etcd.failures import RequestFailed, explain

_PATH = "/etcdserverpb.Lease/LeaseKeepAlive"


class RenewalFailed(Exception):
    """No answer that counts; its text says why."""


class Renewal(Protocol):
    """What a `Keeper` needs."""

    lease: int

    def ask(self, timeout_s: float) -> float:
        """Renew. Returns the TTL that the answer states, 0 when the lease is over.

        Raises `RenewalFailed`; the next ask goes to another member.
        """
        ...

    def interrupt(self) -> None:
        """From any thread: end the ask that is under way."""
        ...

    def close(self) -> None: ...


class EtcdRenewal:
    """Has channels of its own: the event loop's connection is useless while the loop hangs.

    etcd's keep-alive is a stream of questions and answers. Here each question is a stream of its
    own, so that none waits behind a lost one and a missed deadline ends the stream.
    """

    def __init__(self, lease: int, settings: EtcdSettings, runtime: Runtime) -> None:
        self.lease = lease
        self._settings = settings
        self._order = list(settings.endpoints)
        runtime.random.shuffle(self._order)
        self._next = 0
        self._channel: grpc.Channel | None = None
        self._token = ""
        self._term = 0
        self._mutex = threading.Lock()
        self._pending: Any = None
        self._interrupted = False

    def ask(self, timeout_s: float) -> float:
        address = self._order[self._next]
        try:
            if self._channel is None:
                self._channel = open_blocking_channel(address, self._settings)
            if self._settings.username and not self._token:
                self._token = self._log_in(self._channel, timeout_s)
            answer = self._call(
                self._channel,
                _PATH,
                rpc.LeaseKeepAliveRequest(ID=self.lease),
                rpc.LeaseKeepAliveResponse,
                timeout_s,
            )
            return self._judge(answer)
        except (RequestFailed, RenewalFailed, OSError) as error:
            self._leave()
            raise RenewalFailed(f"{address}: {error}") from None

    def _judge(self, answer: Any) -> float:
        if answer.TTL == 0:
            return 0.0
        # A leader that was stopped and goes on may renew, for a moment, what its successor has
        # ended (etcd's issue 15247). It still is in its old term.
        if answer.header.raft_term < self._term:
            raise RenewalFailed("the member is behind the others")
        self._term = answer.header.raft_term
        return float(answer.TTL)

    def _log_in(self, channel: grpc.Channel, timeout_s: float) -> str:
        request = rpc.AuthenticateRequest(
            name=self._settings.username, password=self._settings.password
        )
        path = "/etcdserverpb.Auth/Authenticate"
        answer = self._call(channel, path, request, rpc.AuthenticateResponse, timeout_s)
        return str(answer.token)

    def _call(
        self, channel: grpc.Channel, path: str, request: Any, answer: Any, timeout_s: float
    ) -> Any:
        method = channel.unary_unary(
            path,
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        metadata = (*METADATA, ("token", self._token)) if self._token else METADATA
        with self._mutex:
            if self._interrupted:
                raise RenewalFailed("interrupted")
            self._pending = method.future(request, timeout=timeout_s, metadata=metadata)
        try:
            return self._pending.result()
        except grpc.FutureCancelledError:
            raise RenewalFailed("interrupted") from None
        except grpc.RpcError as error:
            raise explain(error.code(), error.details()) from None

    def _leave(self) -> None:
        """Use the next member, on a new connection and with a new token."""
        self.close()
        self._token = ""
        self._next = (self._next + 1) % len(self._order)

    def interrupt(self) -> None:
        with self._mutex:
            self._interrupted = True
            pending = self._pending
        if pending is not None:
            pending.cancel()

    def close(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
