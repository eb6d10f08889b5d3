"""What every implementation refuses before anything is sent, in the same words."""

from __future__ import annotations

from collections.abc import Sequence

from goverse.coordination.api import (
    MAX_TXN_OPERATIONS,
    Compare,
    Delete,
    Put,
    TransactionTooLarge,
)


def check_prefix(prefix: str) -> str:
    """Return ``prefix`` if it ends with a slash, so that `a/` never matches `ab/`."""
    if not prefix.endswith("/"):
        raise ValueError(f"prefix {prefix!r} must end with a slash")
    return prefix


def check_transaction(compares: Sequence[Compare], operations: Sequence[Put | Delete]) -> None:
    """Refuse what etcd refuses: too many parts, or two operations on one key.

    etcd itself lets two deletes of one key pass; nobody means that, so it is refused as well.
    """
    if len(compares) > MAX_TXN_OPERATIONS or len(operations) > MAX_TXN_OPERATIONS:
        raise TransactionTooLarge(
            f"{len(compares)} compares and {len(operations)} operations; "
            f"a transaction takes {MAX_TXN_OPERATIONS} of each"
        )
    seen: dict[str, None] = {}
    for operation in operations:
        if not operation.key:
            raise ValueError("an operation has an empty key")
        if operation.key in seen:
            raise ValueError(f"two operations on the key {operation.key!r} in one transaction")
        seen[operation.key] = None
