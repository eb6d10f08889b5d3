"""The tables in memory. Every method is synchronous and atomic, like a transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from goverse.aio.runtime import Runtime
from goverse.ids import NO_EPOCH, NUM_SLOTS, Epoch, ObjectId
from goverse.storage import stats
from goverse.storage.api import (
    Census,
    FinishedCalls,
    HigherEpoch,
    LiveCalls,
    QueuedCalls,
    StoreRefused,
)
from goverse.storage.memory.listing import Listing
from goverse.storage.rules import (
    STEP_FROM,
    deleted,
    fenced,
    known_or_conflict,
    not_due,
    outcomes_of,
    reused_opening,
    same_time,
    wrong_cluster,
)
from goverse.storage.values import (
    Acceptance,
    AcceptResult,
    Act,
    CallStatus,
    CallStep,
    CommitResult,
    DelayedCall,
    DueStep,
    Fence,
    ObjectCommit,
    OutboxChange,
    OutboxRow,
    OutboxStep,
    Outcome,
    State,
    Step,
    StepResult,
    StoredCall,
    StoredObject,
    Verdict,
)

#: Who holds a fence that an adoption shut.
NOBODY = ""


class _FenceRow(NamedTuple):
    """One for all slots that were raised together: there are thousands of them."""

    epoch: Epoch = NO_EPOCH
    incarnation: str = NOBODY
    opening: int = 0


_NEVER_RAISED = _FenceRow()


class MemoryTables:
    """What a database holds. Made by `MemoryStore`."""

    def __init__(self, runtime: Runtime) -> None:
        self._wall: Callable[[], float] = runtime.clock.wall
        self.cluster_id = ""
        # Rows of slots appear when first raised: a simulation starts thousands of stores.
        self._fences: dict[int, _FenceRow] = {}
        self._nodes: dict[str, int] = {}
        self._objects: dict[ObjectId, StoredObject] = {}
        self._calls: dict[str, StoredCall] = {}
        # Unfinished calls once more, by slot and by object: histories grow, live work does not.
        self._live: dict[int, dict[str, None]] = {}
        self._outbox: dict[str, OutboxRow] = {}
        self._seq = 0
        self.listing = Listing(self._calls, self._outbox)

    def now(self) -> float:
        return self._wall()

    # ---- fences

    def claim_cluster(self, cluster_id: str) -> None:
        if self.cluster_id not in ("", cluster_id):
            raise StoreRefused(wrong_cluster(self.cluster_id, cluster_id))
        self.cluster_id = cluster_id

    def adopt(self, cluster_id: str) -> None:
        self.cluster_id = cluster_id
        for slot, row in self._fences.items():
            self._fences[slot] = _FenceRow(row.epoch, NOBODY, row.opening + 1)

    def node_slot(self, node: str) -> int:
        return self._nodes.setdefault(node, NUM_SLOTS + len(self._nodes))

    def highest_epoch(self) -> Epoch:
        return max((row.epoch for row in self._fences.values()), default=NO_EPOCH)

    def raise_fence(
        self, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
    ) -> None:
        ascending = sorted(slots)
        for slot in ascending[:1] + ascending[-1:]:
            self._check_slot(slot)
        raised = _FenceRow(epoch, incarnation, opening)
        rows = [self._fences.get(slot, _NEVER_RAISED) for slot in ascending]
        passing = {row: _passes(row, raised) for row in dict.fromkeys(rows)}
        if all(passing.values()):
            self._fences.update(dict.fromkeys(ascending, raised))
            return
        standing: list[tuple[Epoch, int, str]] = []
        for slot, row in zip(ascending, rows, strict=True):
            if passing[row]:
                self._fences[slot] = raised
            elif (row.epoch, row.incarnation) == (epoch, incarnation):
                raise ValueError(reused_opening(slot, opening))
            else:
                standing.append((row.epoch, -slot, row.incarnation))
        found, slot, who = max(standing)
        raise HigherEpoch(-slot, found, who)

    def _check_slot(self, slot: int) -> None:
        if not 0 <= slot < NUM_SLOTS + len(self._nodes):
            raise ValueError(f"there is no slot {slot}")

    def _stands(self, fence: Fence) -> bool:
        row = self._fences.get(fence.slot)
        return row is not None and (row.epoch, row.opening) == (fence.epoch, fence.opening)

    # ---- objects

    def load(self, objects: Sequence[ObjectId]) -> dict[ObjectId, StoredObject]:
        return {object: self._objects[object] for object in objects if object in self._objects}

    def commit(self, batch: Sequence[ObjectCommit]) -> list[CommitResult]:
        return [self._commit(commit) for commit in batch]

    def _commit(self, commit: ObjectCommit) -> CommitResult:
        if not self._stands(commit.fence):
            return CommitResult(Verdict.FENCED, message=fenced(commit.fence.slot))
        for outcome in commit.outcomes:
            call = self._calls.get(outcome.call_id)
            if (
                call is None
                or call.status is not CallStatus.PENDING
                or call.call.object != commit.object
            ):
                message = f"call {outcome.call_id} is not pending"
                return CommitResult(Verdict.NOT_PENDING, message=message)
        stored = self._objects.get(commit.object)
        version = stored.version if stored else 0
        if version != commit.version:
            message = f"{commit.object} does not have version {commit.version}"
            return CommitResult(Verdict.VERSION, message=message)
        for child in commit.outbox:
            if child.call_id in self._outbox:
                message = f"call id {child.call_id} is in the outbox already"
                return CommitResult(Verdict.REFUSED, message=message)
        self._write(commit, stored)
        return CommitResult(Verdict.DONE, 0 if commit.state is Act.DELETE else version + 1)

    def _write(self, commit: ObjectCommit, stored: StoredObject | None) -> None:
        now = self._wall()
        for outcome in outcomes_of(commit):
            self._end(self._calls[outcome.call_id], outcome, now)
        if commit.state is Act.DELETE:
            self._objects.pop(commit.object, None)
            for call_id in list(self._live.get(commit.fence.slot, ())):
                call = self._calls[call_id]
                if call.call.object == commit.object:
                    self._end(call, deleted(call_id), now)
        else:
            before = stored.state if stored else None
            state = commit.state if isinstance(commit.state, State) else before
            self._objects[commit.object] = StoredObject(commit.version + 1, state)
        for child in commit.outbox:
            self._outbox[child.call_id] = OutboxRow(
                child, commit.object, commit.fence.slot, self._next(), "", now
            )

    def _next(self) -> int:
        self._seq += 1
        return self._seq

    def _end(self, call: StoredCall, outcome: Outcome, now: float) -> None:
        ended = replace(call, status=outcome.status, result=outcome.result, reason=outcome.reason)
        timing = call.call.timing
        if outcome.again_at is None or timing is None:
            self._finish(ended, now)
            return
        again = replace(call.call, timing=timing._replace(run_at=outcome.again_at))
        self._calls[outcome.call_id] = replace(
            ended, call=again, status=CallStatus.DELAYED, seq=0, attempts=0
        )

    def _finish(self, call: StoredCall, now: float) -> None:
        self._calls[call.call.call_id] = replace(call, finished_at=now)
        self._live[call.slot].pop(call.call.call_id, None)

    # ---- calls

    def accept(self, calls: Sequence[Acceptance]) -> list[AcceptResult]:
        return [self._accept(acceptance) for acceptance in calls]

    def _accept(self, acceptance: Acceptance) -> AcceptResult:
        fence, call = acceptance.fence, acceptance.call
        if not self._stands(fence):
            return AcceptResult(Verdict.FENCED, message=fenced(fence.slot))
        known = self._calls.get(call.call_id)
        if known is not None:
            return known_or_conflict(call, known)
        now = self._wall()
        status = acceptance.status
        seq = self._next() if status is CallStatus.PENDING else 0
        self._calls[call.call_id] = StoredCall(
            call,
            fence.slot,
            seq,
            status,
            0,
            None,
            acceptance.skip,
            now,
            now if acceptance.skip else None,
        )
        if not acceptance.skip:
            self._live.setdefault(fence.slot, {})[call.call_id] = None
        return AcceptResult(Verdict.DONE, seq)

    def change_calls(self, steps: Sequence[CallStep]) -> list[StepResult]:
        return [self._step(step) for step in steps]

    def _step(self, step: CallStep) -> StepResult:
        if not self._stands(step.fence):
            return StepResult(Verdict.FENCED, message=fenced(step.fence.slot))
        call = self._calls.get(step.call_id)
        if call is None or call.slot != step.fence.slot or call.status not in STEP_FROM[step.step]:
            message = f"call {step.call_id} cannot take the step {step.step.value}"
            return StepResult(Verdict.NOT_PENDING, message=message)
        if step.step is Step.SKIP:
            skipped = replace(call, status=CallStatus.SKIPPED, reason=step.reason)
            self._finish(skipped, self._wall())
            return StepResult(Verdict.DONE, call.attempts, call.seq)
        if step.step is Step.ATTEMPT:
            call = replace(call, attempts=call.attempts + 1)
        elif step.step is Step.PARK:
            call = replace(call, status=CallStatus.PARKED, reason=step.reason)
        elif step.step is Step.RESET:
            call = replace(call, attempts=0)
        else:
            reason, seq = step.reason, self._next()
            call = replace(call, status=CallStatus.PENDING, reason=reason, attempts=0, seq=seq)
        self._calls[step.call_id] = call
        return StepResult(Verdict.DONE, call.attempts, call.seq)

    def make_due(self, steps: Sequence[DueStep]) -> list[StepResult]:
        return [self._make_due(step) for step in steps]

    def _make_due(self, step: DueStep) -> StepResult:
        if not self._stands(step.fence):
            return StepResult(Verdict.FENCED, message=fenced(step.fence.slot))
        call = self._calls.get(step.call_id)
        timing = call.call.timing if call is not None else None
        if (
            call is None
            or timing is None
            or call.slot != step.fence.slot
            or call.status is not CallStatus.DELAYED
            or not same_time(timing.run_at, step.was_at)
        ):
            return StepResult(Verdict.NOT_PENDING, message=not_due(step))
        moved = replace(call, call=replace(call.call, timing=timing._replace(run_at=step.run_at)))
        if step.run_at <= self._wall():
            moved = replace(moved, status=CallStatus.PENDING, seq=self._next())
        self._calls[step.call_id] = moved
        return StepResult(Verdict.DONE, moved.attempts, moved.seq)

    def change_outbox(self, changes: Sequence[OutboxChange]) -> list[StepResult]:
        return [self._change(change) for change in changes]

    def _change(self, change: OutboxChange) -> StepResult:
        if not self._stands(change.fence):
            return StepResult(Verdict.FENCED, message=fenced(change.fence.slot))
        row = self._outbox.get(change.call_id)
        if row is not None and row.slot == change.fence.slot:
            if change.step is OutboxStep.DELIVERED:
                del self._outbox[change.call_id]
            else:
                parked = change.reason if change.step is OutboxStep.PARK else ""
                self._outbox[change.call_id] = replace(row, parked=parked)
        elif change.step is not OutboxStep.DELIVERED:
            message = f"call {change.call_id} is not in the outbox"
            return StepResult(Verdict.NOT_PENDING, message=message)
        return StepResult(Verdict.DONE)

    # ---- reading

    def get_calls(self, call_ids: Sequence[str]) -> dict[str, StoredCall]:
        return {call_id: self._calls[call_id] for call_id in call_ids if call_id in self._calls}

    def live_calls(self, slots: Sequence[int], status: CallStatus) -> list[StoredCall]:
        wanted = dict.fromkeys(slots)
        found = (
            self._calls[id] for slot, ids in self._live.items() if slot in wanted for id in ids
        )
        return [call for call in found if call.status is status]

    def delayed_calls(
        self, slots: Sequence[int], within_s: float
    ) -> tuple[float, list[DelayedCall]]:
        now = self._wall()
        return now, [
            DelayedCall(call.call.call_id, call.slot, call.call.object, call.call.timing)
            for call in self.live_calls(slots, CallStatus.DELAYED)
            if call.call.timing is not None and call.call.timing.run_at <= now + within_s
        ]

    def outbox(self, slots: Sequence[int], after: int, parked: bool) -> list[OutboxRow]:
        wanted = dict.fromkeys(slots)
        return [
            row
            for row in self._outbox.values()
            if row.slot in wanted and row.position > after and bool(row.parked) == parked
        ]

    def live_calls_by_type(self) -> tuple[LiveCalls, ...]:
        rows: dict[tuple[str, str], list[float]] = {}
        for call in self._unfinished():
            rows.setdefault((call.call.object.type, call.status.value), []).append(_since(call))
        return stats.live_calls((*key, len(made), self._age(made)) for key, made in rows.items())

    def longest_queues(self, limit: int) -> tuple[QueuedCalls, ...]:
        queues: dict[ObjectId, list[float]] = {}
        for call in self._unfinished():
            if call.status is CallStatus.PENDING:
                queues.setdefault(call.call.object, []).append(_since(call))
        longest = sorted(queues.items(), key=lambda one: (-len(one[1]), one[0]))
        return stats.queued_calls(
            (*object, len(made), self._age(made)) for object, made in longest[:limit]
        )

    def finished_calls(self) -> tuple[FinishedCalls, ...]:
        counts = Counter(
            (call.call.object.type, call.status.value)
            for call in self._calls.values()
            if call.status.finished
        )
        return stats.finished_calls((*key, count) for key, count in counts.items())

    def _unfinished(self) -> Iterator[StoredCall]:
        return (self._calls[id] for ids in self._live.values() for id in ids)

    def _age(self, since: Sequence[float]) -> float:
        return (self._wall() - min(since)) * 1_000_000

    def census(self) -> Census:
        live = [self._calls[id].status for ids in self._live.values() for id in ids]
        parked = sum(1 for row in self._outbox.values() if row.parked)
        return Census(
            live.count(CallStatus.PENDING),
            live.count(CallStatus.DELAYED),
            live.count(CallStatus.PARKED),
            len(self._outbox) - parked,
            parked,
        )


def _since(call: StoredCall) -> float:
    timing = call.call.timing
    return call.created_at if timing is None else max(call.created_at, timing.run_at)


def _passes(row: _FenceRow, raised: _FenceRow) -> bool:
    """Whether ``raised`` may take the place of ``row``."""
    mine = (row.epoch, row.incarnation) == (raised.epoch, raised.incarnation)
    return row.epoch < raised.epoch or (mine and row.opening < raised.opening)
