"""The order of turns on one object. Synchronous: knows no tasks, no time, no calls.

First come, first served. Shared entries (read-only methods; every method of a concurrent class)
run together; an exclusive one runs alone. A shared entry never overtakes an exclusive one that
waits, so that neither kind starves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol


class Entry(Protocol):
    """What waits for a turn. Hashed by identity."""

    @property
    def shared(self) -> bool: ...

    def granted(self) -> None:
        """It may run now; it will `Mailbox.leave`. Must not call the mailbox."""
        ...


class MailboxFull(Exception):
    """The limit of waiting or running entries is reached."""


class Mailbox:
    """Who runs and who waits."""

    __slots__ = ("_exclusive", "_max_entries", "_running", "_waiting")

    def __init__(self, max_entries: int) -> None:
        self._max_entries = max_entries
        self._running = 0
        self._exclusive = False
        # Linked, so that leaving the middle of a long queue is cheap: clients give up in crowds.
        # Made when the first entry waits: most objects never have one waiting.
        self._waiting: OrderedDict[Entry, None] | None = None

    @property
    def running(self) -> int:
        return self._running

    @property
    def waiting(self) -> int:
        return len(self._waiting) if self._waiting else 0

    @property
    def idle(self) -> bool:
        return not self._running and not self._waiting

    def enter(self, entry: Entry) -> bool:
        """True: ``entry`` runs now. False: it waits for `Entry.granted`. Raises `MailboxFull`."""
        if not self._waiting:
            if not self._running:
                self._running = 1
                self._exclusive = not entry.shared
                return True
            if entry.shared and not self._exclusive:
                if self._running >= self._max_entries:
                    raise MailboxFull
                self._running += 1
                return True
            if self._waiting is None:
                self._waiting = OrderedDict()
        if len(self._waiting) >= self._max_entries:
            raise MailboxFull
        self._waiting[entry] = None
        return False

    def leave(self) -> None:
        """An entry that was running has ended."""
        self._running -= 1
        if self._waiting:
            self._grant()

    def withdraw(self, entry: Entry) -> None:
        """``entry`` waits no more. What waited behind it alone may run now."""
        if self._waiting is not None and entry in self._waiting:
            del self._waiting[entry]
            self._grant()

    def take_waiting(self, wanted: Callable[[Entry], bool]) -> list[Entry]:
        """Remove the waiting entries that are ``wanted``, in their order."""
        taken = [entry for entry in self._waiting or () if wanted(entry)]
        for entry in taken:
            assert self._waiting is not None
            del self._waiting[entry]
        self._grant()
        return taken

    def _grant(self) -> None:
        while self._waiting:
            entry = next(iter(self._waiting))
            if self._running and (
                self._exclusive or not entry.shared or self._running >= self._max_entries
            ):
                return
            del self._waiting[entry]
            self._running += 1
            self._exclusive = not entry.shared
            entry.granted()
