"""What is wrong with a configuration, said all at once and so that it can be mended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong.

    :param file: where it stands: a path, ``environment GOVERSE_...`` or ``flag``; "" if it was
        not given anywhere.
    :param line: in that file, from 1; 0 where there are no lines.
    :param key: dotted path, ``cluster.lease_ttl``.
    :param message: what is wrong.
    :param right: what would be right.
    """

    file: str
    line: int
    key: str
    message: str
    right: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        text = ": ".join(part for part in (place, self.key, self.message) if part)
        return f"{text}; {self.right}" if self.right else text


class ConfigError(Exception):
    """The configuration cannot be used. ``faults`` has everything that was found."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        count = len(self.faults)
        head = "the configuration has a fault:" if count == 1 else f"{count} faults:"
        super().__init__("\n  ".join([head, *map(str, self.faults)]))


class BadValue(ValueError):
    """A text that is not a value of its kind.

    :param right: what would be right.
    """

    def __init__(self, message: str, right: str) -> None:
        super().__init__(message)
        self.message = message
        self.right = right
