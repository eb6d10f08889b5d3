"""What a run did and found, for people and for programs."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.robustness.faults import KINDS, Minima
from tests.robustness.model import UNKNOWN

if TYPE_CHECKING:
    from tests.robustness.traffic import Traffic
    from tests.robustness.world import Counters

MAX_VIOLATIONS_SHOWN = 40


@dataclass
class FaultRecord:
    """One fault. Times are seconds since the run began.

    :param in_flight: calls that waited for their answer when it began.
    """

    what: str
    kind: str
    began_s: float = 0.0
    undone_s: float = 0.0
    recovered_s: float = 0.0
    in_flight: int = 0
    paired: bool = False

    @property
    def recovery_s(self) -> float:
        """From its being undone until all was well."""
        return self.recovered_s - self.undone_s

    def line(self) -> str:
        return (
            f"{self.began_s:7.1f} s  {self.what}{' (paired)' if self.paired else ''}: "
            f"{self.in_flight} in flight, recovered {self.recovery_s:.1f} s after it was undone"
        )


@dataclass
class Report:
    seed: int
    plan: list[str]
    minima: Minima
    faults: list[FaultRecord] = field(default_factory=list)
    told: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    fenced: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    retries: int = 0
    router_retries: int = 0
    repeated: int = 0
    look_ups: int = 0
    ledger_rows: int = 0
    starts_again: int = 0
    duration_s: float = 0.0
    rest_s: float = 0.0
    violations: list[str] = field(default_factory=list)

    def count(self, traffic: Traffic, counters: Counters, duration_s: float) -> None:
        """Take the numbers of a run that is over."""
        history = traffic.history
        self.told = dict(Counter(attempt.told for attempt in history.attempts))
        self.errors = dict(
            Counter(a.error.split(":")[0][:40] for a in history.attempts if a.error).most_common(20)
        )
        refused = "goverse_refused_commits_total"
        self.refused = {
            reason: counters.total(refused, reason=reason)
            for reason in ("fenced", "version", "not_pending", "refused", "unavailable", "unknown")
        }
        self.fenced = self.refused["fenced"]
        self.retries = traffic.retries
        self.router_retries = counters.total("goverse_retries_total")
        self.repeated = counters.total("goverse_reliable_repeated_calls_total")
        self.look_ups = len(history.look_ups)
        self.duration_s = duration_s

    def too_mild(self) -> list[str]:
        """What did not happen often enough for the run to show anything."""
        kinds = Counter(fault.kind for fault in self.faults if fault.recovered_s)
        found = [
            f"{kinds[kind]} of {self.minima.of(kind)}: {kind}"
            for kind in KINDS
            if kinds[kind] < self.minima.of(kind)
        ]
        if self.told.get(UNKNOWN, 0) < self.minima.unknown:
            found.append(f"{self.told.get(UNKNOWN, 0)} of {self.minima.unknown} calls were unknown")
        if self.fenced < self.minima.fenced:
            found.append(f"{self.fenced} of {self.minima.fenced} commits were fenced")
        idle = [fault.what for fault in self.faults if not fault.in_flight]
        found += [f"nothing was in flight at: {what}" for what in idle]
        paired = sum(fault.paired for fault in self.faults)
        if 3 * paired < len(self.faults):
            found.append(f"{paired} of {len(self.faults)} faults overlapped another, not a third")
        return found

    @property
    def ok(self) -> bool:
        return not (self.violations or self.too_mild())

    def head(self) -> str:
        steps = "\n".join(f"  {number}. {step}" for number, step in enumerate(self.plan, 1))
        return f"robustness: seed {self.seed}, {len(self.plan)} steps\n{steps}"

    def __str__(self) -> str:
        recoveries = [fault.recovery_s for fault in self.faults if fault.recovered_s] or [0.0]
        flying = [fault.in_flight for fault in self.faults] or [0]
        calls = sum(self.told.values())
        rate = calls / self.duration_s if self.duration_s else 0.0
        lines = [
            f"robustness: seed {self.seed}, {self.duration_s:.0f} s",
            *(self._of_kind(kind) for kind in KINDS),
            f"in flight at a fault: median {statistics.median(flying):g}, "
            f"least {min(flying)}, most {max(flying)}",
            f"recovery: median {statistics.median(recoveries):.1f} s, "
            f"longest {max(recoveries):.1f} s; at rest {self.rest_s:.1f} s after the last caller",
            f"calls: {calls}, {rate:.0f}/s; told {self.told}",
            f"errors: {self.errors}",
            f"repeated by callers {self.retries}, by routers {self.router_retries}, known call ids "
            f"{self.repeated}, look-ups {self.look_ups}, rows in the ledger {self.ledger_rows}",
            f"commits refused: {self.refused}; starts made again {self.starts_again}",
            *(f"TOO MILD: {what}" for what in self.too_mild()),
            *(f"WRONG: {what}" for what in self.violations[:MAX_VIOLATIONS_SHOWN]),
        ]
        if len(self.violations) > MAX_VIOLATIONS_SHOWN:
            lines.append(f"and {len(self.violations) - MAX_VIOLATIONS_SHOWN} more that are wrong")
        lines.append(f"seed {self.seed}: {'ok' if self.ok else 'FAILED'}")
        return "\n".join(lines)

    def _of_kind(self, kind: str) -> str:
        faults = [fault for fault in self.faults if fault.kind == kind]
        if not faults:
            return f"{kind}: none"
        recoveries = [fault.recovery_s for fault in faults if fault.recovered_s] or [0.0]
        return (
            f"{kind}: {len(faults)} of at least {self.minima.of(kind)}, recovered after "
            f"{statistics.median(recoveries):.1f} s (median), {max(recoveries):.1f} s (longest)"
        )

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "too_mild": self.too_mild(), "ok": self.ok}


def keep(folder: Path, name: str, text: str) -> None:
    """Also print it."""
    print(text)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text + "\n", encoding="utf-8")


def write(report: Report, folder: Path) -> None:
    """``robustness-SEED.txt`` and ``.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    place = folder / f"robustness-{report.seed}"
    lines = [report.head(), *(fault.line() for fault in report.faults), str(report), ""]
    place.with_suffix(".txt").write_text("\n".join(lines), encoding="utf-8")
    text = json.dumps(report.as_json(), indent=2, default=str)
    place.with_suffix(".json").write_text(text, encoding="utf-8")
