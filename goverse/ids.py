"""Identities: objects, members, epochs. The bottom of the import tree.

Only value types and their validation live here; nothing here does I/O.
"""

from __future__ import annotations

import functools
import hashlib
import random
import re
from typing import NamedTuple

MAX_ID_BYTES = 512
MAX_TYPE_CHARS = 128
NUM_SLOTS = 65_536

# C0 and C1 controls, and surrogates, which UTF-8 cannot carry. None of them is printable.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_MEMBER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}\Z")


class ObjectId(NamedTuple):
    """The name of one object: its class's name and an id within that class."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"


class MemberId(NamedTuple):
    """One incarnation of a node or gate. A restarted process is another member."""

    name: str
    incarnation: str

    def __str__(self) -> str:
        return f"{self.name}@{self.incarnation}"


class Epoch(NamedTuple):
    """The fencing token of a claim; strictly increasing per shard.

    ``generation`` counts histories of the coordinator, ``revision`` is the claim's
    ``create_revision`` within that history.
    """

    generation: int
    revision: int

    def __str__(self) -> str:
        return f"{self.generation}.{self.revision}"


NO_EPOCH = Epoch(0, 0)


def check_type(name: str) -> str:
    """Return ``name`` if it can name an object type. Raises ValueError."""
    if not name.isidentifier() or len(name) > MAX_TYPE_CHARS:
        raise ValueError(
            f"object type {name[:64]!r} must be an identifier "
            f"of at most {MAX_TYPE_CHARS} characters"
        )
    return name


def check_id(id: str) -> str:
    """Return ``id`` if it can name an object: 1 to 512 bytes, no controls. Raises ValueError."""
    if not id:
        raise ValueError("object id is empty")
    if not id.isprintable() and _FORBIDDEN.search(id):
        raise ValueError(f"object id {id[:64]!r} has a control character or a lone surrogate")
    # A character takes at most four bytes: short ids need no encoding to be measured.
    if len(id) * 4 > MAX_ID_BYTES and len(id.encode()) > MAX_ID_BYTES:
        raise ValueError(f"object id {id[:64]!r}... is longer than {MAX_ID_BYTES} bytes")
    return id


def check_member_name(name: str) -> str:
    """Return ``name`` if a node or gate can have it. Raises ValueError."""
    if not _MEMBER_ID.match(name):
        raise ValueError(
            f"member id {name[:64]!r} must be 1 to 128 letters, digits or . _ : - "
            "and begin with a letter or digit"
        )
    return name


def new_token(source: random.Random) -> str:
    """128 random bits as 32 hexadecimal digits: incarnations, client ids, cluster ids."""
    return f"{source.getrandbits(128):032x}"


@functools.lru_cache(maxsize=4096)
def gate_tag(name: str) -> str:
    """What the client ids of the gate ``name`` begin with: members find the gate by it, and
    clients learn no host's name from it. 64 bits, so that no two gates share one."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def new_client_id(gate: str, source: random.Random) -> str:
    """An id for a client of the gate with this name: its tag, then 128 random bits."""
    return gate_tag(gate) + new_token(source)


def tag_of_client(client_id: str) -> str:
    """The `gate_tag` in a client id; for what is no client id, a tag that no gate has."""
    return client_id[:16]
