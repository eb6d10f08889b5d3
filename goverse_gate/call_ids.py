"""Call ids of clients: which they may use, and how they are kept apart from those of others."""

from __future__ import annotations

from urllib.parse import quote

from goverse.errors import InvalidArgument
from goverse.objects.recording import ISSUED
from goverse.storage.checks import check_call_id

#: What ids begin with that are not a client's to choose: ids made by the system, and scoped ones.
RESERVED = "~"


def scoped(call_id: str, principal: str) -> str:
    """The id under which the cluster knows the call ``call_id`` of ``principal``.

    Without a principal it is the id itself. Raises InvalidArgument.
    """
    try:
        check_call_id(call_id)
        if call_id.startswith(RESERVED):
            raise ValueError(
                f"call id {call_id[:64]!r} begins with {RESERVED}, as only ids of the system do"
            )
        if not principal:
            return call_id
        return check_call_id(f"{RESERVED}{quote(principal, safe='')}/{call_id}")
    except ValueError as error:
        raise InvalidArgument(str(error), details={"field": "call_id"}) from None


def looked_for(call_id: str, principal: str) -> str:
    """As `scoped`, for a look-up or a cancellation: that may name an issued call, too.

    Whoever was told such an id may know what became of the call, and stop it; nobody may make one
    with it.
    """
    if ISSUED.fullmatch(call_id):
        return call_id
    return scoped(call_id, principal)
