"""Call ids of clients: which they may use, and how they are kept apart from those of others."""

from __future__ import annotations

from urllib.parse import quote

from goverse.errors import InvalidArgument
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
