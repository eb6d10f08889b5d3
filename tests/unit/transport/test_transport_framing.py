"""Messages are found in any split of a stream, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.transport.framing import (
    HTTP2_PREFACE,
    MAX_REASON_BYTES,
    PREFACE,
    FramingError,
    Splitter,
    last_record,
    record,
)

LIMIT = 1_000

messages = st.lists(st.binary(max_size=60), max_size=12)
cuts = st.lists(st.integers(min_value=1, max_value=40), min_size=1)


def pieces(stream: bytes, sizes: list[int]) -> list[bytes]:
    found, at, turn = [], 0, 0
    while at < len(stream):
        size = sizes[turn % len(sizes)]
        found.append(stream[at : at + size])
        at, turn = at + size, turn + 1
    return found


def taken(splitter: Splitter, stream: bytes, sizes: list[int]) -> list[bytes]:
    """Everything that is found, taken as soon as it is there."""
    found = []
    for piece in pieces(stream, sizes):
        splitter.feed(piece)
        while (message := splitter.next(LIMIT)) is not None:
            found.append(message)
    return found


@given(messages, cuts)
def test_any_split_of_a_stream_gives_the_same_messages(sent: list[bytes], sizes: list[int]) -> None:
    splitter = Splitter()
    assert taken(splitter, b"".join(map(record, sent)), sizes) == sent
    assert (splitter.waiting_bytes, splitter.reason) == (0, None)


@given(messages, st.data())
def test_messages_may_be_taken_late(sent: list[bytes], data: st.DataObject) -> None:
    """What waits is kept in order, whenever somebody asks for it."""
    splitter, found = Splitter(), []
    for piece in pieces(b"".join(map(record, sent)), data.draw(cuts)):
        splitter.feed(piece)
        if data.draw(st.booleans()) and (message := splitter.next(LIMIT)) is not None:
            found.append(message)
    while (message := splitter.next(LIMIT)) is not None:
        found.append(message)
    assert found == sent


@given(messages, cuts, st.text(max_size=50), st.binary(max_size=50))
def test_after_the_last_record_nothing_follows(
    sent: list[bytes], sizes: list[int], reason: str, more: bytes
) -> None:
    splitter = Splitter()
    stream = b"".join(map(record, sent)) + last_record(reason)
    assert taken(splitter, stream + more, sizes) == sent
    assert splitter.reason == reason


@given(messages, cuts, st.binary(min_size=1, max_size=60), st.data())
def test_a_message_that_is_cut_off_is_none(
    sent: list[bytes], sizes: list[int], last: bytes, data: st.DataObject
) -> None:
    cut = data.draw(st.integers(min_value=1, max_value=len(last) + 3))
    splitter = Splitter()
    assert taken(splitter, b"".join(map(record, sent)) + record(last)[:cut], sizes) == sent
    assert splitter.waiting_bytes == cut


@given(messages, cuts, st.integers(min_value=LIMIT + 1, max_value=2**31 - 1))
def test_a_length_beyond_the_limit_is_refused_before_its_bytes(
    sent: list[bytes], sizes: list[int], length: int
) -> None:
    splitter = Splitter()
    assert taken(splitter, b"".join(map(record, sent)), sizes) == sent
    splitter.feed(length.to_bytes(4, "big"))
    with pytest.raises(FramingError, match=f"{length} bytes, the limit is {LIMIT}"):
        splitter.next(LIMIT)


@given(st.binary(max_size=300), cuts)
def test_rubbish_is_messages_within_the_limit_or_an_error(rubbish: bytes, sizes: list[int]) -> None:
    splitter = Splitter()
    try:
        found = taken(splitter, rubbish, sizes)
    except FramingError:
        return
    assert sum(len(message) + 4 for message in found) <= len(rubbish)
    assert all(len(message) <= LIMIT for message in found)


def test_a_limit_that_changes_counts_for_what_waits() -> None:
    """A greeting is short; what waits behind it is looked at with the limit of a link."""
    splitter = Splitter()
    splitter.feed(record(b"hello") + record(bytes(500)))
    assert splitter.next(10) == b"hello"
    assert splitter.next(500) == bytes(500)


def test_reasons_have_a_limit() -> None:
    splitter = Splitter()
    splitter.feed(last_record("ü" * 5_000))
    assert splitter.next(LIMIT) is None
    assert splitter.reason is not None
    assert splitter.reason.startswith("üüü")
    splitter = Splitter()
    splitter.feed(((1 << 31) | (MAX_REASON_BYTES + 1)).to_bytes(4, "big"))
    with pytest.raises(FramingError, match="a reason of"):
        splitter.next(LIMIT)


def test_what_was_cleared_is_gone() -> None:
    splitter = Splitter()
    splitter.feed(record(b"x") + b"rest")
    splitter.clear()
    assert splitter.next(LIMIT) is None
    splitter.feed(record(b"y"))
    assert splitter.next(LIMIT) == b"y"


def test_prefaces_differ_in_their_first_byte() -> None:
    assert PREFACE[0] != HTTP2_PREFACE[0]
