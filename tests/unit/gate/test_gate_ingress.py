"""The gate's only door: what it refuses, what it takes off, and what it tells."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.call import Call, ChainEntry, Codec, Reply, Verb, look_up
from goverse.config.settings import LimitSettings
from goverse.errors import (
    ApplicationError,
    DeadlineExceeded,
    Executed,
    Fenced,
    GoverseError,
    Internal,
    InvalidArgument,
    LinkBroken,
    NotOwner,
    Overloaded,
    PermissionDenied,
    RateLimited,
    TooLarge,
    Unavailable,
)
from goverse.ids import NO_EPOCH, check_id, check_type
from goverse.observability.metrics import Metrics
from goverse_gate.ingress import Door, Ingress, check_names
from tests.support.eventually import eventually
from tests.support.forwarding import Forwarding, Told, both_ways

way = both_ways(Door)


class FakeRouter(Forwarding):
    """Answers by ``answer``; remembers what came."""

    def __init__(self, answer: Callable[[Call], Reply] | None = None) -> None:
        self.calls: list[Call] = []
        self.answer = answer or (lambda call: Reply(call.payload, call.codec))
        self.hold: asyncio.Event | None = None

    async def invoke(self, call: Call) -> Reply:
        self.calls.append(call)
        if self.hold is not None:
            await self.hold.wait()
        return self.answer(call)


def a_call(**fields: object) -> Call:
    values: dict[str, object] = {
        "type": "Counter",
        "id": "a",
        "method": "add",
        "payload": b"{}",
        "deadline": math.inf,
    }
    return Call(**{**values, **fields})  # type: ignore[arg-type]


def raising(error: BaseException) -> Callable[[Call], Reply]:
    def answer(call: Call) -> Reply:
        raise error

    return answer


class Gate:
    def __init__(self, limits: LimitSettings | None = None) -> None:
        self.router = FakeRouter()
        self.metrics = Metrics("g1")
        self.ingress = Ingress(self.router, limits or LimitSettings(), self.metrics)
        self.door = self.ingress.door(client_id="c1", max_calls=2)

    def counted(self) -> dict[tuple[str, str], int]:
        children = self.metrics.operation_seconds.children()
        return {key: sum(child.counts) for key, child in children.items()}  # type: ignore[misc]


async def test_a_call_goes_through_untouched() -> None:
    gate = Gate()
    reply = await gate.door.invoke(a_call(payload=b"\x00anything", codec=Codec.JSON))
    assert reply == Reply(b"\x00anything", Codec.JSON)
    assert gate.router.calls[0].client_id == "c1"
    assert gate.counted() == {("call", "ok"): 1}


async def test_what_only_members_may_write_is_taken_off() -> None:
    gate = Gate()
    entry = ChainEntry("Counter", "a", NO_EPOCH, 1)
    await gate.door.invoke(a_call(chain=(entry,), principal="root", trace="x" * 5000))
    seen = gate.router.calls[0]
    assert (seen.chain, seen.principal, seen.trace) == ((), "", "")


async def test_a_trace_of_the_standard_form_is_kept() -> None:
    gate = Gate()
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    await gate.door.invoke(a_call(trace=trace))
    assert gate.router.calls[0].trace == trace


async def test_L30_a_client_id_of_another_connection_is_refused() -> None:
    gate = Gate()
    with pytest.raises(PermissionDenied) as caught:
        await gate.door.invoke(a_call(client_id="c2"))
    assert caught.value.executed is Executed.NO
    assert not gate.router.calls
    await gate.door.invoke(a_call(client_id="c1"))
    assert gate.router.calls[0].client_id == "c1"


async def test_L31_what_members_ask_each_other_is_refused() -> None:
    gate = Gate()
    for verb in (Verb.DESCRIBE, Verb.ENQUEUE):
        with pytest.raises(PermissionDenied, match="members only"):
            await gate.door.invoke(a_call(verb=verb, method="", call_id="r1"))
    assert not gate.router.calls


@pytest.mark.parametrize("verb", [Verb.CALL, Verb.CREATE, Verb.DELETE])
async def test_L31_every_verb_is_checked_alike(verb: Verb) -> None:
    gate = Gate()
    method = "add" if verb is Verb.CALL else ""
    for fields, expected in [
        ({"client_id": "stolen"}, PermissionDenied),
        ({"call_id": "~1"}, InvalidArgument),
        ({"id": ""}, InvalidArgument),
        ({"type": "no type"}, InvalidArgument),
        ({"deadline": -1.0}, DeadlineExceeded),
    ]:
        with pytest.raises(expected):
            await gate.door.invoke(a_call(verb=verb, method=method, **fields))
    assert not gate.router.calls


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"type": ""}, "type"),
        ({"type": "a" * 129}, "type"),
        ({"type": "Coun-ter"}, "type"),
        ({"id": "x" * 513}, "id"),
        ({"id": "ü" * 257}, "id"),
        ({"id": "a\nb"}, "id"),
        ({"id": "shard#65536/x"}, "id"),
        ({"id": "shard#x"}, "id"),
        ({"id": "node#/x"}, "id"),
        ({"method": ""}, "method"),
        ({"method": "a.b"}, "method"),
        ({"method": "m" * 129}, "method"),
        ({"verb": Verb.CREATE}, "method"),
        ({"verb": Verb.DELETE}, "method"),
    ],
)
async def test_a_malformed_name_is_refused_naming_the_field(
    fields: dict[str, object], field: str
) -> None:
    gate = Gate()
    with pytest.raises(InvalidArgument) as caught:
        await gate.door.invoke(a_call(**fields))
    assert caught.value.details["field"] == field
    assert caught.value.executed is Executed.NO
    operation = {Verb.CREATE: "create", Verb.DELETE: "delete"}.get(
        fields.get("verb"),  # type: ignore[arg-type]
        "call",
    )
    assert gate.counted() == {(operation, "invalid_argument"): 1}


async def test_a_look_up_goes_where_its_id_leads_and_nothing_else_of_it() -> None:
    gate = Gate()
    with pytest.raises(InvalidArgument, match="call id"):
        await gate.door.invoke(a_call(verb=Verb.LOOKUP))
    with pytest.raises(InvalidArgument, match="begins with ~"):
        await gate.door.invoke(a_call(verb=Verb.LOOKUP, call_id="~1"))
    await gate.door.invoke(a_call(verb=Verb.LOOKUP, call_id="r1", id="mine"))
    (seen,) = gate.router.calls
    assert seen.call_id == "r1" and seen.id == look_up("r1", 0.0).id


async def test_an_issued_call_can_be_looked_for_by_whoever_was_told_its_id() -> None:
    gate = Gate()
    issued = f"~{'0a' * 16}"
    door = gate.ingress.door(client_id="", max_calls=100, principal="bob")
    await door.invoke(a_call(verb=Verb.LOOKUP, call_id=issued))
    assert gate.router.calls[-1].call_id == issued
    for other in (f"{issued}/x", f"~{'0A' * 16}", "~alice/c1", issued[:-1]):
        with pytest.raises(InvalidArgument):
            await door.invoke(a_call(verb=Verb.LOOKUP, call_id=other))
    with pytest.raises(InvalidArgument):
        await door.invoke(a_call(call_id=issued))


async def test_L06_call_ids_are_scoped_by_their_principal() -> None:
    gate = Gate()
    seen = []
    for principal in ("", "bob", "bob/c1", "b%2F"):
        door = gate.ingress.door(client_id="", max_calls=9, principal=principal)
        for call_id in ("c1", "c1/c1", "bob/c1"):
            await door.invoke(a_call(call_id=call_id))
            assert gate.router.calls[-1].principal == principal
            seen.append(gate.router.calls[-1].call_id)
    assert len(set(seen)) == len(seen)
    assert seen[:3] == ["c1", "c1/c1", "bob/c1"]
    with pytest.raises(InvalidArgument, match="longer than"):
        await door.invoke(a_call(call_id="c" * 1020))


@given(st.text(max_size=600), st.text(max_size=600), st.text(max_size=140))
def test_only_possible_names_pass(type: str, id: str, method: str) -> None:
    try:
        check_names(a_call(type=type, id=id, method=method))
    except InvalidArgument as error:
        assert error.details["field"] in ("type", "id", "method")
    else:
        assert check_type(type) == type
        assert check_id(id) == id
        assert method.isidentifier()


@pytest.mark.parametrize(
    ("verb", "limit_s"), [(Verb.CALL, 30.0), (Verb.CREATE, 10.0), (Verb.DELETE, 10.0)]
)
async def test_the_callers_deadline_wins_when_it_is_shorter(verb: Verb, limit_s: float) -> None:
    gate = Gate()
    now = asyncio.get_running_loop().time()
    method = "add" if verb is Verb.CALL else ""
    for given_s, expected_s in [(math.inf, limit_s), (3600.0, limit_s), (2.0, 2.0)]:
        await gate.door.invoke(a_call(verb=verb, method=method, deadline=now + given_s))
        assert gate.router.calls[-1].deadline == pytest.approx(now + expected_s, abs=1.0)


@pytest.mark.parametrize("deadline", [0.0, -math.inf, math.nan])
async def test_an_expired_call_is_not_executed(deadline: float) -> None:
    gate = Gate()
    with pytest.raises(DeadlineExceeded) as caught:
        await gate.door.invoke(a_call(deadline=deadline))
    assert caught.value.executed is Executed.NO
    assert not gate.router.calls
    assert gate.metrics.operation_timeouts.children() == {("call",): 1}


async def test_a_caller_may_have_only_so_many_calls_in_flight() -> None:
    gate = Gate()
    gate.router.hold = asyncio.Event()
    running = [asyncio.create_task(gate.door.invoke(a_call())) for _ in range(2)]
    await eventually(lambda: len(gate.router.calls) == 2)
    with pytest.raises(RateLimited):
        await gate.door.invoke(a_call())
    other = gate.ingress.door(client_id="c2", max_calls=1)
    third = asyncio.create_task(other.invoke(a_call()))
    await eventually(lambda: gate.ingress.snapshot().calls == 3)
    gate.router.hold.set()
    await asyncio.gather(*running, third)
    assert gate.ingress.snapshot().calls == 0
    await gate.door.invoke(a_call())


async def test_the_gate_takes_only_so_many_calls_of_all_together() -> None:
    gate = Gate(LimitSettings(max_inflight_calls=1))
    gate.router.hold = asyncio.Event()
    running = asyncio.create_task(gate.door.invoke(a_call()))
    await eventually(lambda: gate.router.calls)
    with pytest.raises(Overloaded) as caught:
        await gate.door.invoke(a_call())
    assert caught.value.executed is Executed.NO
    gate.router.hold.set()
    await running


async def test_arguments_above_the_limit_are_refused() -> None:
    gate = Gate(LimitSettings(max_payload_bytes=10))
    with pytest.raises(TooLarge):
        await gate.door.invoke(a_call(payload=b"x" * 11))
    await gate.door.invoke(a_call(payload=b"x" * 10))


@pytest.mark.parametrize(
    ("inside", "executed"),
    [
        (NotOwner("moved"), Executed.NO),
        (LinkBroken("gone", sent=False), Executed.NO),
        (LinkBroken("gone", sent=True), Executed.UNKNOWN),
        (Fenced("newer epoch"), Executed.UNKNOWN),
    ],
)
async def test_cluster_errors_never_leave(inside: GoverseError, executed: Executed) -> None:
    gate = Gate()
    gate.router.answer = raising(inside)
    with pytest.raises(Unavailable) as caught:
        await gate.door.invoke(a_call())
    assert caught.value.executed is executed
    assert "epoch" not in caught.value.details
    assert gate.counted() == {("call", "unavailable"): 1}


async def test_an_application_error_reaches_the_caller_as_it_is() -> None:
    gate = Gate()
    error = ApplicationError("no_money", "not enough", {"missing": 5})
    gate.router.answer = raising(error)
    with pytest.raises(ApplicationError) as caught:
        await gate.door.invoke(a_call())
    assert caught.value is error
    assert gate.counted() == {("call", "application_error"): 1}


async def test_a_fault_of_the_gate_tells_nothing_of_its_inside(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = Gate()
    gate.router.answer = raising(KeyError("secret"))
    with pytest.raises(Internal) as caught:
        await gate.door.invoke(a_call())
    assert "secret" not in caught.value.message
    assert caught.value.executed is Executed.UNKNOWN
    assert "secret" in caplog.text


async def test_L35_a_call_is_counted_after_the_fact_and_a_cancel_too() -> None:
    gate = Gate()
    gate.router.hold = asyncio.Event()
    running = asyncio.create_task(gate.door.invoke(a_call()))
    await eventually(lambda: gate.router.calls)
    assert gate.counted() == {}
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert gate.counted() == {("call", "cancelled"): 1}
    assert gate.ingress.snapshot().calls == 0


async def test_a_door_is_gone_when_closed() -> None:
    gate = Gate()
    assert gate.ingress.snapshot().doors == 1
    gate.door.close()
    gate.door.close()
    assert gate.ingress.snapshot().doors == 0


async def test_a_declined_call_is_counted_once_when_it_comes_again() -> None:
    gate = Gate()
    gate.router.forward = lambda call, receiver: None  # type: ignore[method-assign]
    told = Told()
    assert gate.door.forward(a_call(), told) is None
    assert gate.ingress.snapshot().calls == 0 and gate.counted() == {}
    await gate.ingress._invoke(gate.door, a_call())
    assert gate.counted() == {("call", "ok"): 1}


@pytest.mark.parametrize("error", [KeyError("secret"), NotOwner("moved"), Overloaded("full")])
async def test_what_the_router_refuses_at_once_is_told_like_what_it_is_told_later(
    error: Exception,
) -> None:
    gate = Gate()

    def refuse(call: Call, receiver: object) -> None:
        raise error

    gate.router.forward = refuse  # type: ignore[assignment]
    gate.router.answer = raising(error)
    with pytest.raises(GoverseError) as at_once:
        gate.door.forward(a_call(), Told())
    with pytest.raises(GoverseError) as later:
        await gate.ingress._invoke(gate.door, a_call())
    assert type(at_once.value) is type(later.value)
    assert at_once.value.message == later.value.message
    assert at_once.value.executed is later.value.executed
    assert gate.ingress.snapshot().calls == 0
    assert gate.counted() == {("call", at_once.value.code): 2}
