"""What a benchmark says: figures, checks against bounds, and where they were measured."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any


@dataclass(frozen=True)
class Options:
    rounds: int
    seconds: float


@dataclass(frozen=True)
class Check:
    """One bound: ``value`` must be at least ``bound``."""

    name: str
    value: float
    bound: float

    @property
    def ok(self) -> bool:
        return self.value >= self.bound


@dataclass
class Report:
    benchmark: str
    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    raw: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return not self.faults and bool(self.checks) and all(check.ok for check in self.checks)

    def to_json(self, where: dict[str, Any]) -> dict[str, Any]:
        return {
            "benchmark": self.benchmark,
            "ok": self.ok,
            "checks": [
                {
                    "name": check.name,
                    "value": round(check.value, 4),
                    "bound": check.bound,
                    "ok": check.ok,
                }
                for check in self.checks
            ],
            "faults": self.faults,
            "figures": self.figures,
            "environment": where,
        }


def environment() -> dict[str, Any]:
    libraries = ("grpcio", "msgspec", "uvloop", "protobuf", "psycopg")
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpus": os.cpu_count(),
        "libraries": {name: version(name) for name in libraries},
    }
