"""From text to durations, sizes, numbers and flags, and back."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from goverse.config.faults import BadValue

# Microseconds, so that every duration that can be written is exact.
_UNITS = {
    "d": 86_400_000_000,
    "h": 3_600_000_000,
    "m": 60_000_000,
    "s": 1_000_000,
    "ms": 1_000,
    "us": 1,
}
_PART = re.compile(r"([0-9]{1,20}(?:\.[0-9]{1,12})?)(ms|us|d|h|m|s)", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,20}(?:\.[0-9]{1,12})?", re.ASCII)
_DURATION_HINT = "write a duration with its unit, like 30s, 1m30s or 200ms"
#: Longer ones are slips, and event loops cannot wait that long.
_MAX_DURATION_US = 366 * _UNITS["d"]

_SIZES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}
_SIZE = re.compile(r"([0-9]{1,18}) ?([A-Za-z]*)", re.ASCII)
_SIZE_HINT = "write bytes or a size with its unit, like 65536, 256KiB or 64MiB"

AUTO = "auto"

_YES = ("true", "yes", "on", "1")
_NO = ("false", "no", "off", "0")


def parse_duration(text: str) -> float:
    """Seconds in ``text``: numbers with units, each unit once and in falling order.

    Units are d, h, m, s, ms and us. A number without one is refused: the same file would mean
    seconds to one reader and milliseconds to another. Raises `BadValue`.
    """
    if _NUMBER.fullmatch(text):
        raise BadValue(f"{text!r} has no unit", f"write {text}s if seconds are meant")
    total, position, smallest = Decimal(0), 0, math.inf
    while match := _PART.match(text, position):
        number, unit = match.groups()
        if _UNITS[unit] >= smallest:
            raise BadValue(f"{text!r} has its units out of order", _DURATION_HINT)
        smallest = _UNITS[unit]
        total += Decimal(number) * _UNITS[unit]
        position = match.end()
    if not text or position != len(text):
        raise BadValue(f"{text!r} is not a duration", _DURATION_HINT)
    if total != int(total):
        raise BadValue(f"{text!r} is finer than a microsecond", _DURATION_HINT)
    if total > _MAX_DURATION_US:
        raise BadValue(f"{text!r} is longer than a year", _DURATION_HINT)
    return int(total) / 1e6


def format_duration(seconds: float) -> str:
    """The shortest text that `parse_duration` reads as ``seconds``, to the microsecond."""
    rest = round(seconds * 1e6)
    if rest == 0:
        return "0s"
    parts = []
    for unit, size in _UNITS.items():
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts)


def parse_size(text: str) -> int:
    """Bytes in ``text``: a whole number, alone or with B, KiB, MiB or GiB. Raises `BadValue`."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise BadValue(f"{text!r} is not a size", _SIZE_HINT)
    number, unit = match.groups()
    if unit and unit not in _SIZES:
        # kB, M and the like: a thousand to one reader, 1024 to another.
        letter = unit[0].upper()
        likely = f"{letter}iB" if f"{letter}iB" in _SIZES else "B"
        raise BadValue(f"{text!r} has an unknown unit", f"write {number}{likely}, or plain bytes")
    return int(number) * _SIZES[unit or "B"]


def format_size(size: int) -> str:
    """``size`` in the largest unit that divides it."""
    for unit, factor in reversed(_SIZES.items()):
        if unit != "B" and size >= factor and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def parse_integer(text: str) -> int:
    """A whole number; underscores may group its digits. Raises `BadValue`."""
    if not re.fullmatch(r"[+-]?[0-9]{1,18}(_[0-9]{3}){0,6}", text, re.ASCII):
        raise BadValue(f"{text!r} is not a whole number", "write digits only")
    return int(text)


def parse_number(text: str) -> float:
    """A finite number. Raises `BadValue`."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise BadValue(f"{text!r} is not a number", "write a number like 1 or 0.5")
    return value


def parse_capacity(text: str) -> float | None:
    """A number above 0; None for ``auto``. Raises `BadValue`."""
    if text == AUTO:
        return None
    hint = f"write a number like 1 or 0.5, or {AUTO}"
    try:
        value = parse_number(text)
    except BadValue as error:
        raise BadValue(error.message, hint) from None
    if value <= 0:
        raise BadValue(f"{text} is not above 0", hint)
    return value


def parse_flag(text: str) -> bool:
    """true or false in the spellings of YAML and of shells. Raises `BadValue`."""
    word = text.lower()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise BadValue(f"{text!r} is neither true nor false", "write true or false")
