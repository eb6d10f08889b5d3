"""What a store client counts for its snapshot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from goverse.storage.api import StoreSnapshot
from goverse.storage.values import FENCED, AcceptResult, CommitResult, StepResult

Results = Sequence[CommitResult] | Sequence[AcceptResult] | Sequence[StepResult]


@dataclass(slots=True)
class Counts:
    commits: int = 0
    objects: int = 0
    accepts: int = 0
    fenced: int = 0
    unknown: int = 0
    last_error: str = ""

    def committed(self, results: Sequence[CommitResult]) -> None:
        self.commits += 1
        self.objects += len(results)
        self.refused(results)

    def accepted(self, results: Sequence[AcceptResult]) -> None:
        self.accepts += len(results)
        self.refused(results)

    def refused(self, results: Results) -> None:
        self.fenced += sum(1 for result in results if result.verdict is FENCED)

    def snapshot(
        self, backend: str, place: str, connections: int, in_flight: int, ended_sessions: int = 0
    ) -> StoreSnapshot:
        return StoreSnapshot(
            backend=backend,
            place=place,
            connections=connections,
            in_flight=in_flight,
            last_error=self.last_error,
            commits=self.commits,
            objects=self.objects,
            accepts=self.accepts,
            fenced=self.fenced,
            unknown=self.unknown,
            ended_sessions=ended_sessions,
        )
