"""Each change that an operator asks a node for: who may, and two records, of the wish and of what
became of it. A node that dies in between leaves the first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from goverse.errors import GoverseError
from goverse.observability import audit
from goverse.security.operators import OperatorRule


class Act(NamedTuple):
    """:param name: as the audit log has it. :param words: as a refusal has it."""

    name: str
    words: str
    target: str = ""
    call_ids: tuple[str, ...] = ()


class Trail:
    """Says in the record what the act has done; nothing said: it was cut off."""

    def __init__(self) -> None:
        self.outcome = "cut off: what became of it is not known"

    def done(self, answer: Any = None) -> None:
        """:param answer: of the admin service; a change of a call tells more."""
        self.outcome = "done"
        names: set[str] = set()
        if answer is not None:
            names.update(field.name for field in answer.DESCRIPTOR.fields)
        if {"status", "changed"} <= names:
            self.outcome = answer.status if answer.changed else f"{answer.status}, unchanged"
        elif {"deleted", "complete"} <= names:
            self.outcome = f"{answer.deleted} deleted" if not answer.calls else "counted"


@contextmanager
def operator_acts(rule: OperatorRule, peer: str, authorization: str, act: Act) -> Iterator[Trail]:
    """Inside it the operator acts. Raises PermissionDenied, which is recorded too."""
    trail, who = Trail(), peer
    try:
        who = f"{peer} ({rule.check(peer, authorization, act.words)})"
        audit.record(act.name, by=who, target=act.target, call_ids=act.call_ids, outcome="asked")
        with audit.acting(who):
            yield trail
    except Exception as error:
        code = error.code if isinstance(error, GoverseError) else type(error).__name__
        trail.outcome = f"{code}: {error}"
        raise
    finally:
        audit.record(
            act.name, by=who, target=act.target, call_ids=act.call_ids, outcome=trail.outcome
        )
