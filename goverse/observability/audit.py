"""What operators changed: one record for each act, under a logger of its own.

It is written whatever `log.level` says. As JSON a record has the fields below; as text they stand
in its message.
"""

from __future__ import annotations

import contextvars
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

NAME = "goverse.audit"

#: Of one record. An act upon thousands of calls says how many, and of which ids it began with.
MAX_IDS = 20

log = logging.getLogger(NAME)
log.setLevel(logging.INFO)


_actor: contextvars.ContextVar[str] = contextvars.ContextVar("goverse_audit_actor")


@contextmanager
def acting(who: str) -> Iterator[None]:
    """What is done inside, by this task, is done for ``who``."""
    token = _actor.set(who)
    try:
        yield
    finally:
        _actor.reset(token)


def actor() -> str:
    """Who acts; within this process if nobody said."""
    return _actor.get("this process")


def record(
    action: str, *, by: str, outcome: str, call_ids: Sequence[str] = (), target: str = ""
) -> None:
    """
    :param action: what was to be done, as ``cancel_call``.
    :param by: who wanted it: the peer of a node's admin service, or a user at a command line.
    :param outcome: what became of it; an error's code and text if it was refused or failed.
    :param target: the object, shard or store that it was done to.
    """
    shown = list(call_ids[:MAX_IDS])
    more = f" and {len(call_ids) - MAX_IDS} more" if len(call_ids) > MAX_IDS else ""
    calls = f" calls {', '.join(shown)}{more}" if shown else ""
    log.info(
        "%s%s%s by %s: %s",
        action,
        f" {target}" if target else "",
        calls,
        by,
        outcome,
        extra={
            "action": action,
            "by": by,
            "outcome": outcome,
            "call_ids": shown,
            "target": target,
        },
    )
