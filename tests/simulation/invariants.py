"""What must hold in every run. Pure functions over a `History`; the numbers are used in reports.

I1  no effect of a former owner is seen: what an activation answers is produced under its claim,
    turns of one object never overlap, and acknowledged results form one growing sequence
I2  "not executed" is true, and nothing is executed twice
I3  every call ends by its deadline
I4  at most one node believes that it owns a shard (checked by the run, at every change of claims)
I5  after the faults, every shard is owned and answers within the lease's TTL + 2 s
I6  nothing is left behind at rest: reply slots, waiters, tasks
I7  a cancelled call's turn ends soon
I8  no task of ours ends with an exception that nobody handles
I9  only who leads writes targets, and nobody leads before the one before is gone
I10 what arrives on a link that has ended is taken by nobody
I11 what a client gets was pushed by a turn that succeeded under its claim, comes once, and comes in
    the order in which its object pushed it
I12 durable objects behave as if they took one call at a time and never died, and agree with the
    ledger of reliable calls, which has one outcome for each; see exactly.py
I13 a delayed call runs once, not before its time, and not if it was cancelled; of a repeated call
    each tick is run once; see hourglass.py
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby

from tests.simulation.history import CallRecord, History

DEADLINE_SLACK_S = 0.5


def check(history: History) -> list[str]:
    """Every violation in the order of the invariants; those found on the way come first."""
    return [
        *history.violations,
        *_produced_under_claim(history),
        *_growing_sequence(history),
        *_executed_truthfully(history),
        *_ended_in_time(history),
        *_pushed_truthfully(history),
    ]


def _produced_under_claim(history: History) -> Iterator[str]:
    for call in history.calls.values():
        if call.outcome != "ok":
            continue
        for turn in history.by_token.get(call.token, ()):
            # A caller in the same process is not another process; its own turn is checked too.
            if turn.how == "ok" and turn.node != call.caller and not turn.claimed_at_end:
                yield (
                    f"I1: {call.caller} accepted the reply of {call.token}, which {turn.node} "
                    f"produced at {turn.ended:.3f} after its claim of {call.object} had gone"
                )


def _growing_sequence(history: History) -> Iterator[str]:
    answered = [call for call in history.calls.values() if call.outcome == "ok" and call.counts]
    answered.sort(key=lambda call: call.object)
    for _, group in groupby(answered, key=lambda call: call.object):
        yield from _growing_on_one_object(list(group))


def _growing_on_one_object(calls: list[CallRecord]) -> Iterator[str]:
    """Whoever calls after an answer was known sees at least what that answer reflected."""
    written: dict[tuple[int, int], str] = {}
    for call in calls:
        if not call.read_only:
            twin = written.setdefault((call.activation, call.count), call.token)
            if twin != call.token:
                yield f"I1: {twin} and {call.token} both got count {call.count} of {call.object}"
    ended = sorted(calls, key=lambda call: call.ended or 0.0)
    newest: tuple[int, int] = (0, 0)
    epoch, token, position = (0, 0), "", 0
    for call in sorted(calls, key=lambda call: call.sent):
        while position < len(ended) and (ended[position].ended or 0.0) < call.sent:
            known = ended[position]
            if (known.activation, known.count) > newest:
                newest, token = (known.activation, known.count), known.token
            epoch = max(epoch, tuple(known.epoch))
            position += 1
        seen = (call.activation, call.count)
        if seen < newest or (seen == newest and not call.read_only):
            yield f"I1: {call.token} saw {seen} of {call.object} after {token} had seen {newest}"
        if tuple(call.epoch) < epoch:
            yield f"I1: {call.token} was answered under {call.epoch}, after {epoch} was known"


def _executed_truthfully(history: History) -> Iterator[str]:
    for call in history.calls.values():
        turns = history.by_token.get(call.token, [])
        if call.read_only:
            continue
        if len(turns) > 1:
            nodes = ", ".join(turn.node for turn in turns)
            yield f"I2: {call.token} was executed {len(turns)} times, on {nodes}"
        if turns and call.executed == "no":
            yield f"I2: {call.token} ended {call.outcome} executed=no, but {turns[0].node} ran it"
        if not turns and (call.outcome == "ok" or call.executed == "yes"):
            yield f"I2: {call.token} ended {call.outcome} executed=yes, but nobody ran it"


def _ended_in_time(history: History) -> Iterator[str]:
    for call in _client_calls(history.calls.values()):
        if call.ended is None:
            yield f"I3: {call.token} sent at {call.sent:.3f} has not ended"
        elif call.ended > call.deadline + DEADLINE_SLACK_S:
            yield f"I3: {call.token} ended {call.ended - call.deadline:.3f} s past its deadline"


def _pushed_truthfully(history: History) -> Iterator[str]:
    newest: dict[tuple[str, int], int] = {}
    tokens: dict[str, None] = {}
    for heard in history.heard:
        turns = [
            turn
            for turn in history.by_token.get(heard.token, ())
            if turn.activation == heard.activation
        ]
        if not any(turn.how == "ok" for turn in turns):
            hows = ", ".join(turn.how for turn in turns) or "nobody ran"
            yield f"I11: {heard.client} got what {heard.token} pushed, a turn that ended: {hows}"
        elif not any(turn.claimed_at_end for turn in turns):
            yield f"I11: {heard.token} pushed after the claim of its object had gone"
        if heard.token in tokens:
            yield f"I11: {heard.client} got what {heard.token} pushed twice"
        tokens[heard.token] = None
        place = (heard.client, heard.activation)
        if heard.count <= newest.get(place, 0):
            yield f"I11: {heard.token} pushed {heard.count} and came after {newest[place]}"
        newest[place] = heard.count


def _client_calls(calls: Iterable[CallRecord]) -> Iterator[CallRecord]:
    """Nested calls end with their node, which may be killed or paused; clients never are."""
    return (call for call in calls if call.caller.startswith("client"))
