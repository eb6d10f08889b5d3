"""Whether the coordinator that answers still has the history that was seen before."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from goverse.coordination.api import KeyValue

log = logging.getLogger(__name__)


class Mark(NamedTuple):
    """How far a history had come."""

    revision: int
    term: int


class Lineage:
    """What answers said of the history so far.

    etcd loses its history when its data directory is emptied or a backup is restored. Then
    revisions start lower, and usually Raft terms; the cluster's id changes if the cluster was
    made differently. All of them may have caught up before this process looks again, so one key
    value is kept as a witness: the new history does not have it at its revision.
    """

    def __init__(self) -> None:
        self.number = 0  # grows each time a history is lost
        self.witness: KeyValue | None = None
        self._seen = Mark(0, 0)
        self._cluster_id = 0

    def mark(self) -> Mark:
        """Take this before a linearizable read is sent."""
        return self._seen

    def check(self, header: Any, mark: Mark) -> None:
        """Take in the header of a linearizable answer.

        :param mark: what was known before the request was sent. Requests overlap, so an answer
            may be below what another one has shown meanwhile.
        """
        if header.revision < mark.revision:
            self._lose(header, "revisions have gone back")
        elif header.raft_term < mark.term:
            self._lose(header, "Raft's term has gone back")
        elif self._cluster_id not in (0, header.cluster_id):
            self._lose(header, "it is another cluster")
        else:
            self.advance(header)

    def advance(self, header: Any) -> None:
        """Take in the header of another answer, which proves nothing when it is behind."""
        self._seen = Mark(
            max(self._seen.revision, header.revision), max(self._seen.term, header.raft_term)
        )
        self._cluster_id = self._cluster_id or header.cluster_id

    def remember(self, found: KeyValue) -> None:
        """Keep the newest key value as the witness."""
        if self.witness is None or found.mod_revision > self.witness.mod_revision:
            self.witness = found

    def confront(self, witness: KeyValue, found: KeyValue | None, header: Any) -> None:
        """Take in what the witness's key was at the witness's revision."""
        if found != witness and witness is self.witness:
            self._lose(header, f"{witness.key} was something else at {witness.mod_revision}")

    def _lose(self, header: Any, why: str) -> None:
        log.error(
            "etcd lost its history: %s (revision %d in term %d now, revision %d in term %d was "
            "seen); every view is replaced",
            why,
            header.revision,
            header.raft_term,
            *self._seen,
        )
        self.number += 1
        self.witness = None
        self._seen = Mark(header.revision, header.raft_term)
        self._cluster_id = header.cluster_id
