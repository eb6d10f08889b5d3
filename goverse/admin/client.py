"""The remote `Admin`: asks one node over gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio

from goverse.admin.api import (
    CallChange,
    CallResult,
    CleanupResult,
    ClusterStatus,
    Location,
    LockList,
    Member,
    MemberList,
    ObjectPage,
    Shard,
    ShardPage,
    ShardPlan,
    TypeDescriptions,
)
from goverse.admin.wire import METHODS, to_model
from goverse.errors import InvalidArgument, Unavailable
from goverse.transport.grpc_status import error_of

DEFAULT_TIMEOUT_S = 10.0

T = TypeVar("T")

_MAX_MESSAGE_BYTES = 80 * 1024 * 1024  # A result may have 64 MiB.
_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
    # Two clients of one process are two connections, each with the life of its own `close`.
    ("grpc.use_local_subchannel_pool", 1),
    # An operator's tool talks to the address it was given, not to a proxy's.
    ("grpc.enable_http_proxy", 0),
)


class AdminClient:
    """The admin service of the node at ``address``. Must be made in a running event loop.

    :param token: proves an operator who does not come over loopback.
    :param timeout_s: deadline of every call that has none of its own.
    """

    def __init__(
        self, address: str, *, token: str = "", timeout_s: float = DEFAULT_TIMEOUT_S
    ) -> None:
        host, _, port = address.rpartition(":")
        if not host or not port.isdigit():
            raise InvalidArgument(f"{address!r} is not host:port")
        self.address = address
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self._timeout_s = timeout_s
        self._channel = grpc.aio.insecure_channel(address, options=_CHANNEL_OPTIONS)
        self._calls = {
            name: self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            for name, method in METHODS.items()
        }

    async def wait_connected(self, timeout_s: float) -> None:
        """Return once the process at the address speaks to us: one that was stopped accepts
        connections and says nothing. Raises Unavailable after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._channel.channel_ready()
        except TimeoutError as error:
            raise Unavailable(f"{self.address} does not answer") from error

    async def close(self) -> None:
        await self._channel.close(None)

    async def __aenter__(self) -> AdminClient:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def get_status(self, *, local_only: bool = False) -> ClusterStatus:
        return await self._ask("get_status", ClusterStatus, local_only=local_only)

    async def list_nodes(self) -> MemberList:
        return await self._ask("list_nodes", MemberList)

    async def list_gates(self) -> MemberList:
        return await self._ask("list_gates", MemberList)

    async def cordon_node(self, node: str, *, drain: bool = False) -> Member:
        return await self._ask("cordon_node", Member, node=node, drain=drain)

    async def uncordon_node(self, node: str) -> Member:
        return await self._ask("uncordon_node", Member, node=node)

    async def decommission_node(self, node: str) -> Member:
        return await self._ask("decommission_node", Member, node=node)

    async def list_shards(
        self, *, node: str = "", state: str = "", page_size: int = 0, page_token: str = ""
    ) -> ShardPage:
        return await self._ask(
            "list_shards",
            ShardPage,
            node=node,
            state=state,
            page_size=page_size,
            page_token=page_token,
        )

    async def get_shard(self, shard: int, *, local_only: bool = False) -> Shard:
        return await self._ask("get_shard", Shard, shard=shard, local_only=local_only)

    async def pin_shard(self, shard: int, *, node: str) -> Shard:
        return await self._ask("pin_shard", Shard, shard=shard, node=node)

    async def unpin_shard(self, shard: int) -> Shard:
        return await self._ask("unpin_shard", Shard, shard=shard)

    async def plan_shards(self, *, local_only: bool = False) -> ShardPlan:
        return await self._ask("plan_shards", ShardPlan, local_only=local_only)

    async def rebalance_shards(self) -> ShardPlan:
        return await self._ask("rebalance_shards", ShardPlan)

    async def list_locks(
        self, *, node: str = "", limit: int = 0, local_only: bool = False
    ) -> LockList:
        return await self._ask(
            "list_locks", LockList, node=node, limit=limit, local_only=local_only
        )

    async def locate_object(self, type: str, id: str) -> Location:
        return await self._ask("locate_object", Location, type=type, id=id)

    async def list_objects(
        self,
        *,
        node: str = "",
        type: str = "",
        id_prefix: str = "",
        page_size: int = 0,
        page_token: str = "",
        local_only: bool = False,
    ) -> ObjectPage:
        return await self._ask(
            "list_objects",
            ObjectPage,
            node=node,
            type=type,
            id_prefix=id_prefix,
            page_size=page_size,
            page_token=page_token,
            local_only=local_only,
        )

    async def call_object(
        self, type: str, id: str, method: str, args: bytes = b"", *, timeout_s: float = 0.0
    ) -> CallResult:
        return await self._ask(
            "call_object", CallResult, timeout_s, type=type, id=id, method=method, args=args
        )

    async def create_object(self, type: str, id: str, *, timeout_s: float = 0.0) -> Location:
        return await self._ask("create_object", Location, timeout_s, type=type, id=id)

    async def delete_object(self, type: str, id: str, *, timeout_s: float = 0.0) -> Location:
        return await self._ask("delete_object", Location, timeout_s, type=type, id=id)

    async def cancel_call(
        self, call_id: str, *, type: str = "", id: str = "", reason: str = "", timeout_s: float = 0
    ) -> CallChange:
        return await self._ask(
            "cancel_call", CallChange, timeout_s, call_id=call_id, type=type, id=id, reason=reason
        )

    async def retry_call(self, call_id: str, *, timeout_s: float = 0) -> CallChange:
        return await self._ask("retry_call", CallChange, timeout_s, call_id=call_id)

    async def cleanup_calls(
        self,
        *,
        older_than_s: float,
        statuses: Sequence[str] = (),
        dry_run: bool = False,
        max_calls: int = 0,
        timeout_s: float = 0,
    ) -> CleanupResult:
        return await self._ask(
            "cleanup_calls",
            CleanupResult,
            timeout_s,
            older_than_s=older_than_s,
            statuses=tuple(statuses),
            dry_run=dry_run,
            max_calls=max_calls,
        )

    async def describe_types(self) -> TypeDescriptions:
        return await self._ask("describe_types", TypeDescriptions)

    async def _ask(self, name: str, model: type[T], timeout_s: float = 0.0, /, **fields: Any) -> T:
        try:
            request = METHODS[name].request(**fields)
        except (ValueError, TypeError) as error:
            raise InvalidArgument(f"{name}: {error}") from error
        try:
            response = await self._calls[name](
                request, timeout=timeout_s or self._timeout_s, metadata=self._metadata
            )
        except grpc.aio.AioRpcError as error:
            details = f"{self.address}: {error.details()}"
            raise error_of(error.code(), details, error.trailing_metadata()) from None
        answer: T = to_model(response, model)
        return answer


def connect(address: str, *, token: str = "", timeout_s: float = DEFAULT_TIMEOUT_S) -> AdminClient:
    """An `AdminClient` for the node at ``address`` (host:port), to be used in ``async with``.

    It connects when it is first used; an unreachable node is `goverse.errors.Unavailable`.
    """
    return AdminClient(address, token=token, timeout_s=timeout_s)
