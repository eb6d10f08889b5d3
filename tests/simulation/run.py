"""One seed from its plan to the checks of its invariants."""

from __future__ import annotations

import time
from dataclasses import replace

from goverse.config.settings import AutoloadSettings
from goverse.errors import GoverseError
from goverse.testing.cluster import TEST_SETTINGS, Cluster
from goverse.testing.loop import ProcessKilled, SimLoop, SimulationError, run_virtual
from tests.simulation import invariants
from tests.simulation.drive import Result
from tests.simulation.history import History, recording
from tests.simulation.scenario import IDLE_TIMEOUT_S, LEASE_TTL_S, NUM_SHARDS, generate
from tests.simulation.watched import crashes, watched
from tests.simulation.world import Run

MAX_TIME_S = 600.0

SETTINGS = replace(
    TEST_SETTINGS,
    cluster=replace(
        TEST_SETTINGS.cluster,
        lease_ttl_s=LEASE_TTL_S,
        initial_num_shards=NUM_SHARDS,
        restart_grace_s=2.0,
        rebalance_cooldown_s=1.0,
        load_interval_s=0.5,
    ),
    limits=replace(
        TEST_SETTINGS.limits,
        max_chunk_bytes=4096,
        max_batch_bytes=16_384,
        max_payload_bytes=65_536,
        max_mailbox_calls=12,
        max_waiting_calls=64,
        max_session_calls=64,
    ),
    objects=replace(
        TEST_SETTINGS.objects,
        idle_timeout_s=IDLE_TIMEOUT_S,
        autoload=(
            AutoloadSettings(type="Lively", name="loaded"),
            AutoloadSettings(type="Lively", name="loaded", scope="shard"),
            AutoloadSettings(type="Register", name="loaded", scope="node"),
        ),
    ),
    node=replace(TEST_SETTINGS.node, shutdown_timeout_s=5.0, latch_max_hold_s=3.0),
    gate=replace(TEST_SETTINGS.gate, shutdown_timeout_s=5.0),
)


def play(seed: int, *, show: bool = False) -> Result:
    """Play ``seed``. Whatever goes wrong becomes a violation; nothing is raised."""
    scenario = generate(seed)
    started = time.perf_counter()
    runs: list[Run] = []
    violations: list[str] = []

    async def main(loop: SimLoop) -> str:
        cluster = Cluster(
            modules=(
                "tests.simulation.objects",
                "tests.simulation.lively",
                "tests.simulation.foreign",
                "tests.simulation.kept",
                "tests.simulation.hourglass",
            ),
            nodes=0,
            gates=0,
            settings=replace(
                SETTINGS, cluster=replace(SETTINGS.cluster, strategy=scenario.strategy)
            ),
            seed=seed,
            latency_s=(0.0002, 0.002),
        )
        run = Run(loop, cluster, scenario)
        runs.append(run)
        with recording(run.history):
            await run.play()
        return loop.trace.digest

    digest = ""
    with crashes(violations), watched():
        try:
            digest = run_virtual(main, seed=seed, max_time_s=MAX_TIME_S)
        except (SimulationError, GoverseError, ProcessKilled, TimeoutError) as error:
            violations.append(f"I3: the run did not end: {type(error).__name__}: {error}")
    history: History | None = runs[0].history if runs else None
    if history is not None:
        violations = invariants.check(history) + violations
    stats = runs[0].stats() if runs else {}
    if show and runs:
        print("\n".join(runs[0].loop.trace.tail()))
    return Result(seed, digest, tuple(violations), stats, time.perf_counter() - started)
