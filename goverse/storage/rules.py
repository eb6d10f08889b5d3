"""What every backend decides alike."""

from __future__ import annotations

from types import MappingProxyType

from goverse.storage.values import (
    AcceptResult,
    Act,
    CallStatus,
    CatchUp,
    DueStep,
    ObjectCommit,
    Outcome,
    ReliableCall,
    Step,
    StoredCall,
    Verdict,
)

#: Seconds after which a session that holds a fence is taken for a former owner's and ended.
FENCE_PATIENCE_S = 0.5

#: Fences raised in one transaction.
MAX_FENCE_GROUP = 1024

#: From which statuses a step leads away.
STEP_FROM = MappingProxyType(
    {
        Step.ATTEMPT: (CallStatus.PENDING,),
        Step.PARK: (CallStatus.PENDING,),
        Step.RETRY: (CallStatus.PARKED,),
        Step.RESET: (CallStatus.PENDING,),
        Step.SKIP: (CallStatus.PENDING, CallStatus.DELAYED, CallStatus.PARKED),
    }
)


def known_or_conflict(call: ReliableCall, stored: StoredCall) -> AcceptResult:
    """What is said of ``call`` when its id is there already.

    A cancellation does not know method and arguments, so whoever has none is compared by the
    object alone: it meets the call that it is to cancel, and that call meets it.
    """
    there = stored.call
    blind = not call.digest or not there.digest
    same = (there.method, there.digest) == (call.method, call.digest)
    same = same and period_of(there) == period_of(call)
    if there.object == call.object and (blind or same):
        return AcceptResult(Verdict.KNOWN, stored.seq, stored)
    # Whose call it is is not said: another client may have made it.
    message = f"call id {call.call_id} was used for another object, method or arguments"
    return AcceptResult(Verdict.CONFLICT, message=message)


def period_of(call: ReliableCall) -> tuple[float, CatchUp] | None:
    """How ``call`` is repeated; None: it is not."""
    timing = call.timing
    return (timing.every_s, timing.catch_up) if timing is not None and timing.every_s else None


def outcomes_of(commit: ObjectCommit) -> tuple[Outcome, ...]:
    """What is written of its calls: with the object goes what was to run again."""
    if commit.state is not Act.DELETE:
        return commit.outcomes
    return tuple(
        outcome if outcome.again_at is None else deleted(outcome.call_id)
        for outcome in commit.outcomes
    )


def deleted(call_id: str) -> Outcome:
    return Outcome(call_id, CallStatus.SKIPPED, None, "deleted")


def same_time(a: float, b: float) -> bool:
    """As databases keep times: to the microsecond."""
    return round(a * 1_000_000) == round(b * 1_000_000)


def not_due(step: DueStep) -> str:
    return f"call {step.call_id} is not delayed until {step.was_at}"


def fenced(slot: int) -> str:
    return f"the fence of slot {slot} was raised"


def wrong_cluster(stored: str, mine: str) -> str:
    return (
        f"this store belongs to the cluster {stored}, not to {mine}; to take it over, stop that "
        "cluster and run: goverse-cli db adopt"
    )


def reused_opening(slot: int, opening: int) -> str:
    return f"opening {opening} of slot {slot} was used before"
