"""Whether the coordinator that answers still has the history that was seen before."""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

log = logging.getLogger(__name__)


class Mark(NamedTuple):
    revision: int
    term: int


class Lineage:
    """What linearizable answers said of the history so far.

    etcd loses its history when its data directory is emptied or a backup is restored. Revisions
    then start lower; they may have overtaken the old ones before this process looks again, which
    the Raft term still gives away (it starts anew as well), and so does the cluster's id if the
    cluster was made differently.
    """

    def __init__(self) -> None:
        self.number = 0  # grows each time a history is lost
        self.revision = 0
        self.term = 0
        self._cluster_id = 0

    def mark(self) -> Mark:
        """Take this before a linearizable read is sent."""
        return Mark(self.revision, self.term)

    def check(self, header: Any, mark: Mark) -> bool:
        """Take in the header of a linearizable answer; False if the history was lost.

        :param mark: what was known before the request was sent. Requests overlap, so an answer
            may be below what another one has shown meanwhile.
        """
        same = (
            header.revision >= mark.revision
            and header.raft_term >= mark.term
            and self._cluster_id in (0, header.cluster_id)
        )
        if same:
            self.advance(header)
            return True
        log.error(
            "etcd lost its history: revision %d in term %d of cluster %x, after revision %d in "
            "term %d of cluster %x; every view is replaced",
            header.revision,
            header.raft_term,
            header.cluster_id,
            self.revision,
            self.term,
            self._cluster_id,
        )
        self.number += 1
        self.revision, self.term = header.revision, header.raft_term
        self._cluster_id = header.cluster_id
        return False

    def advance(self, header: Any) -> None:
        """Take in the header of another answer, which proves nothing when it is behind."""
        self.revision = max(self.revision, header.revision)
        self.term = max(self.term, header.raft_term)
        self._cluster_id = self._cluster_id or header.cluster_id
