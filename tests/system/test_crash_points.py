"""Every crash point of `goverse/reliable/DESIGN.md`, in real node processes that kill themselves
there: on PostgreSQL another node takes over, on SQLite the same one is started again. On MariaDB it
is played by `make test-mariadb`."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

import goverse
import goverse.client
from goverse import coordination, storage
from goverse.aio.runtime import Runtime
from goverse.cluster.surroundings import Surroundings
from goverse.config.settings import (
    ClusterSettings,
    EtcdSettings,
    GateSettings,
    Settings,
    StorageSettings,
)
from goverse.coordination.supervised import EtcdProcess
from goverse.errors import Executed, GoverseError
from goverse.ids import ObjectId
from goverse.storage.api import Store
from goverse.storage.values import CallStatus
from goverse.testing.processes import ProcessCluster, process_cluster
from goverse.transport.tcp_network import TcpNetwork
from goverse_gate.app import run_gate
from tests.support import mariadb
from tests.support.crashing_bank import Account
from tests.support.crashing_node import MARK, POINT, REACHED, Point
from tests.support.eventually import eventually
from tests.support.postgres import PASSWORD, ROOT, PostgresServer, serving

pytestmark = pytest.mark.system

PAGE = ROOT / "goverse/reliable/DESIGN.md"
#: Below it a busy machine loses leases that nobody meant to end.
LEASE_TTL_S = 3.0
#: Many at a time, because a failover is mostly waiting.
AT_A_TIME = 8
POINT_S = 90.0


@dataclass
class Play:
    """One cluster in which one point is reached."""

    name: str
    cluster: ProcessCluster
    settings: StorageSettings
    client: goverse.client.Client
    same_name: bool
    started: int = 0

    @property
    def node(self) -> str:
        return "n1" if self.same_name else f"n{self.started}"

    async def start(self, point: Point | None) -> None:
        self.started += 1
        given = {REACHED: str(self.reached), POINT: json.dumps(asdict(point)) if point else ""}
        await self.cluster.start_node(self.node, **given)

    @property
    def reached(self) -> Path:
        return self.cluster.folder / f"reached-{self.started}"

    async def died(self, point: Point) -> None:
        """The process came to its point, and ended there."""
        server = self.cluster.servers[self.node]
        async with asyncio.timeout(25):
            code = await server.process.wait()
        assert code == -signal.SIGKILL, f"ended with {code}: {server.log()[-3000:]}"
        assert json.loads(self.reached.read_text()) == asdict(point)

    def account(self, id: str, call_id: str = "") -> Any:
        return goverse.options(
            self.client.get(Account, id), call_id=call_id or None, timeout_s=POINT_S
        )

    @asynccontextmanager
    async def store(self) -> AsyncIterator[Store]:
        opened = await storage.open(self.settings, Runtime())
        try:
            yield opened
        finally:
            await opened.close()

    async def status(self, call_id: str) -> CallStatus | None:
        async with self.store() as store:
            row = (await store.get_calls([call_id])).get(call_id)
        return row.status if row is not None else None

    async def at_rest(self) -> None:
        """Nothing is pending, parked or on its way."""
        async with self.store() as store:

            async def resting() -> bool:
                return not any(asdict(await store.census()).values())

            await eventually(resting, timeout_s=20)


Standing = set[CallStatus | None]
PENDING, SUCCESS = CallStatus.PENDING, CallStatus.SUCCESS


async def crash_and_go_on(play: Play, points: tuple[Point, ...], standing: Standing) -> None:
    """Come to each point in a process of its own, then run one that lives."""
    for point in points:
        if play.started == 0 or play.reached.exists():
            await play.start(point)
        await play.died(point)
        assert await play.status("c") in standing, await play.status("c")
    await play.start(None)


async def deposit(play: Play, points: tuple[Point, ...], standing: Standing) -> None:
    call = asyncio.create_task(play.account("a", "c").deposit(5))
    await crash_and_go_on(play, points, standing)
    assert await call == [5, MARK]
    assert await play.account("a", "c").deposit(5) == [5, MARK]
    assert await play.account("a").get() == 5
    assert await play.status("c") is SUCCESS


async def transfer(play: Play, points: tuple[Point, ...], standing: Standing) -> None:
    call = asyncio.create_task(play.account("a", "c").transfer("b", 7))
    await crash_and_go_on(play, points, standing)
    assert await call == [-7, MARK]
    await play.at_rest()
    assert await play.account("a", "c").transfer("b", 7) == [-7, MARK]
    assert (await play.account("a").get(), await play.account("b").get()) == (-7, 7)


async def deletion(play: Play, points: tuple[Point, ...], standing: Standing) -> None:
    await play.start(points[0])
    assert await play.account("a", "c").deposit(5) == [5, MARK]
    told = asyncio.create_task(play.client.delete(Account, "a", timeout_s=POINT_S))
    await play.died(points[0])
    async with play.store() as store:
        assert await store.load([ObjectId("Account", "a")]) == {}
    await play.start(None)
    try:
        await told
    except GoverseError as error:
        assert error.executed is not Executed.NO, error
    await play.client.delete(Account, "a", timeout_s=POINT_S)
    assert await play.account("a", "d").deposit(5) == [5, MARK]
    assert await play.account("a", "c").deposit(5) == [5, MARK]
    assert await play.account("a").get() == 5


async def orderly_end(play: Play, points: tuple[Point, ...], standing: Standing) -> None:
    await play.start(points[0])
    assert await play.account("a", "c").deposit(5) == [5, MARK]
    assert await play.account("a").deposit(2) == [7, MARK]
    play.cluster.servers[play.node].process.terminate()
    await play.died(points[0])
    assert await play.status("c") in standing
    await play.start(None)
    assert await play.account("a").get() == 7


async def suspended(play: Play, points: tuple[Point, ...], standing: Standing) -> None:
    await play.start(points[0])
    call = asyncio.create_task(play.account("a", "c").deposit_in_parts(5))
    await play.died(points[0])
    assert await play.status("c") in standing
    async with play.store() as store:
        assert await store.load([ObjectId("Account", "a")]) == {}, "half a turn was stored"
    await play.start(None)
    assert await call == [10, MARK]
    assert await play.account("a").get() == 10


Work = Callable[[Play, tuple[Point, ...], Standing], Awaitable[None]]
BEGUN = Point("turn", "before")

#: By the first column of the page: what is done, where each process ends, and what stands then.
POINTS: dict[str, tuple[Work, tuple[Point, ...], Standing]] = {
    "C1 before the accept is sent": (deposit, (Point("store.accept", "before"),), {None}),
    "C2 after the accept is sent, before its answer": (
        deposit,
        (Point("store.accept", "sent"),),
        {None, PENDING},
    ),
    "C3 accepted, its turn has not begun": (deposit, (Point("store.accept", "after"),), {PENDING}),
    "C4 during the turn": (deposit, (BEGUN,), {PENDING}),
    "C5 turn over, commit not sent": (
        deposit,
        (Point("store.commit", "before", "outcome"),),
        {PENDING},
    ),
    "C6 commit sent, no answer": (
        deposit,
        (Point("store.commit", "sent", "outcome"),),
        {PENDING, SUCCESS},
    ),
    "C7 committed, reply not sent": (deposit, (Point("link.write", "before", "reply"),), {SUCCESS}),
    "C8 reply lost on its way": (deposit, (Point("link.write", "after", "reply"),), {SUCCESS}),
    "C9 outbox rows committed, not delivered": (
        transfer,
        (Point("store.commit", "after", "outbox"),),
        {SUCCESS},
    ),
    "C10 delivered, acknowledgement lost": (
        transfer,
        (Point("store.accept", "after", "child"),),
        {SUCCESS},
    ),
    "C11 acknowledged, row not removed": (
        transfer,
        (Point("store.change_outbox", "before", "delivered"),),
        {SUCCESS},
    ),
    "C12 deletion committed, reply lost": (
        deletion,
        (Point("store.commit", "after", "delete"),),
        {SUCCESS},
    ),
    "C13 attempts raised, turn not begun": (
        deposit,
        (BEGUN, Point("store.change_calls", "after", "attempt")),
        {PENDING},
    ),
    "C14 between closing and the release of the claim": (
        orderly_end,
        (Point("coordinator.transact", "before", "release"),),
        {SUCCESS},
    ),
    "C15 registered, nothing claimed": (
        deposit,
        (BEGUN, Point("coordinator.transact", "after", "register")),
        {PENDING},
    ),
    "C16 claim sent, no answer": (
        deposit,
        (BEGUN, Point("coordinator.transact", "sent", "claim")),
        {PENDING},
    ),
    "C17 claimed, fences not raised": (
        deposit,
        (BEGUN, Point("store.raise_fence", "before")),
        {PENDING},
    ),
    "C18 fences raised, pending calls not read": (
        deposit,
        (BEGUN, Point("store.pending_calls", "before")),
        {PENDING},
    ),
}

#: What the page says of a point, in other circumstances.
MORE: dict[str, tuple[Work, tuple[Point, ...], Standing]] = {
    "C4-inner: an inner turn has ended": (suspended, (BEGUN,), {PENDING}),
}


def points_of_the_page() -> list[str]:
    return re.findall(r"^\| (C\d+ [^|]+?) \|", PAGE.read_text(), re.M)


def test_every_point_of_the_page_is_played() -> None:
    assert points_of_the_page() == list(POINTS)


@asynccontextmanager
async def client_of(etcd: str, prefix: str) -> AsyncIterator[goverse.client.Client]:
    """A client behind a gate in this process."""
    cluster = ClusterSettings(
        etcd=EtcdSettings(endpoints=(etcd,), prefix=prefix),
        lease_ttl_s=LEASE_TTL_S,
        initial_num_shards=8,
    )
    gate = GateSettings(id="g1", listen="127.0.0.1:0", http_listen="off", ops_listen="off")
    runtime = Runtime()
    surroundings = Surroundings(await coordination.open(cluster, runtime), TcpNetwork(), runtime)
    try:
        async with run_gate(Settings(cluster=cluster, gate=gate), surroundings) as running:
            async with goverse.client.connect(running.address) as client:
                yield client
    finally:
        await surroundings.network.close()
        await surroundings.coordinator.close()


async def play(name: str, etcd: str, folder: Path, settings: StorageSettings) -> None:
    work, points, standing = (POINTS | MORE)[name]
    short = name.split()[0].strip(":")
    sqlite = settings.url.startswith("sqlite:")
    prefix = f"/{folder.name}/{short}"
    folder = folder / short
    folder.mkdir()
    environment = {
        "GOVERSE_CLUSTER__ETCD__PREFIX": prefix,
        "GOVERSE_CLUSTER__LEASE_TTL": f"{LEASE_TTL_S:g}s",
        "GOVERSE_CLUSTER__STABILITY_DURATION": "100ms",
        "GOVERSE_CLUSTER__INITIAL_NUM_SHARDS": "8",
        "GOVERSE_NODE__SHUTDOWN_MODE": "restart",
        "GOVERSE_CLUSTER__RESTART_GRACE": "1s",
        "GOVERSE_STORAGE__URL": settings.url,
        "GOVERSE_STORAGE__PASSWORD": "" if sqlite else PASSWORD,
    }
    async with (
        process_cluster(
            etcd,
            folder,
            modules=("tests.support.crashing_bank",),
            environment=environment,
            node_module="tests.support.crashing_node",
        ) as cluster,
        client_of(etcd, prefix) as client,
    ):
        one = Play(name, cluster, settings, client, same_name=sqlite)
        try:
            async with asyncio.timeout(POINT_S):
                await work(one, points, standing)
                await one.at_rest()
        except BaseException as error:
            logs = {each.name: each.log()[-1500:] for each in cluster.servers.values()}
            error.add_note(f"{name}: {logs}")
            raise


async def play_all(
    etcd: str, folder: Path, settings_of: Callable[[str], Awaitable[StorageSettings]]
) -> None:
    limit = asyncio.Semaphore(AT_A_TIME)
    failed: list[str] = []

    async def limited(name: str) -> None:
        async with limit:
            try:
                await play(name, etcd, folder, await settings_of(name))
            except Exception as error:
                failed.append(f"{name}:\n{''.join(traceback.format_exception(error))}")

    await asyncio.gather(*(limited(name) for name in (*POINTS, *MORE)))
    assert not failed, f"{len(failed)} points:\n" + "\n".join(failed)


@pytest.fixture(scope="module")
def postgres() -> Any:
    with serving("18") as server:
        yield server


async def test_on_postgresql_each_has_the_outcome_of_the_page(
    etcd: EtcdProcess, tmp_path: Path, postgres: PostgresServer
) -> None:
    await postgres.migrate()

    async def settings_of(name: str) -> StorageSettings:
        return await asyncio.to_thread(postgres.copied_database)

    await play_all(etcd.endpoint, tmp_path, settings_of)


@pytest.mark.mariadb
async def test_on_mariadb_each_has_the_outcome_of_the_page(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    with mariadb.open_folder() as folder:
        server = mariadb.MariadbServer(mariadb.MariadbOptions(folder / "data"))
        try:
            await server.start()

            async def settings_of(name: str) -> StorageSettings:
                return await server.migrated_database()

            await play_all(etcd.endpoint, tmp_path, settings_of)
        finally:
            await server.kill()


async def test_on_sqlite_each_has_the_outcome_of_the_page(
    etcd: EtcdProcess, tmp_path: Path
) -> None:
    async def settings_of(name: str) -> StorageSettings:
        settings = StorageSettings(url=f"sqlite:///{tmp_path}/{name.split()[0]}.db")
        store = await storage.open(settings, Runtime())
        await store.migrate()
        await store.close()
        return settings

    await play_all(etcd.endpoint, tmp_path, settings_of)
