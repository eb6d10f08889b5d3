"""What writes: each function is one transaction, and decides on what it sees there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from goverse.ids import NUM_SLOTS, Epoch
from goverse.storage.api import HigherEpoch, StoreRefused
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
    Verdict,
)
from tests.support.lmdb_store.tables import FenceRow, ObjectRow, Tables

# ---- the store itself


def claim_cluster(tables: Tables, mine: str) -> None:
    stored = tables.meta("cluster", "")
    if stored not in ("", mine):
        raise StoreRefused(wrong_cluster(stored, mine))
    tables.set_meta("cluster", mine)


def adopt(tables: Tables, mine: str) -> None:
    tables.set_meta("cluster", mine)
    for slot, row in list(tables.fences()):
        tables.set_fence(slot, FenceRow(row.epoch, "", row.opening + 1))


def node_slot(tables: Tables, node: str) -> int:
    slot = tables.node_slot(node)
    if slot is None:
        nodes = tables.meta("nodes", 0)
        slot = NUM_SLOTS + nodes
        tables.set_meta("nodes", nodes + 1)
        tables.set_node_slot(node, slot)
    return slot


def raise_fences(
    tables: Tables, slots: Sequence[int], epoch: Epoch, incarnation: str, opening: int
) -> HigherEpoch | None:
    """Raise all that can be. What stands in the way is returned, as an error would take back what
    was raised beside it."""
    standing = []
    for slot in slots:
        if slot >= NUM_SLOTS + tables.meta("nodes", 0):
            raise ValueError(f"there is no slot {slot}")
        row = tables.fence(slot)
        mine = (row.epoch, row.incarnation) == (epoch, incarnation)
        if row.epoch < epoch or (mine and row.opening < opening):
            tables.set_fence(slot, FenceRow(epoch, incarnation, opening))
        elif mine:
            raise ValueError(reused_opening(slot, opening))
        else:
            standing.append((row.epoch, -slot, row.incarnation))
    if not standing:
        return None
    found, negative, who = max(standing)
    return HigherEpoch(-negative, found, who)


# ---- batches


class Batch:
    """One batch in one transaction. ``now`` is the time of all that it writes."""

    def __init__(self, tables: Tables, now: float) -> None:
        self._tables = tables
        self._now = now

    def _stands(self, fence: Fence) -> bool:
        row = self._tables.fence(fence.slot)
        return row.opening > 0 and (row.epoch, row.opening) == (fence.epoch, fence.opening)

    # ---- commits

    def commit(self, batch: Sequence[ObjectCommit]) -> list[CommitResult]:
        return [self._commit(commit) for commit in batch]

    def _commit(self, commit: ObjectCommit) -> CommitResult:
        """Everything is compared before anything is written: an object is all or none."""
        if not self._stands(commit.fence):
            return CommitResult(Verdict.FENCED, message=fenced(commit.fence.slot))
        calls = []
        for outcome in outcomes_of(commit):
            call = self._tables.call(outcome.call_id)
            if (
                call is None
                or call.status is not CallStatus.PENDING
                or (call.call.object, call.slot) != (commit.object, commit.fence.slot)
            ):
                message = f"call {outcome.call_id} is not pending"
                return CommitResult(Verdict.NOT_PENDING, message=message)
            calls.append((call, outcome))
        stored = self._tables.object(commit.object)
        if (stored.version if stored else 0) != commit.version:
            message = f"{commit.object} does not have version {commit.version}"
            return CommitResult(Verdict.VERSION, message=message)
        sent = [child.call_id for child in commit.outbox]
        for call_id in sent:
            if sent.count(call_id) > 1 or self._tables.delivery(call_id) is not None:
                message = f"call id {call_id} is in the outbox already"
                return CommitResult(Verdict.REFUSED, message=message)
        for call, outcome in calls:
            self._end(call, outcome)
        return self._write(commit, stored)

    def _write(self, commit: ObjectCommit, stored: ObjectRow | None) -> CommitResult:
        gone = commit.state is Act.DELETE
        if gone:
            for call in self._tables.calls_of(commit.object):
                self._end(call, deleted(call.call.call_id))
            self._tables.set_object(commit.object, None)
        else:
            kept = stored.state if stored else None
            state = commit.state if isinstance(commit.state, State) else kept
            row = ObjectRow(commit.fence.slot, commit.version + 1, state)
            self._tables.set_object(commit.object, row)
        for child in commit.outbox:
            position = self._tables.next_number()
            row_of = OutboxRow(child, commit.object, commit.fence.slot, position, "", self._now)
            self._tables.set_delivery(row_of)
        return CommitResult(Verdict.DONE, 0 if gone else commit.version + 1)

    def _end(self, call: StoredCall, outcome: Outcome) -> None:
        ended = replace(call, status=outcome.status, result=outcome.result, reason=outcome.reason)
        timing = call.call.timing
        if outcome.again_at is None or timing is None:
            ended = replace(ended, finished_at=self._now)
        else:
            again = replace(call.call, timing=timing._replace(run_at=outcome.again_at))
            ended = replace(ended, call=again, status=CallStatus.DELAYED, seq=0, attempts=0)
        self._tables.set_call(ended, call)

    # ---- calls

    def accept(self, batch: Sequence[Acceptance]) -> list[AcceptResult]:
        return [self._accept(acceptance) for acceptance in batch]

    def _accept(self, acceptance: Acceptance) -> AcceptResult:
        call, slot = acceptance.call, acceptance.fence.slot
        if not self._stands(acceptance.fence):
            return AcceptResult(Verdict.FENCED, message=fenced(slot))
        known = self._tables.call(call.call_id)
        if known is not None:
            return known_or_conflict(call, known)
        status = acceptance.status
        seq = self._tables.next_number() if status is CallStatus.PENDING else 0
        finished = self._now if acceptance.skip else None
        row = StoredCall(call, slot, seq, status, 0, None, acceptance.skip, self._now, finished)
        self._tables.set_call(row)
        return AcceptResult(Verdict.DONE, seq)

    def change_calls(self, batch: Sequence[CallStep]) -> list[StepResult]:
        return [self._step(step) for step in batch]

    def _step(self, step: CallStep) -> StepResult:
        if not self._stands(step.fence):
            return StepResult(Verdict.FENCED, message=fenced(step.fence.slot))
        call = self._tables.call(step.call_id)
        if call is None or call.slot != step.fence.slot or call.status not in STEP_FROM[step.step]:
            message = f"call {step.call_id} cannot take the step {step.step.value}"
            return StepResult(Verdict.NOT_PENDING, message=message)
        changed = self._stepped(call, step)
        self._tables.set_call(changed, call)
        return StepResult(Verdict.DONE, changed.attempts, changed.seq)

    def _stepped(self, call: StoredCall, step: CallStep) -> StoredCall:
        if step.step is Step.ATTEMPT:
            return replace(call, attempts=call.attempts + 1)
        if step.step is Step.PARK:
            return replace(call, status=CallStatus.PARKED, reason=step.reason)
        if step.step is Step.RESET:
            return replace(call, attempts=0)
        if step.step is Step.SKIP:
            skipped = replace(call, status=CallStatus.SKIPPED, reason=step.reason)
            return replace(skipped, finished_at=self._now)
        seq, reason = self._tables.next_number(), step.reason
        return replace(call, status=CallStatus.PENDING, reason=reason, attempts=0, seq=seq)

    def make_due(self, batch: Sequence[DueStep]) -> list[StepResult]:
        return [self._make_due(step) for step in batch]

    def _make_due(self, step: DueStep) -> StepResult:
        if not self._stands(step.fence):
            return StepResult(Verdict.FENCED, message=fenced(step.fence.slot))
        call = self._tables.call(step.call_id)
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
        if step.run_at <= self._now:
            moved = replace(moved, status=CallStatus.PENDING, seq=self._tables.next_number())
        self._tables.set_call(moved, call)
        return StepResult(Verdict.DONE, moved.attempts, moved.seq)

    def delete_finished(self, call_ids: Sequence[str], before: float) -> list[str]:
        gone = []
        for call_id in call_ids:
            call = self._tables.call(call_id)
            if call is None or call.finished_at is None or call.finished_at >= before:
                continue
            if self._tables.delivery(call_id) is None:
                self._tables.delete_call(call)
                gone.append(call_id)
        return gone

    # ---- the outbox

    def change_outbox(self, batch: Sequence[OutboxChange]) -> list[StepResult]:
        return [self._change(change) for change in batch]

    def _change(self, change: OutboxChange) -> StepResult:
        if not self._stands(change.fence):
            return StepResult(Verdict.FENCED, message=fenced(change.fence.slot))
        row = self._tables.delivery(change.call_id)
        mine = row is not None and row.slot == change.fence.slot
        if row is None or not mine:
            if change.step is OutboxStep.DELIVERED:
                return StepResult(Verdict.DONE)
            message = f"call {change.call_id} is not in the outbox"
            return StepResult(Verdict.NOT_PENDING, message=message)
        if change.step is OutboxStep.DELIVERED:
            self._tables.delete_delivery(row)
        else:
            parked = change.reason if change.step is OutboxStep.PARK else ""
            self._tables.set_delivery(replace(row, parked=parked), row)
        return StepResult(Verdict.DONE)
