"""Frames and errors survive the journey; bytes of strangers are refused with a reason."""

from __future__ import annotations

import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.call import Call, ChainEntry, Codec, Verb
from goverse.errors import (
    BY_CODE,
    ApplicationError,
    DeadlineExceeded,
    Executed,
    Fenced,
    GoverseError,
    Internal,
    InvalidArgument,
    LinkBroken,
    NotFound,
    NotOwner,
    Unavailable,
)
from goverse.ids import Epoch
from goverse.transport.call_frames import MAX_REMAINING_MS, call_of, extra_of, remaining_ms
from goverse.transport.wire import (
    CallExtra,
    CallFrame,
    CancelFrame,
    ChunkFrame,
    ErrorFrame,
    Frame,
    GoodbyeFrame,
    HelloFrame,
    Of,
    PingFrame,
    ReplyFrame,
    Stage,
    WireError,
    decode,
    encode,
)
from goverse.transport.wire_errors import MAX_DETAIL_DEPTH, error_frame, error_of, safe_details

MAX = 1 << 20

numbers = st.integers(0, 2**63 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
payloads = st.binary(max_size=200)
sizes = st.integers(-(2**31), 2**31)
chains = st.lists(
    st.builds(ChainEntry, text, text, st.builds(Epoch, numbers, numbers), numbers), max_size=3
).map(tuple)
extras = st.none() | st.builds(CallExtra, chains, text, text, text, text)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=10,
)
details = st.dictionaries(text, json_values, max_size=4)
frames = st.one_of(
    st.builds(
        CallFrame,
        numbers,
        sizes,
        text,
        text,
        text,
        payloads,
        st.sampled_from(Codec),
        st.sampled_from(Verb),
        sizes,
        extras,
    ),
    st.builds(ReplyFrame, numbers, payloads, st.sampled_from(Codec), sizes),
    st.builds(ErrorFrame, numbers, text, text, text, st.booleans(), details),
    st.builds(CancelFrame, numbers),
    st.builds(ChunkFrame, numbers, st.sampled_from(Of), payloads),
    st.just(PingFrame()),
    st.builds(GoodbyeFrame, st.sampled_from(Stage)),
    st.builds(HelloFrame, sizes, st.lists(text, max_size=3).map(tuple), text, text, text, text),
)


@given(st.lists(frames, max_size=6))
def test_every_frame_survives(sent: list[Frame]) -> None:
    assert decode(encode(sent), max_bytes=MAX) == sent


def test_only_what_is_set_travels() -> None:
    plain = Call("T", "i", "m", b"", 1.0)
    assert extra_of(plain) == (None, 0)
    extra, _ = extra_of(msgspec.structs.replace(plain, trace="00-ab"))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(extra)) == {"trace": "00-ab"}


def test_a_client_cannot_write_what_members_write() -> None:
    chain = (ChainEntry("T", "i", Epoch(1, 2), 3),)
    extra = CallExtra(chain, "alice", "c1", "call-1", "00-ab")
    frame = CallFrame(1, 1000, "T", "i", "m", b"", Codec.JSON, Verb.CALL, 0, extra)
    from_member = call_of(frame, b"p", 5.0, True)
    from_client = call_of(frame, b"p", 5.0, False)
    assert from_member == Call(
        "T", "i", "m", b"p", 5.0, Codec.JSON, Verb.CALL, chain, "alice", "c1", "call-1", "00-ab"
    )
    assert (from_client.chain, from_client.principal, from_client.client_id) == ((), "", "")
    assert (from_client.call_id, from_client.trace) == ("call-1", "00-ab")


@pytest.mark.parametrize(
    ("remaining_s", "expected"),
    [(0.0, 0), (-1.0, 0), (1.5, 1500), (math.inf, MAX_REMAINING_MS), (1e9, MAX_REMAINING_MS)],
)
def test_remaining_time(remaining_s: float, expected: int) -> None:
    assert remaining_ms(remaining_s) == expected


# -- malformed bytes --------------------------------------------------------------------------

GOOD = encode(
    [
        CallFrame(1, 1000, "T", "i", "m", b"abc", Codec.JSON, Verb.CALL, 0, CallExtra(trace="t")),
        ErrorFrame(2, "not_found", "gone", "no", False, {"a": [1, {"b": None}]}),
        ChunkFrame(3, Of.CALL, b"123"),
    ]
)


def decodes_or_refuses(message: bytes, skip_unknown: bool) -> None:
    try:
        decode(message, max_bytes=MAX, skip_unknown=skip_unknown)
    except WireError as error:
        assert str(error)


@given(st.binary(max_size=200), st.booleans())
def test_random_bytes(message: bytes, skip: bool) -> None:
    decodes_or_refuses(message, skip)


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255), st.booleans())
def test_flipped_bytes(position: int, mask: int, skip: bool) -> None:
    changed = bytearray(GOOD)
    changed[position] ^= mask
    decodes_or_refuses(bytes(changed), skip)


@pytest.mark.parametrize("length", range(len(GOOD)))
def test_truncated_bytes(length: int) -> None:
    with pytest.raises(WireError, match="truncated"):
        decode(GOOD[:length], max_bytes=MAX)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (msgspec.msgpack.encode({"a": 1}), "Expected `array`"),
        (msgspec.msgpack.encode([[99, 1]]), "Invalid value 99"),
        (msgspec.msgpack.encode([[4]]), "length"),
        (msgspec.msgpack.encode([[4, "one"]]), "Expected `int`"),
        (msgspec.msgpack.encode([[7, 9]]), "Invalid"),
        (encode([PingFrame()]) + b"\x00", "trailing"),
        (b"\x91\x95\x03\x01\xa1\xff\xa1a\xa2no", "utf-8"),
        (b"\x91\x97\x03\x01\xa1c\xa1m\xa2no\xc2" + b"\x81\xa1a" * 5_000 + b"\xc0", "deep"),
        (b"\x91" * 5_000 + b"\xc0", "Expected"),
        (b"\xdd\xff\xff\xff\xff", "truncated"),
        (b"\x91\x97\x03\x01\xa1c\xa1m\xa2no\xc2\xdf\xff\xff\xff\xff", "truncated"),
        (bytes(MAX + 1), "the limit is"),
    ],
)
def test_bad_messages_are_named(message: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        decode(message, max_bytes=MAX)


def test_unknown_kinds_are_skipped_only_by_agreement() -> None:
    message = msgspec.msgpack.encode([[4, 7], [99, {"new": 1}], [6]])
    assert decode(message, max_bytes=MAX, skip_unknown=True) == [CancelFrame(7), PingFrame()]
    with pytest.raises(WireError):
        decode(message, max_bytes=MAX)
    for bad in ([[4, "x"]], [[-1]], [["x"]], [[]], [1]):
        with pytest.raises(WireError):
            decode(msgspec.msgpack.encode(bad), max_bytes=MAX, skip_unknown=True)


def test_fields_of_a_newer_version_are_ignored() -> None:
    message = msgspec.msgpack.encode([[4, 7, "new"], [6, 1, 2]])
    assert decode(message, max_bytes=MAX) == [CancelFrame(7), PingFrame()]


# -- errors -----------------------------------------------------------------------------------


def travel(error: GoverseError, **options: bool) -> GoverseError:
    (frame,) = decode(encode([error_frame(1, error, **options)]), max_bytes=MAX)
    assert isinstance(frame, ErrorFrame)
    return error_of(frame)


@pytest.mark.parametrize("code", sorted(set(BY_CODE) - {"not_owner", "fenced", "link_broken"}))
@pytest.mark.parametrize("executed", Executed)
def test_every_error_survives(code: str, executed: Executed) -> None:
    error = BY_CODE[code]("it failed", executed=executed, details={"path": "$.a", "n": 3})
    there = travel(error)
    assert type(there) is type(error)
    assert (there.code, there.message, there.executed) == (code, "it failed", executed)
    assert there.details == {"path": "$.a", "n": 3}


@given(text, text, st.sampled_from(Executed), details)
def test_application_errors_survive(
    code: str, message: str, executed: Executed, more: dict[str, Any]
) -> None:
    error = ApplicationError(code, message, more, executed=executed)
    there = travel(error)
    assert isinstance(there, ApplicationError)
    assert (there.code, there.message, there.executed, there.details) == (
        error.code,
        error.message,
        executed,
        more,
    )


def test_an_application_code_that_is_also_ours_stays_the_applications() -> None:
    assert isinstance(travel(ApplicationError("not_owner")), ApplicationError)
    assert isinstance(travel(ApplicationError("internal")), ApplicationError)


def test_cluster_errors_survive() -> None:
    owner = travel(NotOwner("moved", epoch=Epoch(3, 1 << 50)))
    assert isinstance(owner, NotOwner)
    assert owner.epoch == Epoch(3, 1 << 50)
    assert owner.executed is Executed.NO
    fenced = travel(Fenced("newer", executed=Executed.NO))
    assert isinstance(fenced, Fenced)
    assert fenced.executed is Executed.NO
    for sent in (True, False):
        broken = travel(LinkBroken("gone", sent=sent))
        assert isinstance(broken, LinkBroken)
        assert broken.sent is sent


def test_clients_are_not_told_of_the_cluster_and_not_believed_about_it() -> None:
    error = NotOwner("moved", epoch=Epoch(1, 2))
    there = travel(error, to_member=False)
    assert type(there) is Unavailable
    assert there.executed is Executed.NO
    claimed = error_of(error_frame(1, error), from_member=False)
    assert type(claimed) is Internal
    assert claimed.details["code"] == "not_owner"


def test_a_code_of_a_newer_version_is_kept_in_the_details() -> None:
    there = error_of(ErrorFrame(1, "too_hot", "cool down", "yes", False, {"a": 1}))
    assert type(there) is Internal
    assert there.details == {"a": 1, "code": "too_hot"}
    assert there.executed is Executed.YES


def test_an_unknown_word_for_executed_is_unknown() -> None:
    assert error_of(ErrorFrame(1, "not_found", "", "perhaps")).executed is Executed.UNKNOWN


@pytest.mark.parametrize("epoch", [None, [1], [1, "2"], "12", [True, 1]])
def test_a_bad_epoch_is_none(epoch: object) -> None:
    error = error_of(ErrorFrame(1, "not_owner", "", "no", False, {"epoch": epoch}))
    assert isinstance(error, NotOwner)
    assert error.epoch == Epoch(0, 0)


class Nasty:
    def __str__(self) -> str:
        raise RuntimeError("no")


def test_details_that_cannot_be_encoded_are_made_safe() -> None:
    endless: list[Any] = []
    endless.append(endless)
    nasty = {
        "object": Nasty(),
        "set": {1},
        "nan": math.nan,
        "big": 1 << 80,
        "surrogate": "\ud800",
        7: "number key",
        "endless": endless,
        "bytes": b"x",
        "codec": Codec.JSON,
        "wide": list(range(5_000)),
        "after": "cut",
    }
    there = travel(InvalidArgument("no \ud800 way", details=nasty))
    assert there.message == "no ? way"
    assert there.details["object"] == "<Nasty>"
    assert there.details["nan"] == "nan"
    assert there.details["big"] == str(1 << 80)
    assert there.details["surrogate"] == "?"
    assert there.details["7"] == "number key"
    assert there.details["codec"] == "1"
    assert there.details["truncated"] is True
    assert len(there.details["wide"]) < 1_001


def test_details_have_a_depth() -> None:
    deep: dict[str, Any] = {}
    inner = deep
    for _ in range(100):
        inner["d"] = {}
        inner = inner["d"]
    safe: Any = safe_details(deep)
    levels = 0
    while isinstance(safe, dict):
        safe = safe.get("d")
        levels += 1
    assert levels == MAX_DETAIL_DEPTH
    assert safe == "<dict>"


def test_long_texts_are_cut() -> None:
    there = travel(NotFound("x" * 100_000, details={f"k{n}": "y" * 5_000 for n in range(100)}))
    assert len(there.message) == 4 * 1024
    assert sum(map(len, map(str, there.details.values()))) < 20_000


nasty_values = st.recursive(
    st.text(max_size=5) | st.binary(max_size=5) | st.floats(),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=5), nasty_values, max_size=3))
def test_whatever_the_details_the_error_arrives(nasty: dict[str, Any]) -> None:
    assert isinstance(travel(DeadlineExceeded("late", details=nasty)), DeadlineExceeded)
