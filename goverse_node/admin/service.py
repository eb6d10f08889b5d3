"""The gRPC service goverse.v1.Admin: permission, messages and statuses around an `Admin`."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from goverse.admin.api import Admin
from goverse.admin.wire import METHODS, SERVICE, Method, to_message
from goverse.aio.limits import Limit
from goverse.errors import Executed, Overloaded
from goverse.security.operators import OperatorRule
from goverse.transport.grpc_status import status_of
from goverse_node.admin import audit_trail

#: What changes something, and so needs an operator.
CHANGES = frozenset(
    {
        "pin_shard",
        "unpin_shard",
        "cordon_node",
        "uncordon_node",
        "decommission_node",
        "rebalance_shards",
        "call_object",
        "create_object",
        "delete_object",
        "cancel_call",
        "retry_call",
        "cleanup_calls",
    }
)

#: What waits, for an object or a store, for as long as the caller does.
_TIMED = frozenset(
    name for name in METHODS if "timeout_s" in inspect.signature(getattr(Admin, name)).parameters
)

_MAX_CONCURRENT = 256


class AdminService:
    """Serves ``admin``; nothing is decided here but whether the peer may.

    :param rule: who may change something.
    """

    def __init__(self, admin: Admin, rule: OperatorRule) -> None:
        self._admin = admin
        self._rule = rule
        self._running = 0

    def limits(self) -> Iterator[Limit]:
        yield Limit("node.admin_calls", self._running, _MAX_CONCURRENT)

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """To be served at the node's port, where contexts know the true peer of a call."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                method.name: grpc.unary_unary_rpc_method_handler(
                    self._behaviour(method),
                    request_deserializer=method.request.FromString,
                    response_serializer=method.response.SerializeToString,
                )
                for method in METHODS.values()
            },
        )

    def _behaviour(self, method: Method) -> Any:
        async def serve(request: Message, context: grpc.aio.ServicerContext[Any, Any]) -> Message:
            try:
                return await self._answer(method, request, context)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                code, message, trailers = status_of(error)
                await context.abort(code, message, trailers)

        return serve

    async def _answer(
        self, method: Method, request: Message, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Message:
        if method.python_name not in CHANGES:
            return await self._answer_to(method, request, context)
        with audit_trail.operator_acts(
            self._rule,
            context.peer(),
            _authorization(context),
            audit_trail.Act(method.python_name, method.name, *_concerning(request)),
        ) as trail:
            answer = await self._answer_to(method, request, context)
            trail.done(answer)
        return answer

    async def _answer_to(
        self, method: Method, request: Message, context: grpc.aio.ServicerContext[Any, Any]
    ) -> Message:
        if self._running >= _MAX_CONCURRENT:
            raise Overloaded(
                f"{_MAX_CONCURRENT} admin calls are running on this node", executed=Executed.NO
            )
        names = [field.name for field in method.request.DESCRIPTOR.fields]
        arguments = {name: getattr(request, name) for name in names}
        if method.python_name in _TIMED:
            arguments["timeout_s"] = context.time_remaining() or 0.0
        self._running += 1
        try:
            answer = await getattr(self._admin, method.python_name)(**arguments)
        finally:
            self._running -= 1
        return to_message(answer, method.response)


def _authorization(context: grpc.aio.ServicerContext[Any, Any]) -> str:
    for key, value in context.invocation_metadata() or ():
        if key == "authorization" and isinstance(value, str):
            return value
    return ""


def _concerning(request: Any) -> tuple[str, tuple[str, ...]]:
    """What a request is about, and which call, for the audit log. Arguments of methods are the
    application's affair."""
    names = [field.name for field in request.DESCRIPTOR.fields]
    told = [
        f"{name}={getattr(request, name)}"
        for name in names
        if name not in ("args", "call_id") and getattr(request, name)
    ]
    return " ".join(told), (request.call_id,) if "call_id" in names else ()
