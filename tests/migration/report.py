"""What trials did and found: records of the shape that `tests.robustness` writes, with a bound."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.robustness.report import FaultRecord


@dataclass
class TrialRecord(FaultRecord):
    """One fault, or one thing that operators do, under load.

    :param expected: in words. :param within_s: the longest that recovery may take.
    :param failed: calls that failed. :param longest_s: of all calls.
    :param lost_leases: nodes that live and lost their lease.
    """

    expected: str = ""
    within_s: float = 0.0
    failed: int = 0
    longest_s: float = 0.0
    lost_leases: int = 0

    def line(self) -> str:
        recovered = f"recovered after {self.recovery_s:.2f} s" if self.recovered_s else "not back"
        return (
            f"{self.began_s:7.1f} s  {self.what}: {self.in_flight} in flight, {recovered} (at most "
            f"{self.within_s:g} s), {self.failed} calls failed, the longest took "
            f"{self.longest_s:.2f} s"
        )


@dataclass
class TrialReport:
    """
    :param name: of the run; the file's name begins with it.
    :param figures: what else was measured.
    """

    name: str
    seed: int
    faults: list[TrialRecord] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    violations: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def ok(self) -> bool:
        return not self.violations

    def summary(self) -> list[dict[str, Any]]:
        """For each kind of fault what is expected, and what was measured."""
        kinds: dict[str, list[TrialRecord]] = {}
        for fault in self.faults:
            if fault.recovered_s:
                kinds.setdefault(fault.kind, []).append(fault)
        return [
            {
                "fault": kind,
                "expected": faults[0].expected,
                "within_s": faults[0].within_s,
                "times": len(faults),
                "median_s": round(statistics.median(f.recovery_s for f in faults), 3),
                "worst_s": round(max(f.recovery_s for f in faults), 3),
                "failed": max(f.failed for f in faults),
            }
            for kind, faults in kinds.items()
        ]

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "summary": self.summary(), "ok": self.ok}

    def __str__(self) -> str:
        return "\n".join(
            [
                f"{self.name}: seed {self.seed}, {self.duration_s:.0f} s",
                *(fault.line() for fault in self.faults),
                *(f"{name}: {value}" for name, value in self.figures.items()),
                *(f"WRONG: {what}" for what in self.violations[:40]),
                f"seed {self.seed}: {'ok' if self.ok else 'FAILED'}",
            ]
        )

    def write(self, folder: Path) -> None:
        """``NAME-SEED.txt`` and ``.json``."""
        folder.mkdir(parents=True, exist_ok=True)
        place = folder / f"{self.name}-{self.seed}"
        place.with_suffix(".txt").write_text(f"{self}\n", encoding="utf-8")
        text = json.dumps(self.as_json(), indent=2)
        place.with_suffix(".json").write_text(text, encoding="utf-8")
