"""The gRPC service goverse.Goverse, for tools that are not ours: what a node is and hosts.

Ours ask goverse.v1.Admin, which knows more and answers in pages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from goverse.aio.clock import Clock
from goverse.errors import TooLarge
from goverse.objects import Catalog
from goverse.transport.grpc_status import status_of
from goverse.transport.pb.goverse import goverse_pb2 as pb

SERVICE = "goverse.Goverse"

#: What gRPC clients read unless told otherwise is 4 MiB.
MAX_ANSWER_BYTES = 4 * 1024 * 1024 - 1024


class GoverseService:
    """Answers for one node.

    :param address: that others reach the node by; asked for each time.
    """

    def __init__(self, catalog: Catalog, address: Callable[[], str], clock: Clock) -> None:
        self._catalog = catalog
        self._address = address
        self._clock = clock
        self._started = clock.now()

    def handler(self) -> grpc.GenericRpcHandler[Any, Any]:
        """To be served at the node's port."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Status": grpc.unary_unary_rpc_method_handler(_serving(self.status)),
                "ListObjects": grpc.unary_unary_rpc_method_handler(_serving(self.list_objects)),
            },
        )

    def status(self) -> pb.StatusResponse:
        return pb.StatusResponse(
            advertise_addr=self._address(),
            num_objects=self._catalog.snapshot().objects,
            uptime_seconds=int(self._clock.now() - self._started),
        )

    def list_objects(self) -> pb.ListObjectsResponse:
        """All activations. Raises TooLarge, since this answer has no pages."""
        now = self._clock.wall()
        answer = pb.ListObjectsResponse(
            objects=[
                pb.ObjectInfo(type=one.type, id=one.id, creation_time=int(now - one.age_s))
                for one in self._catalog.census.objects()
            ]
        )
        if answer.ByteSize() > MAX_ANSWER_BYTES:
            raise TooLarge(
                f"{len(answer.objects)} objects do not fit one answer; "
                "goverse.v1.Admin/ListObjects has pages"
            )
        return answer


def _serving(answer: Callable[[], Message]) -> Any:
    async def serve(_: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        try:
            return answer().SerializeToString()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            code, message, trailers = status_of(error)
            await context.abort(code, message, trailers)

    return serve
