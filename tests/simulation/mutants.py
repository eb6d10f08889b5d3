"""Faults of a line or two, planted in a copy of the packages: every one must be caught."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.simulation.drive import REPEAT, worker

PACKAGES = ("goverse", "goverse_node", "goverse_gate", "tests/simulation", "tests/support")


@dataclass(frozen=True)
class Mutant:
    """One line of production code, and what a careless author would have written.

    :param shows: what a violation must say; another one is no proof that this fault was seen.
    :param seed: known to catch it, and tried first; if the code has moved on, all others follow.
    :param also: file, old and new of further lines, where one alone is no fault: what two places
        see to is right as long as one of them does.
    """

    name: str
    file: str
    old: str
    new: str
    shows: str = ""
    seed: int = 1
    also: tuple[tuple[str, str, str], ...] = ()

    @property
    def edits(self) -> tuple[tuple[str, str, str], ...]:
        return ((self.file, self.old, self.new), *self.also)


MUTANTS: tuple[Mutant, ...] = (
    Mutant(
        "no lease on claims",
        "goverse/cluster/claims.py",
        "puts.append(Put(key, value, lease))",
        "puts.append(Put(key, value))",
    ),
    Mutant(
        "no self-fence",
        "goverse/cluster/membership.py",
        "return lease is not None and self._clock.now() < lease.deadline - self._margin_s",
        "return lease is not None",
        seed=2,
    ),
    Mutant(
        "no check before a reply",
        "goverse/objects/activation.py",
        "        self.check_may_leave(turn)\n        if not isinstance(told, Reply):\n",
        "        if not isinstance(told, Reply):\n",
        seed=224,
    ),
    Mutant(
        "a reply before its commit",
        "goverse/objects/durable.py",
        "return self.journal is None or self.journal.has(number)",
        "return True",
        shows="I12",
        seed=10,
    ),
    Mutant(
        "retry of unknown",
        "goverse/routing/persistence.py",
        "elif isinstance(error, LinkBroken) and not error.sent:",
        "elif isinstance(error, LinkBroken):",
        seed=3,
    ),
    Mutant(
        "retry of a forwarded unknown",
        "goverse/routing/router.py",
        "reply = await self._persist(call, attempt.owner, error)",
        "reply = await self._persist(call, None, None)",
        seed=2,
    ),
    Mutant(
        "a turn in place beside another",
        "goverse/objects/catalog.py",
        "        and activation.mailbox.idle\n",
        "",
    ),
    Mutant(
        "push before success",
        "goverse/objects/turn.py",
        "        self.pushes.append(push)\n",
        "        activation.services.pushes.send([push])\n",
    ),
    Mutant(
        "stale view",
        "goverse/cluster/view.py",
        "self._owners = self._state.owners if layout is not None else {}",
        "self._owners = self._owners or dict(self._state.owners)",
    ),
    Mutant(
        "dropped cancel",
        "goverse/transport/link.py",
        "self._inbound.on_cancel(frame.number)",
        "pass",
        seed=3,
    ),
    Mutant(
        "epoch not compared",
        "goverse/cluster/claims.py",
        "compares.append(Compare.created_at(key, revision))",
        "pass",
        seed=13,
    ),
    Mutant(
        "watch resumed one revision late",
        "goverse/coordination/memory/watch.py",
        "self._history, self._revision, self._listed = history, listed.revision, True",
        "self._history, self._revision, self._listed = history, listed.revision + 1, True",
    ),
    Mutant(
        "lost release",
        "goverse/cluster/ownership.py",
        "self._queue.forget_claim(shard)",
        "self._queue.forget(shard)",
        seed=39,
    ),
    Mutant(
        "two leaders",
        "goverse/cluster/leadership.py",
        "[Compare.has_lease(self._keys.leader, registration.lease.id)], puts",
        "[], puts",
        shows="I9",
        seed=57,
    ),
    Mutant(
        "view updated out of order",
        "goverse/coordination/feed.py",
        "item = self._items.popleft()",
        "item = self._items.pop()",
        seed=7,
    ),
    Mutant(
        "chunk of a broken link accepted",
        "goverse/transport/pump.py",
        "    def on_message(self, message: bytes) -> None:\n        if self._stopped:\n",
        "    def on_message(self, message: bytes) -> None:\n        if False:\n",
        shows="ChunkFrame",
        seed=36,
    ),
    Mutant(
        "dropped cancel of a forwarded call",
        "goverse/transport/inbound.py",
        "            served.under_way.cancel()\n",
        "            pass\n",
        seed=1,
    ),
    Mutant(
        "no fence in the store",
        "goverse/storage/memory/tables.py",
        "return row is not None and (row.epoch, row.opening) == (fence.epoch, fence.opening)",
        "return True",
        shows="no order of the calls",
        seed=52,
        also=(("goverse/storage/memory/tables.py", "if version != commit.version:", "if False:"),),
    ),
    Mutant(
        "a finished call id runs again",
        "goverse/storage/memory/tables.py",
        "        if known is not None:\n",
        "        if known is not None and not known.status.finished:\n",
        shows="I12",
    ),
    Mutant(
        "an accept answered before it is stored",
        "goverse/reliable/service.py",
        "        if accepted and entry.state is not ACCEPTING:\n",
        "        if accepted:\n",
        shows="I12",
        seed=10,
    ),
    Mutant(
        "a delivery under a new id",
        "goverse/reliable/outbox.py",
        "            call_id=call_id,\n",
        '            call_id=f"~{self._runtime.random.random()}",\n',
        shows="I12",
        seed=6,
    ),
    Mutant(
        "pending calls out of order",
        "goverse/reliable/recovery.py",
        "        for row in rows:\n            entry = self._unfinished.get(row",
        "        for row in reversed(rows):\n            entry = self._unfinished.get(row",
        shows="I12",
        seed=21,
        also=(
            (
                "goverse/reliable/orders.py",
                "        entry.state, entry.order = PENDING, self\n"
                "        bisect.insort(self.pending, entry, key=_seq)\n",
                "        entry.state, entry.order = PENDING, self\n"
                "        self.pending.append(entry)\n",
            ),
        ),
    ),
    Mutant(
        "delayed calls not read when a shard opens",
        "goverse/reliable/delays.py",
        "        self._unread[shard] = None\n        self._to_read.set()\n",
        "",
        also=(
            (
                "goverse/reliable/delays.py",
                "            everything = self._asked or self._rest_s() == 0\n",
                "            everything = self._asked\n",
            ),
        ),
    ),
    Mutant(
        "a tick that sets no other",
        "goverse/storage/memory/tables.py",
        "        if outcome.again_at is None or timing is None:\n",
        "        if outcome.again_at is None or timing is None or self._seq % 7 == 0:\n",
        shows="I13",
    ),
    Mutant(
        "a tick that is over before it is stored",
        "goverse/reliable/execution.py",
        "            again = timing._replace(run_at=outcome.again_at)\n",
        "            again = timing._replace(run_at=outcome.again_at - timing.every_s)\n",
        shows="I13",
        also=(
            (
                "goverse/storage/memory/tables.py",
                "            or not same_time(timing.run_at, step.was_at)\n",
                "",
            ),
        ),
    ),
    Mutant(
        "due before its time",
        "goverse/storage/memory/tables.py",
        "        if step.run_at <= self._wall():\n",
        "        if step.run_at <= self._wall() + 1.0:\n",
        shows="I13",
        also=(
            (
                "goverse/reliable/delays.py",
                "self._soon.take(self.clock.now() - _GUARD_S, MAX_CALLS)",
                "self._soon.take(self.clock.now() + 0.5, MAX_CALLS)",
            ),
            (
                "goverse/reliable/delays.py",
                "if left_s is None or left_s > -_GUARD_S:",
                "if left_s is None or left_s > 0.4:",
            ),
        ),
    ),
    Mutant(
        "a delayed call cancelled in words alone",
        "goverse/storage/memory/tables.py",
        "        if step.step is Step.SKIP:\n",
        "        if step.step is Step.SKIP and call.status is CallStatus.DELAYED:\n"
        "            return StepResult(Verdict.DONE, call.attempts, call.seq)\n"
        "        if step.step is Step.SKIP:\n",
        seed=2,
    ),
    Mutant(
        "outbox not read when a shard opens",
        "goverse/reliable/outbox.py",
        "        self._by_opening[shard.opening] = shard\n        self._read_on(shard)\n",
        "        self._by_opening[shard.opening] = shard\n"
        "        self._shards[shard].behind = False\n",
        seed=2,
    ),
    Mutant(
        "state that moved along under another epoch",
        "goverse/objects/luggage.py",
        "        if entry.epoch != released:\n",
        "        if False:\n",
        shows="I1",
        seed=12,
        also=(
            (
                "goverse_node/moves.py",
                "        if not len(self._arrivals):\n            return\n",
                "        return\n",
            ),
        ),
    ),
    Mutant(
        "a chained call runs on state that was sent",
        "goverse/objects/shards.py",
        "        shard.state = ShardState.LEAVING\n",
        "",
        shows="I1",
        seed=75,
    ),
)


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    seeds: int
    caught_by: int | None
    violation: str
    seconds: float

    def __str__(self) -> str:
        if self.caught_by is None:
            return f"{self.mutant.name}: SURVIVED {self.seeds} seeds"
        return (
            f"{self.mutant.name}: caught by seed {self.caught_by} "
            f"({self.seconds:.1f} s): {self.violation[:160]}"
        )


def plant(mutant: Mutant, root: Path, folder: Path) -> None:
    """Copy the packages below ``folder`` and change the lines. Raises ValueError."""
    changed = edit(mutant, root)
    for package in PACKAGES:
        shutil.copytree(
            root / package, folder / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    for file, text in changed.items():
        (folder / file).write_text(text)


def edit(mutant: Mutant, root: Path) -> dict[str, str]:
    """The files that the mutant changes, as they are then. Raises ValueError."""
    changed: dict[str, str] = {}
    for file, old, new in mutant.edits:
        text = changed.get(file) or (root / file).read_text()
        if text.count(old) != 1:
            raise ValueError(
                f"mutant {mutant.name!r}: {old!r} occurs {text.count(old)} times in {file}, not "
                "once; the code has moved on, and so must the mutant"
            )
        changed[file] = text.replace(old, new)
    return changed


def try_mutant(mutant: Mutant, seeds: list[int], root: Path) -> Verdict:
    """Play ``seeds`` on the mutant until an invariant breaks."""
    started = time.monotonic()
    seeds = [mutant.seed, *(seed for seed in seeds if seed != mutant.seed)]
    with tempfile.TemporaryDirectory(prefix="goverse-mutant-") as folder:
        plant(mutant, root, Path(folder))
        results = worker(seeds, root=Path(folder))
        try:
            for result in results:
                shown = [text for text in result.violations if mutant.shows in text]
                if shown:
                    seconds = time.monotonic() - started
                    return Verdict(mutant, len(seeds), result.seed, shown[0], seconds)
        finally:
            results.close()
    return Verdict(mutant, len(seeds), None, "", time.monotonic() - started)


def hunt(*, root: Path, jobs: int, seeds: int = 200, names: Sequence[str] = ()) -> bool:
    """Try every mutant (or those named); print the verdicts. True: all were caught."""
    chosen = [mutant for mutant in MUTANTS if not names or mutant.name in names]
    caught = True
    with ThreadPoolExecutor(jobs) as pool:
        for verdict in pool.map(
            lambda mutant: try_mutant(mutant, list(range(1, seeds + 1)), root), chosen
        ):
            print(verdict, flush=True)
            caught &= verdict.caught_by is not None
    print(f"a seed without the mutant: {REPEAT} N")
    return caught
