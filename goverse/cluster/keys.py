"""Names of the coordinator's keys. The only place that knows them."""

from __future__ import annotations

from typing import NamedTuple

from goverse.cluster.records import Kind


class Parsed(NamedTuple):
    """A key under the prefix: its folder and what stands below it (empty for single keys)."""

    folder: str
    name: str


class Keys:
    """Key names of one cluster, all below ``prefix``.

    The prefix always ends with a slash, so that ``/goverse`` never matches ``/goverse2``.
    """

    def __init__(self, prefix: str = "/goverse") -> None:
        self.prefix = prefix.rstrip("/") + "/"
        self.layout = self.prefix + "layout"
        self.leader = self.prefix + "leader"
        self._targets = self.prefix + "shards/"
        self._claims = self.prefix + "claims/"

    def member(self, kind: Kind, name: str) -> str:
        return f"{self.prefix}{kind.value}s/{name}"

    def target(self, shard: int) -> str:
        return f"{self._targets}{shard}"

    def claim(self, shard: int) -> str:
        return f"{self._claims}{shard}"

    def pin(self, shard: int) -> str:
        return f"{self.prefix}pins/{shard}"

    def restart(self, name: str) -> str:
        return f"{self.prefix}restarts/{name}"

    def cordon(self, name: str) -> str:
        return f"{self.prefix}cordons/{name}"

    def parse(self, key: str) -> Parsed:
        folder, _, name = key[len(self.prefix) :].partition("/")
        return Parsed(folder, name)
