"""Whatever bytes come in as a request: understood, or refused as the client's fault."""

from __future__ import annotations

import asyncio
import random
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.call import Call, Codec, Reply
from goverse.config.settings import LimitSettings
from goverse.errors import (
    ApplicationError,
    Conflict,
    DeadlineExceeded,
    Executed,
    FailedPrecondition,
    GoverseError,
    InvalidArgument,
    ObjectFailed,
    Unavailable,
)
from goverse.observability.metrics import Metrics
from goverse.transport.pb.gate import gate_pb2 as pb
from goverse_gate.clients import Clients
from goverse_gate.gate_service import SERVICE, GateService, _unsuccessful
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
        fields = {"type": type, "id": id, "method": name, "client_id": client_id}
        fields["call_id"] = client_id
        known = [field.name for field in kind.DESCRIPTOR.fields]
        request = kind(**{key: text for key, text in fields.items() if key in known})
        if "request" in known:
            request.request.value = value
        status = await service.send(method, request.SerializeToString())
        assert status in ("OK", "INVALID_ARGUMENT", "PERMISSION_DENIED")
        assert len(service.router.calls) == (status == "OK")
        for call in service.router.calls:
            assert (call.type, call.id) == (type, id)
            call_id = client_id if method == "ReliableCallObject" else ""
            assert (call.client_id, call.call_id, call.principal, call.chain) == (
                "",
                call_id,
                "",
                (),
            )

    asyncio.run(run())


async def test_an_answer_that_is_no_any_is_our_fault() -> None:
    request = pb.CallObjectRequest(type="Counter", id="a", method="add")
    assert await Service(Codec.JSON).send("CallObject", request.SerializeToString()) == "INTERNAL"


def late(**details: str) -> DeadlineExceeded:
    return DeadlineExceeded("late", executed=Executed.UNKNOWN, details=details)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ApplicationError("no", "on purpose"), "FAILED"),
        (ObjectFailed("raised", executed=Executed.YES), "FAILED"),
        (FailedPrecondition("deleted", details={"status": "skipped"}), "SKIPPED"),
        (
            DeadlineExceeded("late", executed=Executed.UNKNOWN, details={"status": "pending"}),
            "PENDING",
        ),
        (DeadlineExceeded("late", executed=Executed.UNKNOWN), "UNKNOWN"),
        (Unavailable("lost", executed=Executed.UNKNOWN), "UNKNOWN"),
        (Conflict("used"), None),
        (InvalidArgument("bad"), None),
        (DeadlineExceeded("early"), None),
        (Unavailable("nobody"), None),
    ],
)
def test_L36_what_is_known_of_a_reliable_call_is_its_status(
    error: GoverseError, status: str | None
) -> None:
    if status is None:
        with pytest.raises(type(error)):
            _unsuccessful(error)
        return
    told = _unsuccessful(error)
    assert isinstance(told, pb.ReliableCallObjectResponse)
    assert (told.status, told.error, told.HasField("response")) == (status, error.message, False)
