"""A live link is fed rubbish: it ends with a reason, and nothing of it is left."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.call import Call, Codec, Reply, Verb
from goverse.config.settings import LimitSettings
from goverse.errors import GoverseError, LinkBroken
from goverse.transport.carrier import CarrierClosed
from goverse.transport.hello import Role
from goverse.transport.wire import (
    CallExtra,
    CallFrame,
    CancelFrame,
    ChunkFrame,
    ErrorFrame,
    GoodbyeFrame,
    Of,
    PingFrame,
    ReplyFrame,
    Stage,
    encode,
)
from tests.support.eventually import eventually
from tests.support.links import Target, call, call_frame, raw_pair
from tests.support.virtual import virtual

limits = replace(
    LimitSettings(),
    max_inflight_calls=5,
    max_inflight_bytes=5_000,
    max_payload_bytes=2_000,
    max_chunk_bytes=300,
    max_batch_bytes=1_000,
)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logger = logging.getLogger("goverse.transport")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


GOOD = encode(
    [
        call_frame(1, b"abc"),
        CallFrame(2, 9_000, "T", "i", "m", b"", Codec.JSON, Verb.CALL, 600, CallExtra(trace="t")),
        ChunkFrame(2, Of.CALL, bytes(300)),
        ReplyFrame(1, b"reply", Codec.MSGPACK),
        ErrorFrame(2, "not_found", "gone", "no", False, {"a": [1, {"b": None}]}),
        ReplyFrame(3, b"", Codec.MSGPACK, 600),
        ChunkFrame(3, Of.REPLY, bytes(300)),
        CancelFrame(1),
        PingFrame(),
    ]
)


async def feed(messages: list[bytes], role: Role) -> None:
    """Whatever a peer says, callers get an outcome and the link ends empty."""

    async def behave(call: Call) -> Reply:
        if call.payload == b"abc":
            await asyncio.Event().wait()
        return Reply(bytes(1_000))

    link, peer, hub = await raw_pair(Target(behave), limits=limits, role=role)
    tasks = [asyncio.create_task(link.invoke(call(b"x" * 400, timeout_s=5))) for _ in range(3)]
    await eventually(lambda: link.snapshot().waiting_calls == 3)
    try:
        for message in messages:
            await peer.send_bytes(message)
    except CarrierClosed:
        pass
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        assert isinstance(outcome, Reply | GoverseError)
    snapshot = link.snapshot()
    assert snapshot.waiting_calls == snapshot.waiting_bytes == 0
    peer.carrier.abort("enough")
    reason = await link.wait_closed()
    assert reason
    assert link.snapshot().at_rest
    assert hub.connections() == 0


roles = st.sampled_from([Role.NODE, Role.CLIENT])


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3), roles)
def test_random_bytes(messages: list[bytes], role: Role) -> None:
    virtual(feed)(messages, role)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), roles)
def test_flipped_bytes(position: int, mask: int, role: Role) -> None:
    changed = bytearray(GOOD)
    changed[position] ^= mask
    virtual(feed)([bytes(changed)], role)


@given(st.integers(0, len(GOOD)), roles)
def test_truncated_messages(length: int, role: Role) -> None:
    virtual(feed)([GOOD[:length], GOOD], role)


few = st.integers(-1, 6)
sizes = st.sampled_from([-1, 0, 0, 0, 1, 300, 600, 2_001, 2**40])
datas = st.sampled_from([b"", b"abc", bytes(300), bytes(600), bytes(2_001)])
frames = st.one_of(
    st.builds(
        CallFrame,
        few,
        st.sampled_from([-1, 0, 1, 50, 10_000, 2**60]),
        st.just("T"),
        st.just("i"),
        st.just("m"),
        datas,
        st.just(Codec.MSGPACK),
        st.just(Verb.CALL),
        sizes,
    ),
    st.builds(ReplyFrame, few, datas, st.just(Codec.JSON), sizes),
    st.builds(ErrorFrame, few, st.sampled_from(["fenced", "x"]), st.just("m"), st.just("no")),
    st.builds(ChunkFrame, few, st.sampled_from(Of), datas),
    st.builds(CancelFrame, few),
    st.builds(GoodbyeFrame, st.sampled_from(Stage)),
    st.just(PingFrame()),
)


@given(st.lists(st.lists(frames, max_size=5), max_size=8), roles)
def test_well_formed_nonsense(messages: list[list[Any]], role: Role) -> None:
    virtual(feed)([encode(message) for message in messages], role)


@virtual
async def test_a_bad_message_ends_the_link_with_its_reason() -> None:
    link, peer, _ = await raw_pair()
    task = asyncio.create_task(link.invoke(call()))
    await peer.next_of(CallFrame)
    await peer.send_bytes(b"\x91\x92\x04\xa3one")
    with pytest.raises(LinkBroken, match="the peer sent a bad message: Expected `int`"):
        await task
    assert link.snapshot().at_rest
    assert "bad message" in await link.wait_closed()
