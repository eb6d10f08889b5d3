"""What a store remembers of its past: the changes of the latest revisions, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from goverse.coordination.api import Changes, KeyValue

MAX_REVISIONS = 10_000
MAX_BATCH_REVISIONS = 1_000


class Compacted(Exception):
    """The changes asked for are forgotten: list again."""


@dataclass(frozen=True, slots=True)
class Batch:
    """``changes`` hold everything after the asked revision up to ``upto``; ``more`` follow."""

    changes: tuple[Changes, ...]
    upto: int
    more: bool


class History:
    """Revisions follow each other without gaps; the oldest go when there are too many."""

    def __init__(self, start_revision: int, *, number: int = 0) -> None:
        self.number = number
        self.revision = start_revision
        self._compacted = start_revision  # changes up to here are forgotten
        self._changes: dict[int, Mapping[str, KeyValue | None]] = {}

    def append(self, changed: Mapping[str, KeyValue | None]) -> None:
        self.revision += 1
        self._changes[self.revision] = changed
        if len(self._changes) > MAX_REVISIONS:
            self.compact(self._compacted + 1)

    def compact(self, revision: int) -> None:
        if revision > self.revision:
            raise ValueError(f"revision {revision} is in the future")
        while self._compacted < revision:
            self._compacted += 1
            del self._changes[self._compacted]

    def read(self, prefix: str, after: int, number: int | None) -> Batch:
        if number != self.number:
            raise Compacted(f"history {number} is lost")
        if after < self._compacted:
            raise Compacted(f"revision {after + 1} is forgotten, {self._compacted} is the last")
        upto = min(self.revision, after + MAX_BATCH_REVISIONS)
        found = []
        for revision in range(after + 1, upto + 1):
            items = {k: v for k, v in self._changes[revision].items() if k.startswith(prefix)}
            if items:
                found.append(Changes(revision, items))
        return Batch(tuple(found), upto, upto < self.revision)
