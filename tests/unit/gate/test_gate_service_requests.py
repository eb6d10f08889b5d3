"""Whatever bytes come in as a request: understood, or refused as the client's fault."""

from __future__ import annotations

import asyncio
import random
from typing import Any, NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from goverse.call import Call, Codec, Reply
from goverse.config.settings import LimitSettings
from goverse.observability.metrics import Metrics
from goverse.transport.pb.gate import gate_pb2 as pb
from goverse_gate.clients import Clients
from goverse_gate.gate_service import SERVICE, GateService
from goverse_gate.ingress import Ingress


class Aborted(Exception):
    pass


class Context:
    def __init__(self, peer: str = "127.0.0.1:1001") -> None:
        self._peer = peer
        self.status = "OK"

    def peer(self) -> str:
        return self._peer

    def time_remaining(self) -> float | None:
        return None

    async def abort(self, code: Any, message: str, trailers: Any) -> None:
        self.status = code.name
        raise Aborted


class Details(NamedTuple):
    method: str
    invocation_metadata: tuple[Any, ...] = ()


class Router:
    def __init__(self, codec: Codec = Codec.ANY) -> None:
        self.calls: list[Call] = []
        self.codec = codec

    async def invoke(self, call: Call) -> Reply:
        self.calls.append(call)
        return Reply(b"", self.codec)


class Service:
    def __init__(self, codec: Codec = Codec.ANY) -> None:
        limits = LimitSettings()
        self.router = Router(codec)
        self.ingress = Ingress(self.router, limits, Metrics())
        self.service = GateService(
            self.ingress,
            Clients(self.ingress, "g1", limits, random.Random(1), Metrics(), resume_grace_s=30),
            limits,
        )

    async def send(self, method: str, raw: bytes) -> str:
        handler: Any = self.service.handler()
        found = handler.service(Details(f"/{SERVICE}/{method}"))
        context = Context()
        try:
            assert isinstance(await found.unary_unary(raw, context), bytes)
        except Aborted:
            pass
        at_rest = self.service.snapshot()
        assert (at_rest.calls, at_rest.held_bytes, at_rest.connections) == (0, 0, 0)
        assert self.ingress.snapshot().doors == 0
        return context.status


METHODS = ["CallObject", "CreateObject", "DeleteObject", "ReliableCallObject"]
NAMES = st.text(max_size=12) | st.sampled_from(["Counter", "a", "add"])


@given(st.sampled_from(METHODS), st.binary(max_size=80))
def test_random_bytes(method: str, raw: bytes) -> None:
    async def run() -> None:
        assert await Service().send(method, raw) in ("OK", "INVALID_ARGUMENT", "PERMISSION_DENIED")

    asyncio.run(run())


@given(st.sampled_from(METHODS), NAMES, NAMES, NAMES, NAMES, st.binary(max_size=20))
def test_random_names(
    method: str, type: str, id: str, name: str, client_id: str, value: bytes
) -> None:
    async def run() -> None:
        service = Service()
        kind = getattr(pb, f"{method}Request")
        given = {"type": type, "id": id, "method": name, "client_id": client_id}
        given["call_id"] = client_id
        known = [field.name for field in kind.DESCRIPTOR.fields]
        request = kind(**{key: text for key, text in given.items() if key in known})
        if "request" in known:
            request.request.value = value
        status = await service.send(method, request.SerializeToString())
        assert status in ("OK", "INVALID_ARGUMENT", "PERMISSION_DENIED", "UNIMPLEMENTED")
        assert len(service.router.calls) == (status == "OK")
        for call in service.router.calls:
            assert (call.type, call.id) == (type, id)
            assert (call.client_id, call.call_id, call.principal, call.chain) == ("", "", "", ())

    asyncio.run(run())


async def test_an_answer_that_is_no_any_is_our_fault() -> None:
    request = pb.CallObjectRequest(type="Counter", id="a", method="add")
    assert await Service(Codec.JSON).send("CallObject", request.SerializeToString()) == "INTERNAL"
