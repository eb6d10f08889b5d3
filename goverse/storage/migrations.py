"""Numbered migrations: files ``NNNN_name.sql`` beside the backend that they are for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files

from goverse.storage.api import SchemaStatus, StoreRefused


@dataclass(frozen=True, slots=True)
class Migration:
    number: int
    name: str
    text: str

    @property
    def full_name(self) -> str:
        return f"{self.number:04d}_{self.name}"

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations(package: str) -> tuple[Migration, ...]:
    """Those of ``package``, in order; their numbers begin at 1 and none is missing."""
    found = []
    for path in files(package).joinpath("migrations").iterdir():
        if path.name.endswith(".sql"):
            number, _, name = path.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, path.read_text(encoding="utf-8")))
    found.sort(key=lambda migration: migration.number)
    assert [migration.number for migration in found] == list(range(1, len(found) + 1))
    return tuple(found)


def status_of(known: Sequence[Migration], applied: Mapping[int, str]) -> SchemaStatus:
    """What is to be done. ``applied`` has the digest by number. Raises `StoreRefused`."""
    for migration in known:
        digest = applied.get(migration.number)
        if digest not in (None, migration.digest):
            raise StoreRefused(
                f"migration {migration.number} ({migration.name}) was applied to this store in "
                "another form than this program's; it was made by another program or changed since"
            )
    version = max(applied, default=0)
    pending = tuple(m.full_name for m in known if m.number not in applied)
    return SchemaStatus(version, len(known), pending)


def require_current(status: SchemaStatus) -> None:
    """Raise `StoreRefused` unless this program knows the store's schema, and all of it is there."""
    if status.version > status.known:
        raise StoreRefused(
            f"the store has schema version {status.version}, and this program knows up to "
            f"{status.known}: run a newer version"
        )
    if status.pending:
        what = f"schema version {status.version}" if status.version else "no schema"
        raise StoreRefused(
            f"the store has {what}, and this program needs {status.known}: "
            "run goverse-cli db migrate"
        )
