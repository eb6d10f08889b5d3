"""The proxy of these tests does what its description says."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator

import pytest

from tests.support.proxy import Proxy


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        while data := self.request.recv(100):
            self.request.sendall(data)


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Echo) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        host, port = server.server_address[:2]
        proxy = Proxy(f"{host!s}:{port}").start()
        yield proxy
        proxy.close()
        server.shutdown()


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=10)


def test_a_cut_ends_what_carried_nothing_meanwhile(proxy: Proxy) -> None:
    """A cut that lasted less than it took to carry a byte once had not taken place."""
    with _connect(proxy) as before:
        before.sendall(b"a")
        assert before.recv(1) == b"a"
        proxy.cut()
        proxy.heal()
        before.sendall(b"b")
        with _connect(proxy) as after:
            for _ in range(10):
                after.sendall(b"c")
                assert after.recv(1) == b"c"
        before.setblocking(False)
        with pytest.raises(BlockingIOError):
            before.recv(1)
