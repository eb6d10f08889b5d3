"""What two processes tell each other before the first call.

::

    opener                         acceptor
      | connect                        |
      | hello -----------------------> |  an acceptor that answers by what it is told
      | <----------------------- hello |  (a gate gives a client its id) waits for it first
      |   calls in both directions     |
      | <------ error about call 0     |  instead of hello, or after it: the link is refused
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable

import msgspec

from goverse.errors import FailedPrecondition, GoverseError, LinkBroken
from goverse.ids import MemberId, check_member_name
from goverse.transport.carrier import MAX_GREETING_BYTES, Carrier, CarrierClosed
from goverse.transport.wire import (
    OLDEST_PROTOCOL,
    PROTOCOL,
    ErrorFrame,
    HelloFrame,
    WireError,
    decode,
    encode,
)
from goverse.transport.wire_errors import error_frame, error_of

SKIP_UNKNOWN_FRAMES = "skip-unknown-frames"
DESCRIBE_TYPES = "describe-types"
MOVE_STATE = "move-state"
REPORT_LOAD = "report-load"
FEATURES: tuple[str, ...] = (SKIP_UNKNOWN_FRAMES, DESCRIBE_TYPES, MOVE_STATE, REPORT_LOAD)
"""What this version can do beyond its protocol version; a feature counts if both sides name it."""

MAX_TOKEN_CHARS = 256
_TURN_AWAY_S = 1.0


class Role(enum.Enum):
    """What a process is. Clients are not members: much of what they say is not believed."""

    NODE = "node"
    GATE = "gate"
    CLIENT = "client"


class Hello(msgspec.Struct, frozen=True):
    """Who a process is.

    :param member: for a client, an empty name and a random incarnation.
    :param types_digest: of the object types that a node hosts; empty for others.
    :param client_id: in a gate's answer to a client, the id that it is given.
    """

    protocol: int
    features: tuple[str, ...]
    role: Role
    member: MemberId
    types_digest: str = ""
    client_id: str = ""

    @property
    def is_member(self) -> bool:
        return self.role is not Role.CLIENT

    def __str__(self) -> str:
        return f"{self.role.value} {self.member}"


def our_hello(
    role: Role, member: MemberId, *, types_digest: str = "", client_id: str = ""
) -> Hello:
    """The hello of a process that runs this version."""
    return Hello(PROTOCOL, FEATURES, role, member, types_digest, client_id)


def both(mine: Hello, theirs: Hello, feature: str) -> bool:
    """Whether both sides of a link have a feature."""
    return feature in mine.features and feature in theirs.features


def check_protocol(theirs: Hello) -> None:
    """Raises `FailedPrecondition` if the peer is too old. A newer one decides that itself."""
    if theirs.protocol < OLDEST_PROTOCOL:
        raise FailedPrecondition(
            f"{theirs} speaks protocol {theirs.protocol}; this process speaks "
            f"{OLDEST_PROTOCOL} to {PROTOCOL}: upgrade that one first"
        )


async def shake_hands(
    carrier: Carrier,
    hello: Hello,
    timeout_s: float,
    on_hello: Callable[[Hello], Hello] | None = None,
) -> tuple[Hello, Hello]:
    """Exchange hellos: (what was said, what was heard). A carrier that failed is aborted.

    :param on_hello: makes our hello out of the peer's; what it raises refuses the link.

    Raises `LinkBroken` (not sent) if the stream fails, the peer talks nonsense or nothing comes
    within ``timeout_s``; any other `GoverseError` is a refusal, the peer's or our own.
    """
    # The timer ends the stream, not the operation, so that the other side is told why.
    timer = asyncio.get_running_loop().call_later(
        timeout_s, carrier.abort, f"no hello within {timeout_s:g} s"
    )
    try:
        if on_hello is None:
            await carrier.send(encode([_frame(hello)]))
        theirs = _hello(await carrier.receive())
        try:
            check_protocol(theirs)
            if on_hello is not None:
                hello = on_hello(theirs)
        except GoverseError as refusal:
            await turn_away(carrier, refusal)
            raise
        if on_hello is not None:
            await carrier.send(encode([_frame(hello)]))
    except (CarrierClosed, WireError) as error:
        carrier.abort(str(error))
        raise LinkBroken(f"no link with {carrier.peer}: {error}", sent=False) from error
    except BaseException as error:
        carrier.abort(f"refused: {error}" if isinstance(error, GoverseError) else "given up")
        raise
    finally:
        timer.cancel()
    return hello, theirs


async def turn_away(carrier: Carrier, refusal: GoverseError) -> None:
    """Tell the peer why there will be no link, and let it end the stream: ending it here could
    overtake the message. A peer that does not is not waited for long."""
    timer = asyncio.get_running_loop().call_later(
        _TURN_AWAY_S, carrier.abort, f"refused: {refusal}"
    )
    try:
        await carrier.send(encode([error_frame(0, refusal)]))
        while True:
            await carrier.receive()
    except CarrierClosed:
        pass
    finally:
        timer.cancel()


def _frame(hello: Hello) -> HelloFrame:
    return HelloFrame(
        hello.protocol,
        hello.features,
        hello.role.value,
        hello.member.name,
        hello.member.incarnation,
        hello.types_digest,
        hello.client_id,
    )


def _hello(message: bytes) -> Hello:
    frames = decode(message, max_bytes=MAX_GREETING_BYTES)
    frame = frames[0] if len(frames) == 1 else None
    if isinstance(frame, ErrorFrame) and frame.number == 0:
        raise error_of(frame)
    if not isinstance(frame, HelloFrame):
        raise WireError("the first message must be one hello")
    try:
        role = Role(frame.role)
        if role is not Role.CLIENT:
            check_member_name(frame.name)
    except ValueError as error:
        raise WireError(f"bad hello: {error}") from None
    if max(len(frame.incarnation), len(frame.types_digest), len(frame.client_id)) > MAX_TOKEN_CHARS:
        raise WireError(f"bad hello: a token longer than {MAX_TOKEN_CHARS} characters")
    return Hello(
        frame.protocol,
        frame.features,
        role,
        MemberId(frame.name, frame.incarnation),
        frame.types_digest,
        frame.client_id,
    )


def refusal_of(frame: ErrorFrame) -> str:
    """Why the peer ends an open link."""
    return f"the peer refused the link: {frame.message}"
