"""When a call is to run that does not run at once: as it is said, as it travels, as it is kept.

A delay is counted from the moment at which it reaches somebody who knows the store's clock; clocks
of clients do not matter to it.
"""

from __future__ import annotations

import datetime
import math

import msgspec

from goverse.errors import InvalidArgument
from goverse.objects import encoding
from goverse.storage.values import CatchUp, Timing

#: The shortest period of a repeated call: each tick is two transactions.
MIN_PERIOD_S = 0.01
MAX_DELAY_S = 100 * 366 * 86_400.0
#: The year 10,000.
MAX_RUN_AT = 253_402_300_800.0

_POLICIES = ", ".join(policy.value for policy in CatchUp)


class When(msgspec.Struct, array_like=True, frozen=True):
    """What a caller says.

    :param run_at: seconds since 1970; None: after ``delay_s``, or ``every_s`` if that is None too.
    :param every_s: 0: once.
    """

    run_at: float | None = None
    delay_s: float | None = None
    every_s: float = 0.0
    catch_up: str = CatchUp.ONE.value


class Schedule(msgspec.Struct, array_like=True):
    """The payload of a SCHEDULE.

    :param arguments: in the codec of the call.
    :param parent: with ``expires_at``, what an outbox says beside; of clients it counts for
        nothing.
    """

    arguments: bytes
    when: When
    parent: str = ""
    expires_at: float | None = None


_decode_schedule = msgspec.msgpack.Decoder(Schedule).decode


def when(
    *,
    run_at: datetime.datetime | float | None = None,
    delay_s: float | None = None,
    every_s: float | None = None,
    catch_up: str = CatchUp.ONE.value,
) -> When | None:
    """What these arguments say together; None: at once. Raises ValueError, naming the argument."""
    if every_s is None and catch_up != CatchUp.ONE.value:
        raise ValueError("catch_up is about the ticks of a repeated call: give every_s")
    if run_at is None and delay_s is None and every_s is None:
        return None
    if isinstance(run_at, datetime.datetime):
        if run_at.tzinfo is None:
            raise ValueError("run_at has no time zone: use datetime.now(datetime.UTC), or seconds")
        run_at = run_at.timestamp()
    said = When(run_at, delay_s, every_s or 0.0, catch_up)
    if every_s is not None and not every_s:
        raise ValueError(f"every_s must be at least {MIN_PERIOD_S:g}, not 0")
    return check(said)


def check(said: When) -> When:
    """``said``, if it can be meant. Raises ValueError, naming the field."""
    if said.run_at is not None and said.delay_s is not None:
        raise ValueError("run_at and delay_s both say when: give one of them")
    if said.run_at is None and said.delay_s is None and not said.every_s:
        raise ValueError("give run_at, delay_s or every_s: this call would run at once")
    if said.run_at is not None and not 0 <= said.run_at < MAX_RUN_AT:
        raise ValueError(f"run_at must be in seconds since 1970, not {said.run_at}")
    if said.delay_s is not None and not 0 <= said.delay_s < MAX_DELAY_S:
        raise ValueError(f"delay_s must be in seconds and not below 0, not {said.delay_s}")
    if said.every_s and not MIN_PERIOD_S <= said.every_s < MAX_DELAY_S:
        raise ValueError(f"every_s must be at least {MIN_PERIOD_S:g}, not {said.every_s}")
    if said.catch_up not in CatchUp._value2member_map_:
        raise ValueError(f"catch_up must be one of {_POLICIES}, not {said.catch_up!r:.40}")
    return said


def timing_of(said: When, now: float) -> Timing:
    """:param now: seconds since 1970 by the store's clock, as far as it is known."""
    run_at = said.run_at
    if run_at is None:
        run_at = now + (said.every_s if said.delay_s is None else said.delay_s)
    return Timing(in_micros(run_at), in_micros(said.every_s), CatchUp(said.catch_up))


def said_of(timing: Timing) -> When:
    return When(timing.run_at, None, timing.every_s, timing.catch_up.value)


def decode_schedule(payload: bytes) -> Schedule:
    """Raises InvalidArgument."""
    try:
        schedule = _decode_schedule(payload)
    except encoding.DECODE_ERRORS as error:
        raise InvalidArgument(f"what came is no delayed call: {error}") from None
    try:
        check(schedule.when)
    except ValueError as error:
        field = str(error).split()[0]
        raise InvalidArgument(str(error), details={"field": field}) from None
    return schedule


def next_tick(timing: Timing) -> float | None:
    """When a repeated call is due after ``timing.run_at``; None: it is not repeated."""
    return in_micros(timing.run_at + timing.every_s) if timing.every_s else None


def caught_up(timing: Timing, now: float, max_missed: int) -> tuple[float, int]:
    """For when a call runs that is looked at now, and how many ticks are left out for that.

    Pure. A tick is missed if the next one is due already. However many were, no more is done about
    them than to count, so that a year of them costs as much as one.

    :param max_missed: of ``EACH``: the oldest beyond these are left out.
    """
    if not timing.every_s or now < timing.run_at:
        return timing.run_at, 0
    missed = math.floor((now - timing.run_at) / timing.every_s)
    if timing.catch_up is CatchUp.EACH:
        left_out = max(0, missed - max_missed)
    elif timing.catch_up is CatchUp.ONE or not missed:
        left_out = missed
    else:
        left_out = missed + 1
    return in_micros(timing.run_at + left_out * timing.every_s), left_out


def in_micros(seconds: float) -> float:
    """As stores keep it."""
    return round(seconds * 1_000_000) / 1_000_000
