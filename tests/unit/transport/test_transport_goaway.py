"""GOAWAY is put between two frames, wherever the bytes of the frames are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from goverse.transport.goaway import GOAWAY, Frames


def frame(payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + b"\x00\x00" + b"\x00\x00\x00\x01" + payload


@given(
    st.lists(st.binary(max_size=40), min_size=1, max_size=8),
    st.lists(st.integers(1, 30), min_size=1),
    st.integers(0, 30),
)
def test_it_stands_between_two_frames_and_after_the_first(
    payloads: list[bytes], sizes: list[int], when: int
) -> None:
    frames = [frame(payload) for payload in payloads]
    ends = {sum(map(len, frames[: n + 1])) for n in range(len(frames))}
    whole, follow = b"".join(frames), Frames()
    sent, place, said_at, due = 0, 0, -1, False
    while sent < len(whole):
        if place == when:
            if follow.between:
                said_at = sent
            due = said_at < 0
        piece = whole[sent : sent + sizes[place % len(sizes)]]
        end = follow.passed(piece)
        if due and end >= 0:
            said_at, due = sent + end, False
        sent, place = sent + len(piece), place + 1
    assert said_at == -1 or said_at in ends
    assert follow.between
    if place > when:
        assert said_at in ends


def test_the_server_speaks_first() -> None:
    follow = Frames()
    assert not follow.between
    assert follow.passed(frame(b"settings")[:9]) == -1
    assert not follow.between
    assert follow.passed(frame(b"settings")[9:]) == 8
    assert follow.between


def test_it_is_a_frame_of_its_own_about_the_connection_that_excludes_no_stream() -> None:
    follow = Frames()
    assert follow.passed(GOAWAY) == len(GOAWAY) == 17
    assert GOAWAY[3] == 7 and GOAWAY[5:9] == bytes(4)
    assert GOAWAY[9:13] == b"\x7f\xff\xff\xff" and GOAWAY[13:] == bytes(4)
