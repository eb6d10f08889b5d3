"""Calls over a link: outcomes, cancellation, deadlines, limits; every slot is freed."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

import pytest

from goverse.call import Call, ChainEntry, Codec, Reply
from goverse.config.settings import LimitSettings
from goverse.errors import (
    ApplicationError,
    DeadlineExceeded,
    Executed,
    Fenced,
    GoverseError,
    Internal,
    InvalidArgument,
    NotOwner,
    Overloaded,
    TooLarge,
    Unavailable,
)
from goverse.ids import Epoch
from goverse.transport.carrier import CarrierClosed
from goverse.transport.hello import Role
from goverse.transport.inbound import GRACE_S
from goverse.transport.link import Link
from goverse.transport.wire import (
    CallFrame,
    CancelFrame,
    ErrorFrame,
    ReplyFrame,
)
from tests.support.eventually import eventually
from tests.support.forwarding import both_ways
from tests.support.links import Held, Pair, Plain, Target, call, call_frame, pair, raw_pair, small
from tests.support.virtual import virtual

way = both_ways(Link, targets=(Target,))


def raising(error: BaseException) -> Target:
    async def behave(call: Call) -> Reply:
        raise error

    return Target(behave)


async def start(ends: Pair, *calls: Call) -> list[asyncio.Task[Reply]]:
    """Have calls under way: they have reached the far target."""
    before = len(ends.far_target.calls)
    tasks = [asyncio.create_task(ends.near.invoke(one)) for one in calls]
    await eventually(lambda: len(ends.far_target.calls) == before + len(calls))
    return tasks


@virtual
async def test_a_call_and_its_reply() -> None:
    ends = await pair()
    reply = await ends.near.invoke(call(b"abc", codec=Codec.JSON))
    assert reply == Reply(b"abc", Codec.JSON)
    assert await ends.far.invoke(call(b"back")) == Reply(b"back")
    await ends.rest()


@virtual
async def test_all_of_a_call_arrives_between_members() -> None:
    ends = await pair()
    chain = (ChainEntry("T", "i", Epoch(1, 2), 3),)
    extra: dict[str, Any] = {
        "chain": chain,
        "principal": "alice",
        "client_id": "c1",
        "call_id": "k1",
        "trace": "00-ab",
    }
    sent = call(b"x", timeout_s=7, **extra)
    await ends.near.invoke(sent)
    (got,) = ends.far_target.calls
    assert got.deadline == pytest.approx(sent.deadline, abs=0.01)
    got.deadline = sent.deadline
    assert got == sent


@virtual
async def test_a_client_cannot_write_what_members_write() -> None:
    ends = await pair(near_role=Role.CLIENT, far_role=Role.GATE)
    chain = (ChainEntry("T", "i", Epoch(1, 2), 3),)
    await ends.near.invoke(call(chain=chain, principal="root", client_id="other", trace="t"))
    (got,) = ends.far_target.calls
    assert (got.chain, got.principal, got.client_id, got.trace) == ((), "", "", "t")
    # The other way round the gate is believed.
    await ends.far.invoke(call(principal="alice"))
    assert ends.near_target.calls[0].principal == "alice"


@virtual
async def test_errors_arrive_as_they_were_raised() -> None:
    for error in (
        ApplicationError("empty", "no money", {"left": 0}),
        NotOwner("moved", epoch=Epoch(1, 9)),
        InvalidArgument("bad", details={"path": "$.a"}),
        Unavailable("later", executed=Executed.UNKNOWN),
    ):
        ends = await pair(raising(error))
        with pytest.raises(type(error)) as caught:
            await ends.near.invoke(call())
        there = caught.value
        assert (there.code, there.message, there.details, there.executed) == (
            error.code,
            error.message,
            error.details,
            error.executed,
        )
        await ends.rest()


@virtual
async def test_a_client_is_not_told_of_the_cluster() -> None:
    ends = await pair(raising(NotOwner("moved")), near_role=Role.CLIENT, far_role=Role.GATE)
    with pytest.raises(Unavailable):
        await ends.near.invoke(call())


def test_an_unexpected_exception_is_internal_and_logged(caplog: Any) -> None:
    @virtual
    async def body() -> None:
        ends = await pair(raising(ZeroDivisionError("secret")))
        with pytest.raises(Internal) as caught:
            await ends.near.invoke(call())
        assert "secret" not in str(caught.value)
        assert caught.value.executed is Executed.UNKNOWN
        await ends.rest()

    body()
    assert "Counter/a.add failed outside of its object" in caplog.text
    assert "secret" in caplog.text


@pytest.mark.parametrize("answer", [None, "text", Reply(None), Reply("text")])  # type: ignore[arg-type]
def test_an_answer_that_is_no_reply_is_internal(answer: Any, caplog: Any) -> None:
    @virtual
    async def body() -> None:
        async def behave(call: Call) -> Reply:
            return answer  # type: ignore[no-any-return]

        ends = await pair(Plain(behave))
        with pytest.raises(Internal):
            await ends.near.invoke(call())
        await ends.rest()

    body()


@virtual
async def test_after_fenced_nothing_is_sent() -> None:
    ends = await pair(raising(Fenced("newer")))
    with pytest.raises(DeadlineExceeded) as caught:
        await ends.near.invoke(call(timeout_s=2))
    assert caught.value.executed is Executed.UNKNOWN
    await ends.rest()


@virtual
async def test_a_call_interrupted_from_inside_is_answered() -> None:
    target = raising(asyncio.CancelledError())
    target.forward = None  # type: ignore[attr-defined]  # a task can be interrupted from inside
    ends = await pair(target)
    with pytest.raises(Unavailable) as caught:
        await ends.near.invoke(call())
    assert caught.value.executed is Executed.UNKNOWN
    await ends.rest()


# -- cancellation -----------------------------------------------------------------------------


@virtual
async def test_cancelling_a_caller_cancels_the_task_on_the_other_side() -> None:
    held = Held()
    ends = await pair(held)
    (first, second) = await start(ends, call(), call())
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    await eventually(lambda: held.cancelled == 1)
    held.free.set()
    await second
    await ends.rest()


@virtual
async def test_a_call_cancelled_before_it_was_sent_is_never_sent() -> None:
    link, peer, _ = await raw_pair()
    peer.valve.shut()
    tasks = [asyncio.create_task(link.invoke(call(b"first")))]
    await eventually(lambda: link.snapshot().waiting_calls == 1)
    tasks += [asyncio.create_task(link.invoke(call(b"never")))]
    await eventually(lambda: link.snapshot().queued_frames == 1)
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    tasks += [asyncio.create_task(link.invoke(call(b"later")))]
    peer.valve.open()
    assert (await peer.next_of(CallFrame)).payload == b"first"
    assert (await peer.next_of(CallFrame)).payload == b"later"
    link.abort("enough")
    await asyncio.gather(*tasks, return_exceptions=True)
    assert link.snapshot().at_rest


@virtual
async def test_a_call_cancelled_before_its_task_ran_leaves_nothing() -> None:
    link, peer, _ = await raw_pair()
    frame = call_frame(1)
    await peer.send(frame, CancelFrame(1))
    await peer.send(call_frame(2))
    assert (await peer.next_of(ReplyFrame)).number == 2
    await eventually(lambda: link.snapshot().at_rest)


@virtual
async def test_a_target_that_ignores_cancellation_sends_nothing_and_counts() -> None:
    free = asyncio.Event()

    async def stubborn(call: Call) -> Reply:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                pass
        return Reply(b"too late")

    link, peer, _ = await raw_pair(Plain(stubborn), limits=small)
    for number in range(1, 5):
        await peer.send(call_frame(number))
    await eventually(lambda: link.snapshot().served_calls == 4)
    for number in range(1, 5):
        await peer.send(CancelFrame(number))
    await eventually(lambda: link.snapshot().served_calls == 0)
    assert link.snapshot().running_tasks == 4
    await peer.send(call_frame(5))  # otherwise anybody could start any number of tasks
    refused = await peer.next_of(ErrorFrame)
    assert (refused.number, refused.code, refused.executed) == (5, "overloaded", "no")
    free.set()
    await eventually(lambda: link.snapshot().at_rest)
    await peer.send(call_frame(6))
    assert (await peer.next_of(ReplyFrame)).number == 6


@virtual
async def test_a_caller_cancelled_while_its_reply_arrives() -> None:
    link, peer, _ = await raw_pair()
    task = asyncio.create_task(link.invoke(call()))
    sent = await peer.next_of(CallFrame)
    await peer.send(ErrorFrame(sent.number, "not_found", "gone", "no"))
    # The error is set on the slot and the task is cancelled before it wakes.
    slots = link._outgoing.slots
    await eventually(lambda: not slots)
    task.cancel()
    with pytest.raises((asyncio.CancelledError, GoverseError)):
        await task
    assert link.snapshot().at_rest


# -- deadlines --------------------------------------------------------------------------------


@virtual
async def test_a_deadline_that_has_passed() -> None:
    ends = await pair()
    for timeout_s in (0.0, -1.0, math.nan):
        with pytest.raises(DeadlineExceeded) as caught:
            await ends.near.invoke(call(timeout_s=timeout_s))
        assert caught.value.executed is Executed.NO
    assert ends.far_target.calls == []
    await ends.rest()


@virtual
async def test_no_reply_in_time() -> None:
    held = Held()
    ends = await pair(held)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with pytest.raises(DeadlineExceeded) as caught:
        await ends.near.invoke(call(timeout_s=2))
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.executed is Executed.UNKNOWN
    assert loop.time() - began == pytest.approx(2, abs=0.05)
    await eventually(lambda: held.cancelled == 1)  # by the cancel frame
    await ends.rest()


@virtual
async def test_a_call_without_end_waits() -> None:
    held = Held()
    ends = await pair(held)
    (task,) = await start(ends, call(timeout_s=math.inf))
    held.free.set()
    await task
    await ends.rest()


@virtual
async def test_many_deadlines_each_in_its_time() -> None:
    ends = await pair(Held())
    loop = asyncio.get_running_loop()
    began = loop.time()

    async def late(timeout_s: float) -> float:
        with pytest.raises(DeadlineExceeded):
            await ends.near.invoke(call(timeout_s=timeout_s))
        return loop.time() - began - timeout_s

    timeouts = [5.0, 1.0, 1.001, 0.5, 3.0, 0.01]
    lates = await asyncio.gather(*map(late, timeouts))
    assert all(-0.001 <= late_s <= 0.03 for late_s in lates)
    await ends.rest()


@virtual
async def test_the_deadline_of_a_call_never_sent_says_so() -> None:
    stuck = replace(LimitSettings(), heartbeat_timeout_s=60, heartbeat_interval_s=30)
    ends = await pair(near_limits=stuck, far_limits=stuck)
    ends.hub.set_policy(lambda source, target: None)
    filling = [asyncio.create_task(ends.near.invoke(call(bytes(200_000)))) for _ in range(60)]
    # More than a cut connection takes: the later ones never reach the carrier.
    await eventually(lambda: ends.near.snapshot().waiting_calls == 60)
    with pytest.raises(DeadlineExceeded) as caught:
        await ends.near.invoke(call(timeout_s=1))
    assert caught.value.executed is Executed.NO
    for task in filling:
        task.cancel()
    await asyncio.wait(filling)
    ends.hub.set_policy(None)
    await ends.rest()


@virtual
async def test_the_receiver_ends_a_call_whose_time_is_up() -> None:
    held = Held()
    link, peer, _ = await raw_pair(held)  # a peer that never cancels
    await peer.send(call_frame(1, remaining_ms=500))
    began = asyncio.get_running_loop().time()
    refused = await peer.next_of(ErrorFrame)
    assert (refused.code, refused.executed) == ("deadline_exceeded", "unknown")
    assert asyncio.get_running_loop().time() - began == pytest.approx(0.5 + GRACE_S, abs=0.05)
    assert held.cancelled == 1
    await eventually(lambda: link.snapshot().at_rest)


@virtual
async def test_an_answer_that_waits_to_be_sent_is_not_taken_back() -> None:
    link, peer, _ = await raw_pair()
    peer.valve.shut()
    await peer.send(call_frame(1, b"1"))
    await eventually(lambda: len(peer.valve.sent) == 2)
    await peer.send(call_frame(2, b"2", remaining_ms=300))
    await eventually(lambda: link.snapshot().queued_frames == 1)
    began = asyncio.get_running_loop().time()
    await eventually(lambda: asyncio.get_running_loop().time() > began + 1)
    peer.valve.open()
    assert (await peer.next_of(ReplyFrame)).payload == b"1"
    frame = await peer.next()
    assert frame == ReplyFrame(2, b"2", Codec.MSGPACK)
    await eventually(lambda: link.snapshot().at_rest)


@virtual
async def test_a_call_that_is_late_on_arrival_is_not_begun() -> None:
    target = Target()
    link, peer, _ = await raw_pair(target)
    await peer.send(call_frame(1, remaining_ms=0))
    refused = await peer.next_of(ErrorFrame)
    assert (refused.code, refused.executed) == ("deadline_exceeded", "no")
    assert target.calls == []
    assert link.snapshot().at_rest


# -- limits -----------------------------------------------------------------------------------


@virtual
async def test_too_many_calls_are_refused_at_once() -> None:
    held = Held()
    ends = await pair(held, near_limits=small)
    tasks = await start(ends, *(call() for _ in range(4)))
    with pytest.raises(Overloaded) as caught:
        await ends.near.invoke(call())
    assert caught.value.executed is Executed.NO
    held.free.set()
    await asyncio.gather(*tasks)
    await ends.near.invoke(call())
    await ends.rest()


@virtual
async def test_too_many_bytes_are_refused_at_once() -> None:
    held = Held()
    ends = await pair(held, near_limits=small)
    tasks = await start(ends, call(bytes(6_000)))
    with pytest.raises(Overloaded):
        await ends.near.invoke(call(bytes(6_000)))
    await start(ends, call())
    held.free.set()
    await asyncio.gather(*tasks)
    await ends.rest()


@virtual
async def test_the_receiver_has_limits_of_its_own() -> None:
    held = Held()
    ends = await pair(held, far_limits=small)
    tasks = await start(ends, *(call() for _ in range(4)))
    with pytest.raises(Overloaded) as caught:
        await ends.near.invoke(call())
    assert caught.value.executed is Executed.NO
    held.free.set()
    await asyncio.gather(*tasks)
    await ends.rest()


@virtual
async def test_a_session_has_the_limit_of_sessions() -> None:
    limits = replace(LimitSettings(), max_session_calls=2)
    held = Held()
    ends = await pair(held, near_role=Role.CLIENT, far_role=Role.GATE, near_limits=limits)
    await start(ends, call(), call())
    with pytest.raises(Overloaded):
        await ends.near.invoke(call())
    ends.near.abort("done")


@virtual
async def test_names_have_a_limit() -> None:
    ends = await pair()
    one = call()
    one.method = "m" * 100_000
    with pytest.raises(TooLarge, match="names"):
        await ends.near.invoke(one)
    chain = tuple(ChainEntry("T", "i" * 500, Epoch(1, 2), n) for n in range(200))
    with pytest.raises(TooLarge, match="chain"):
        await ends.near.invoke(call(chain=chain))
    await ends.rest()


@virtual
async def test_names_are_measured_in_bytes() -> None:
    """A message must not grow beyond what the peer takes, or the link ends for everybody."""
    ends = await pair()
    one = call()
    one.method = "\N{PILE OF POO}" * 20_000
    with pytest.raises(TooLarge, match="names"):
        await ends.near.invoke(one)
    one.method = "\N{PILE OF POO}" * 15_000
    replies = await asyncio.gather(*(ends.near.invoke(one) for _ in range(100)))
    assert len(replies) == 100
    one.method = "x" * 2_000 + "\ud800"
    with pytest.raises(InvalidArgument):
        await ends.near.invoke(one)
    await ends.rest()


@virtual
async def test_errors_are_measured_in_bytes() -> None:
    text = "\N{PILE OF POO}" * 4_000
    error = ApplicationError("big", text * 2, {str(n): text for n in range(16)})
    ends = await pair(raising(error))
    outcomes = await asyncio.gather(
        *(ends.near.invoke(call()) for _ in range(100)), return_exceptions=True
    )
    assert {type(one) for one in outcomes} == {ApplicationError}
    await ends.rest()


@virtual
async def test_a_call_that_cannot_be_encoded_fails_alone() -> None:
    ends = await pair()
    bad = call()
    bad.id = "\ud800"
    worse = call(b"x")
    worse.payload = [object()]  # type: ignore[assignment]
    results = await asyncio.gather(
        ends.near.invoke(call(b"1")),
        ends.near.invoke(bad),
        ends.near.invoke(worse),
        ends.near.invoke(call(b"2")),
        return_exceptions=True,
    )
    assert results[0] == Reply(b"1")
    assert results[3] == Reply(b"2")
    assert isinstance(results[1], InvalidArgument) and results[1].executed is Executed.NO
    assert isinstance(results[2], TypeError)  # no client can send that: it is a mistake of ours
    assert [one.payload for one in ends.far_target.calls] == [b"1", b"2"]
    await ends.rest()


@virtual
async def test_L24_a_peer_that_reads_nothing_holds_up_nobody_else() -> None:
    """Its queue is bounded, its calls are refused, and other links do not notice."""
    limits = replace(LimitSettings(), max_inflight_calls=100, max_inflight_bytes=8_000_000)
    link, _, _ = await raw_pair(limits=limits)
    other = await pair(near_limits=limits)
    big = bytes(200_000)
    calls = [asyncio.create_task(link.invoke(call(big, timeout_s=2))) for _ in range(50)]
    await eventually(lambda: any(task.done() for task in calls))
    refused = [task for task in calls if task.done()]
    assert 5 <= len(refused) <= 20
    for task in refused:
        assert isinstance(task.exception(), Overloaded)
    for _ in range(1_000):
        await other.near.invoke(call(bytes(1_000)))
    for task in asyncio.as_completed(calls):
        with pytest.raises((Overloaded, DeadlineExceeded)):
            await task
    assert link.snapshot().waiting_calls == link.snapshot().waiting_bytes == 0
    link.abort("enough")
    assert link.snapshot().at_rest


@virtual
async def test_abandoned_calls_in_the_queue_are_bounded() -> None:
    link, peer, _ = await raw_pair(limits=small)
    outcomes: dict[str, int] = {}
    filling = [asyncio.create_task(link.invoke(call(bytes(2_400)))) for _ in range(4)]
    await eventually(lambda: link.snapshot().queued_frames == 0)
    for task in filling:
        task.cancel()
    await asyncio.wait(filling)
    peer.valve.shut()
    with pytest.raises(DeadlineExceeded):
        await link.invoke(call(timeout_s=0.1))
    for _ in range(50):
        try:
            await link.invoke(call(timeout_s=0.02))
        except GoverseError as error:
            outcomes[error.code] = outcomes.get(error.code, 0) + 1
    assert outcomes["overloaded"] > 40
    assert link.snapshot().queued_frames <= 10
    link.abort("enough")
    assert link.snapshot().at_rest


@virtual
async def test_a_peer_that_calls_and_reads_no_answers_is_ended() -> None:
    """Refusals have a limit as well."""
    held = Held()
    link, peer, _ = await raw_pair(held, limits=small)
    for number in range(1, 5):
        await peer.send(call_frame(number))
    await eventually(lambda: link.snapshot().served_calls == 4)
    peer.valve.shut()
    with pytest.raises(CarrierClosed):
        for hundred in range(100, 2_000, 100):
            await peer.send(*(call_frame(hundred + n) for n in range(100)))
    assert "does not read the answers" in await link.wait_closed()
    assert link.snapshot().at_rest


@virtual
async def test_answers_count_until_they_are_taken() -> None:
    """A peer that calls and reads nothing runs into its limit, not into our memory."""
    target = Target()
    link, peer, _ = await raw_pair(target, limits=small)
    peer.valve.shut()
    await peer.send(call_frame(1))
    await eventually(lambda: len(peer.valve.sent) == 2)  # its answer is in the carrier's hands
    for number in range(2, 30):
        await peer.send(call_frame(number, bytes(100)))
    await eventually(lambda: link.snapshot().messages_received == 29)
    assert len(target.calls) <= 5
    await eventually(lambda: link.snapshot().running_tasks == 0)
    assert link.snapshot().served_calls == 4
    assert link.snapshot().served_bytes == 400
    link.abort("enough")
    assert link.snapshot().at_rest
