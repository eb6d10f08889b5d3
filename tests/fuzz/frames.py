"""A live link whose peer says anything at all; see ``test_transport_fuzz.py``."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from goverse.transport.hello import Role
from goverse.transport.wire import encode
from tests.fuzz.property import fuzzed
from tests.support.virtual import virtual
from tests.unit.transport.test_transport_fuzz import GOOD, feed, frames, roles


@fuzzed(st.lists(st.binary(max_size=200), min_size=1, max_size=4), roles)
def random_bytes(messages: list[bytes], role: Role) -> None:
    virtual(feed)(messages, role)


@fuzzed(st.integers(0, len(GOOD)), st.binary(max_size=4), st.integers(0, len(GOOD)), roles)
def changed_bytes(where: int, instead: bytes, length: int, role: Role) -> None:
    changed = GOOD[:where] + instead + GOOD[where + len(instead) :]
    virtual(feed)([changed[:length], GOOD], role)


@fuzzed(st.lists(st.lists(frames, max_size=8), max_size=12), roles)
def nonsense(messages: list[list[Any]], role: Role) -> None:
    virtual(feed)([encode(message) for message in messages], role)
