"""The operations listener over real sockets: probes, metrics, mounted routes, rude clients."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator

import httpx
import pytest

from goverse.errors import DeadlineExceeded, Executed, PermissionDenied
from goverse.observability import ops_http, ops_server
from goverse.observability.health import LoopWatchdog, Readiness
from goverse.observability.metrics import Metrics
from goverse.observability.ops_http import MAX_CONNECTIONS, Request, Response, Route
from goverse.observability.ops_server import OpsServer
from tests.support.eventually import eventually


class Clock:
    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


class Ops:
    """A listener with everything around it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.metrics = Metrics("n1")
        self.watchdog = LoopWatchdog(beat_s=0.01, now=self.clock)
        self.readiness: Readiness | None = Readiness(True, text="claimed 2048/2048")
        self.handled_in: list[int] = []
        self.never = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.server = OpsServer(
            "127.0.0.1:0",
            metrics=self.metrics,
            watchdog=self.watchdog,
            ready=self.ready,
            routes=[
                Route("POST", "/admin/v1/shards/{n}/pin", self.pin),
                Route("DELETE", "/admin/v1/shards/{n}/pin", self.unpin),
                Route("GET", "/slow", self.slow),
            ],
        )
        self.http = httpx.AsyncClient(timeout=20)

    def ready(self) -> Readiness:
        self.handled_in.append(threading.get_ident())
        if self.readiness is None:
            raise RuntimeError("no view yet")
        return self.readiness

    async def pin(self, request: Request) -> Response:
        self.handled_in.append(threading.get_ident())
        return Response.json(
            {
                "n": request.params["n"],
                "node": request.query.get("node"),
                "body": request.body.decode(),
                "token": request.headers.get("authorization"),
                "loopback": request.peer.startswith("127.0.0.1:"),
            }
        )

    async def unpin(self, request: Request) -> Response:
        match request.params["n"]:
            case "1":
                raise PermissionDenied("needs the token")
            case "2":
                raise DeadlineExceeded("etcd is silent", executed=Executed.UNKNOWN)
            case _:
                raise ZeroDivisionError

    async def slow(self, request: Request) -> Response:
        try:
            await self.never.wait()
        finally:
            self.cancelled.set()
        raise AssertionError

    async def get(self, path: str) -> httpx.Response:
        return await self.http.get(f"http://{self.server.address}{path}")

    def get_blocking(self, path: str) -> httpx.Response:
        """Ask from another thread while this one, the event loop's, does nothing else."""
        answers: list[httpx.Response] = []
        url = f"http://{self.server.address}{path}"
        thread = threading.Thread(target=lambda: answers.append(httpx.get(url, timeout=20)))
        thread.start()
        thread.join(20)
        return answers[0]

    def raw(self, data: bytes = b"") -> socket.socket:
        host, _, port = self.server.address.rpartition(":")
        connection = socket.create_connection((host, int(port)), timeout=10)
        connection.sendall(data)
        return connection

    def deaf(self, data: bytes) -> socket.socket:
        """A connection that has hardly any room for answers."""
        host, _, port = self.server.address.rpartition(":")
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(10)
        connection.connect((host, int(port)))
        connection.sendall(data)
        return connection

    async def exchange(self, data: bytes) -> bytes:
        """Send, and read until the other side closes."""

        def talk() -> bytes:
            with self.raw(data) as connection:
                answer = b""
                while piece := connection.recv(65536):
                    answer += piece
            return answer

        return await asyncio.to_thread(talk)


@pytest.fixture
async def ops() -> AsyncIterator[Ops]:
    ops = Ops()
    ops.watchdog.start()
    await ops.server.start()
    yield ops
    await ops.http.aclose()
    await ops.server.close()
    ops.watchdog.stop()


async def test_healthz_ready_and_metrics(ops: Ops) -> None:
    health = await ops.get("/healthz")
    assert (health.status_code, health.text) == (200, "ok\n")
    ready = await ops.get("/ready")
    assert (ready.status_code, ready.text) == (200, "ready\nclaimed 2048/2048\n")
    ops.metrics.links.watch(lambda: 3)
    metrics = await ops.get("/metrics")
    assert metrics.status_code == 200
    assert metrics.headers["content-type"].startswith("text/plain; version=")
    assert "goverse_links 3.0" in metrics.text
    assert "goverse_loop_lag_seconds" in metrics.text
    assert "process_cpu_seconds_total" in metrics.text


async def test_L23_readiness_never_latches(ops: Ops) -> None:
    for ready in (True, False, True, False):
        ops.readiness = Readiness(ready, () if ready else ("lease lost",))
        answer = await ops.get("/ready")
        assert answer.status_code == (200 if ready else 503)
        assert ("- lease lost" in answer.text) is not ready
    assert set(ops.handled_in) == {threading.get_ident()}, "asked in the main loop's thread"


async def test_L23_a_stuck_event_loop_turns_health_and_readiness_red(
    ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops_server, "ANSWER_TIMEOUT_S", 0.1)
    ops.metrics.links.watch(lambda: 3)
    ops.clock.time += 60
    # Nothing is awaited here: the loop is stuck, as in a method that blocks it.
    health = ops.get_blocking("/healthz")
    assert health.status_code == 503
    assert "stuck for 60.0 s" in health.text
    ready = ops.get_blocking("/ready")
    assert ready.status_code == 503
    assert "the event loop does not answer" in ready.text
    metrics = ops.get_blocking("/metrics")
    assert metrics.status_code == 200
    assert "goverse_loop_lag_seconds 59.99" in metrics.text
    assert "goverse_links" not in metrics.text.replace("goverse_links_", "")

    await eventually(lambda: ops.watchdog.report().healthy)
    assert (await ops.get("/healthz")).status_code == 200
    assert (await ops.get("/ready")).status_code == 200


async def test_L24_a_dashboard_that_does_not_read_stalls_nothing(ops: Ops) -> None:
    """More is to be sent than the kernel takes, so a server that waited would be seen to wait."""
    for number in range(900):
        ops.metrics.turn_seconds.observe(0.01, f"{'Type' * 200}{number}", "add", "ok")
    rude = [ops.deaf(b"GET /metrics HTTP/1.1\r\nhost: x\r\n\r\n") for _ in range(3)]

    def unsent() -> int:
        connections = ops.server._connections
        assert connections is not None
        transports = [connection._transport for connection in list(connections._open)]
        return sum(t is not None and t.get_write_buffer_size() > 0 for t in transports)

    try:
        await eventually(lambda: unsent() == len(rude))
        for _ in range(5):
            assert (await ops.get("/healthz")).status_code == 200
            assert (await ops.get("/ready")).status_code == 200
    finally:
        for connection in rude:
            connection.close()


async def test_a_readiness_that_fails_is_not_ready(
    ops: Ops, caplog: pytest.LogCaptureFixture
) -> None:
    ops.readiness = None
    answer = await ops.get("/ready")
    assert (answer.status_code, answer.text.splitlines()[0]) == (503, "not ready")
    assert "no view yet" in caplog.text


async def test_routes_run_in_the_main_loop_with_what_the_path_says(ops: Ops) -> None:
    answer = await ops.http.post(
        f"http://{ops.server.address}/admin/v1/shards/4%2F2/pin?node=n2&x=",
        content=b"hello",
        headers={"Authorization": "Bearer t"},
    )
    assert answer.status_code == 200
    assert answer.json() == {
        "n": "4/2",
        "node": "n2",
        "body": "hello",
        "token": "Bearer t",
        "loopback": True,
    }
    assert ops.handled_in == [threading.get_ident()]


async def test_errors_are_problems_with_their_code(ops: Ops) -> None:
    url = f"http://{ops.server.address}/admin/v1/shards/{{}}/pin"
    denied = await ops.http.delete(url.format(1))
    assert denied.status_code == 403
    assert denied.headers["content-type"] == "application/problem+json"
    assert denied.json()["code"] == "permission_denied"
    assert denied.json()["executed"] == "no"
    silent = await ops.http.delete(url.format(2))
    assert silent.status_code == 504
    assert silent.json()["executed"] == "unknown"
    broken = await ops.http.delete(url.format(3))
    assert (broken.status_code, broken.text) == (500, "internal error\n")


async def test_a_route_that_does_not_end_is_cancelled(
    ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops_server, "ROUTE_TIMEOUT_S", 0.05)
    answer = await ops.get("/slow")
    assert answer.status_code == 504
    await eventually(ops.cancelled.is_set)


async def test_unknown_paths_and_methods_say_what_there_is(ops: Ops) -> None:
    answer = await ops.get("/")
    assert answer.status_code == 404
    assert "/healthz, /ready, /metrics, /admin/v1/shards/{n}/pin" in answer.text
    answer = await ops.get("/admin/v1/shards/1/pin")
    assert answer.status_code == 405
    assert "takes POST, DELETE" in answer.text
    assert (await ops.get("/admin/v1/shards/1/2/pin")).status_code == 404
    assert (await ops.http.post(f"http://{ops.server.address}/healthz")).status_code == 404


async def test_a_web_page_changes_nothing(ops: Ops) -> None:
    url = f"http://{ops.server.address}/admin/v1/shards/1/pin"
    answer = await ops.http.post(url, headers={"Origin": "https://evil.example"})
    assert answer.status_code == 403
    assert ops.handled_in == []


async def test_head_has_no_body(ops: Ops) -> None:
    answer = await ops.exchange(b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"content-length: 3" in head
    assert body == b""


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", b"400"),  # TLS
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"400"),  # gRPC
        (b"hello\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n bad\r\n\r\n", b"400"),
        (b"POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n", b"400"),
        (b"GET /" + b"x" * 70_000 + b" HTTP/1.1\r\n\r\n", b"413"),
        (b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 20_000, b"413"),
        (b"POST / HTTP/1.1\r\ncontent-length: 99999\r\n\r\n" + b"x" * 70_000, b"413"),
        (b"GET /healthz HTTP/1.1\r\n\r\nGET /healthz HTTP/1.1\r\n\r\n", b"200"),
    ],
)
async def test_what_is_no_request_is_refused_and_closed(
    ops: Ops, data: bytes, status: bytes
) -> None:
    try:
        answer = await ops.exchange(data)
    except ConnectionResetError:
        answer = status  # closed with more in the pipe: the refusal itself may be lost
    assert status in answer.split(b"\r\n")[0] or answer == status
    assert answer.count(b"connection: close") <= 1
    assert (await ops.get("/healthz")).status_code == 200


async def test_a_request_that_never_ends_is_given_up(
    ops: Ops, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ops_http, "REQUEST_TIMEOUT_S", 0.05)
    answer = await ops.exchange(b"GET /healthz HTTP/1.1\r\nhost:")
    assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_crowd_of_silent_connections_keeps_no_probe_out(ops: Ops) -> None:
    crowd = [ops.raw(b"GET /") for _ in range(MAX_CONNECTIONS + 20)]
    try:
        for _ in range(10):
            assert (await ops.get("/healthz")).status_code == 200
    finally:
        for connection in crowd:
            connection.close()


async def test_an_address_in_use_fails_the_start(ops: Ops) -> None:
    second = OpsServer(
        ops.server.address, metrics=Metrics(), watchdog=ops.watchdog, ready=ops.ready
    )
    with pytest.raises(OSError, match="address already in use"):
        await second.start()
    await second.close()


async def test_closing_ends_the_thread_and_cuts_what_is_open(ops: Ops) -> None:
    with ops.raw(b"GET /") as connection:
        await eventually(lambda: "goverse-ops" in [t.name for t in threading.enumerate()])
        await ops.server.close()
        assert "goverse-ops" not in [thread.name for thread in threading.enumerate()]
        with pytest.raises(ConnectionResetError):
            if connection.recv(1) == b"":
                raise ConnectionResetError
    with pytest.raises(OSError):
        ops.raw()
    await ops.server.close()
