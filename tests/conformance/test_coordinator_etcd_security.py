"""etcd with TLS and with users."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest
from aetcd import rpc

from goverse.aio.runtime import Runtime
from goverse.config.settings import EtcdSettings
from goverse.coordination import CoordinatorUnavailable, Put
from goverse.coordination.etcd import EtcdCoordinator
from goverse.coordination.supervised import free_port
from goverse.testing.conformance.coordinator import View
from tests.support.certificates import Authority
from tests.support.etcd import Etcd, etcd_options
from tests.support.eventually import eventually


async def test_tls_with_client_certificates(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "certificates")
    ours, theirs = authority.issue("client"), authority.issue("server")
    options = etcd_options("3.4", tmp_path / "etcd")
    port = free_port()
    server = Etcd(
        replace(
            options,
            client_port=port,
            arguments=(
                f"--cert-file={theirs.certificate}",
                f"--key-file={theirs.key}",
                f"--trusted-ca-file={authority.pair.certificate}",
                "--client-cert-auth",
                f"--listen-client-urls=https://127.0.0.1:{port}",
                f"--advertise-client-urls=https://127.0.0.1:{port}",
            ),
        )
    )
    server.spawn()
    settings = EtcdSettings(
        endpoints=(server.endpoint,),
        ca_file=str(authority.pair.certificate),
        cert_file=str(ours.certificate),
        key_file=str(ours.key),
    )
    client = EtcdCoordinator(settings, Runtime())
    try:
        view = View(client.watch("/goverse/"))
        await view.advance()
        lease = await client.grant(2)
        result = await client.transact([], [Put("/goverse/a", b"1", lease.id)])
        await view.reach(lambda: view.revision == result.revision)
        deadline = lease.deadline
        await eventually(lambda: lease.deadline > deadline + 2)

        missing = str(tmp_path / "missing.pem")
        for wrong, said in (
            (replace(settings, ca_file=""), "no answer from etcd"),
            (replace(settings, cert_file="", key_file=""), "no answer from etcd"),
            (replace(settings, ca_file=missing), r"missing\.pem"),
        ):
            other = EtcdCoordinator(replace(wrong, operation_timeout_s=1), Runtime())
            with pytest.raises(CoordinatorUnavailable, match=said):
                await other.get("/goverse/a")
            await other.close()
    finally:
        await client.close()
        await server.kill()


@pytest.fixture
async def guarded(tmp_path: Path) -> AsyncIterator[Etcd]:
    """An etcd whose user `goverse` may do everything below /goverse/ and nothing else."""
    server = Etcd(etcd_options("3.4", tmp_path / "etcd"))
    await server.start()
    async with grpc.aio.insecure_channel(server.endpoint) as channel:
        auth = rpc.AuthStub(channel)
        for name in ("root", "goverse"):
            await auth.UserAdd(rpc.AuthUserAddRequest(name=name, password=f"{name}-secret"))
            await auth.RoleAdd(rpc.AuthRoleAddRequest(name=name))
            await auth.UserGrantRole(rpc.AuthUserGrantRoleRequest(user=name, role=name))
        permission = rpc.Permission(permType=2, key=b"/goverse/", range_end=b"/goverse0")
        await auth.RoleGrantPermission(
            rpc.AuthRoleGrantPermissionRequest(name="goverse", perm=permission)
        )
        await auth.AuthEnable(rpc.AuthEnableRequest())
    yield server
    await server.kill()


def settings_for(server: Etcd, password: str = "goverse-secret") -> EtcdSettings:
    return EtcdSettings(
        endpoints=(server.endpoint,),
        username="goverse",
        password=password,
        operation_timeout_s=10,
    )


async def test_a_user_with_rights_on_the_prefix_alone(guarded: Etcd) -> None:
    client = EtcdCoordinator(settings_for(guarded), Runtime())
    view = View(client.watch("/goverse/"))
    await view.advance()
    lease = await client.grant(2)
    result = await client.transact([], [Put("/goverse/a", b"1", lease.id)])
    await view.reach(lambda: view.revision == result.revision)
    assert (await client.transact([], [])).succeeded
    deadline = lease.deadline
    await eventually(lambda: lease.deadline > deadline + 2)
    with pytest.raises(CoordinatorUnavailable, match="permission denied"):
        await client.get("/other")
    await client.close()


async def test_tokens_are_asked_for_again(guarded: Etcd) -> None:
    """A restarted member has forgotten its tokens."""
    client = EtcdCoordinator(settings_for(guarded), Runtime())
    view = View(client.watch("/goverse/"))
    await view.advance()
    lease = await client.grant(5)
    await client.transact([], [Put("/goverse/a", b"1", lease.id)])
    await guarded.stop()
    guarded.spawn()
    result = None
    while result is None:
        try:
            result = await client.transact([], [Put("/goverse/a", b"2", lease.id)])
        except CoordinatorUnavailable:
            continue
    async with asyncio.timeout(10):
        await view.reach(lambda: view.revision >= result.revision)
    deadline = lease.deadline
    await eventually(lambda: lease.deadline > deadline + 1)
    await client.close()


@pytest.mark.parametrize("password", ["wrong", ""])
async def test_a_wrong_password_is_named(guarded: Etcd, password: str) -> None:
    settings = replace(settings_for(guarded, password), operation_timeout_s=1)
    client = EtcdCoordinator(settings, Runtime())
    with pytest.raises(CoordinatorUnavailable, match=r"authentication failed|password"):
        await client.get("/goverse/a")
    await client.close()
