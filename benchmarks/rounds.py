"""Interleaved runs: a machine whose speed drifts slows every subject."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass

from benchmarks.load import Load


@dataclass(frozen=True)
class Subject:
    """What is measured.

    :param run: one run of so many seconds, after a warm-up of its own. Raises RuntimeError.
    :param required: without it there is nothing to compare, and its failure ends the benchmark.
    """

    name: str
    run: Callable[[float], Awaitable[Load]]
    required: bool = True


Samples = dict[str, list[Load]]


async def interleaved(
    subjects: Iterable[Subject], rounds: int, seconds: float, faults: list[str]
) -> Samples:
    """Run every subject once a round, each round beginning with another one.

    A subject that is not required and fails is left out from then on, its samples too, and told
    in ``faults``.
    """
    remaining = list(subjects)
    samples: Samples = {subject.name: [] for subject in remaining}
    for number in range(rounds):
        first = number % len(remaining)
        for subject in remaining[first:] + remaining[:first]:
            try:
                seen = await subject.run(seconds)
            except (OSError, RuntimeError) as error:
                if subject.required:
                    raise
                faults.append(f"{subject.name} failed in round {number + 1}: {error}")
                remaining.remove(subject)
                del samples[subject.name]
                continue
            samples[subject.name].append(seen)
            print(
                f"round {number + 1}/{rounds}: {subject.name}: {seen.per_second:,.0f}/s, "
                f"p50 {seen.p50_ms} ms, p99 {seen.p99_ms} ms",
                file=sys.stderr,
                flush=True,
            )
    return samples


def ratio(samples: Mapping[str, list[Load]], ours: str, other: str) -> float:
    """Median over the rounds of one subject's rate divided by another's in the same round."""
    pairs = zip(samples[ours], samples[other], strict=True)
    return statistics.median(mine.per_second / theirs.per_second for mine, theirs in pairs)


def medians(samples: Mapping[str, list[Load]]) -> dict[str, dict[str, float]]:
    """What the closing line quotes of each subject."""
    return {
        name: {
            "per_s": round(statistics.median(run.per_second for run in runs)),
            "p50_ms": statistics.median(run.p50_ms for run in runs),
            "p99_ms": statistics.median(run.p99_ms for run in runs),
        }
        for name, runs in samples.items()
        if runs
    }


def raw(samples: Mapping[str, list[Load]]) -> dict[str, list[dict[str, float]]]:
    return {name: [asdict(run) for run in runs] for name, runs in samples.items()}
