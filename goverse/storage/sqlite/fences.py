"""Fences and clusters on SQLite. Each function is one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from goverse.ids import NO_EPOCH, NUM_SLOTS, Epoch
from goverse.storage.api import HigherEpoch, StoreRefused
from goverse.storage.rules import reused_opening, wrong_cluster


def cluster_id(connection: sqlite3.Connection) -> str:
    row = connection.execute("SELECT cluster_id FROM goverse_cluster").fetchone()
    return str(row[0]) if row else ""


def claim_cluster(connection: sqlite3.Connection, mine: str) -> None:
    stored = cluster_id(connection)
    if not stored:
        connection.execute("INSERT INTO goverse_cluster (cluster_id) VALUES (?)", (mine,))
    elif stored != mine:
        raise StoreRefused(wrong_cluster(stored, mine))


def adopt(connection: sqlite3.Connection, mine: str) -> None:
    connection.execute("DELETE FROM goverse_cluster")
    connection.execute("INSERT INTO goverse_cluster (cluster_id) VALUES (?)", (mine,))
    connection.execute(
        "UPDATE goverse_fences SET incarnation = '', opening = opening + 1 WHERE opening > 0"
    )


def highest_epoch(connection: sqlite3.Connection) -> Epoch:
    row = connection.execute(
        "SELECT generation, revision FROM goverse_fences "
        "ORDER BY generation DESC, revision DESC LIMIT 1"
    ).fetchone()
    return Epoch(*row) if row else NO_EPOCH


def node_slot(connection: sqlite3.Connection, node: str) -> int:
    find = "SELECT slot FROM goverse_fences WHERE node = ?"
    row = connection.execute(find, (node,)).fetchone()
    if row is None:
        connection.execute(
            "INSERT INTO goverse_fences (slot, node) "
            "SELECT max(?, max(slot) + 1), ? FROM goverse_fences",
            (NUM_SLOTS, node),
        )
        row = connection.execute(find, (node,)).fetchone()
    return int(row[0])


def raise_group(
    connection: sqlite3.Connection,
    slots: Sequence[int],
    epoch: Epoch,
    incarnation: str,
    opening: int,
) -> HigherEpoch | None:
    """Raise all that can be, and return what stands in the way of the others."""
    standing = []
    for slot in slots:
        row = connection.execute(
            "SELECT generation, revision, incarnation, opening FROM goverse_fences WHERE slot = ?",
            (slot,),
        ).fetchone()
        if row is None:
            raise ValueError(f"there is no slot {slot}")
        found, who, stored_opening = Epoch(row[0], row[1]), row[2], row[3]
        mine = (found, who) == (epoch, incarnation)
        if found < epoch or (mine and stored_opening < opening):
            connection.execute(
                "UPDATE goverse_fences SET generation = ?, revision = ?, incarnation = ?, "
                "opening = ? WHERE slot = ?",
                (*epoch, incarnation, opening, slot),
            )
        elif mine:
            raise ValueError(reused_opening(slot, opening))
        else:
            standing.append((found, -slot, who))
    if not standing:
        return None
    highest, negative, who = max(standing)
    return HigherEpoch(-negative, highest, who)
