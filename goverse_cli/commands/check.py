"""``check``: the doctor."""

from __future__ import annotations

import asyncio
import sys

import click

from goverse.admin.api import Admin
from goverse.cluster.records import MemberRecord
from goverse.cluster.state import ClusterState
from goverse.errors import GoverseError, NotImplementedYet, Unavailable
from goverse_cli import doctor
from goverse_cli.doctor import EndpointFacts, Finding, NodeFacts
from goverse_cli.doctor_state import check_state
from goverse_cli.exits import Exit
from goverse_cli.output import emit, rows
from goverse_cli.session import DEFAULT_ETCD, DEFAULT_SERVER, Options, run_async, shared_options

#: Nodes that are asked at a time.
_AT_ONCE = 16


@click.command()
@shared_options
@run_async
async def check(options: Options) -> None:
    """Look for what is wrong with a cluster, and say what to do about it.

    Asks every endpoint of etcd (--etcd-endpoints, GOVERSE_ETCD_ENDPOINTS, else localhost:2379)
    and every registered node. Changes nothing. Each line is ok, warn or fail; the exit status
    is 9 if a line says fail.

    \b
    Examples:
      goverse-cli check
      goverse-cli check --etcd-endpoints etcd-1:2379,etcd-2:2379
      goverse-cli check -o json | jq '.[] | select(.level != "ok")'
    """
    findings = await _examine(options)
    emit(
        options.output,
        findings,
        lambda: rows(
            ("", "check", "finding", "what to do"),
            ((f.level, f.check, f.message, f.hint) for f in findings),
        ),
    )
    if doctor.worst(findings) == doctor.FAIL:
        sys.exit(Exit.UNHEALTHY)


async def _examine(options: Options) -> list[Finding]:
    endpoints = options.endpoints() or (DEFAULT_ETCD,)
    asked = await asyncio.gather(*(_ask_etcd(options, endpoint) for endpoint in endpoints))
    findings = list(doctor.check_etcd(asked))
    states = [facts.state for facts in asked if facts.state is not None]
    if not states:
        # Development mode in one process has no etcd: its node can be asked all the same.
        return findings if options.endpoints() else [*findings, *await _ask_default(options)]
    state = max(states, key=lambda found: found.revision)
    findings += check_state(state)
    findings += doctor.check_nodes(await _ask_nodes(options, state), state)
    return findings


async def _ask_etcd(options: Options, endpoint: str) -> EndpointFacts:
    started = asyncio.get_running_loop().time()
    try:
        async with options.etcd((endpoint,)) as directory:
            state = await directory.read_state()
    except Unavailable as error:
        return EndpointFacts(endpoint=endpoint, error=error.message)
    took_s = asyncio.get_running_loop().time() - started
    return EndpointFacts(endpoint=endpoint, state=state, took_s=took_s)


async def _ask_default(options: Options) -> list[Finding]:
    """What can be said without etcd: what the node that was told, or the default one, answers."""
    address = options.where()[0] or DEFAULT_SERVER
    facts = await _ask_node(options, address, address)
    return list(doctor.check_nodes([facts], None)) if facts.status is not None else []


async def _ask_nodes(options: Options, state: ClusterState) -> list[NodeFacts]:
    turnstile = asyncio.Semaphore(_AT_ONCE)

    async def ask(record: MemberRecord) -> NodeFacts:
        async with turnstile:
            return await _ask_node(options, record.member.name, record.address)

    return list(await asyncio.gather(*map(ask, doctor.nodes_of(state))))


async def _digest(admin: Admin) -> str:
    """Of the types that the node hosts; empty if it is too old to say."""
    try:
        return (await admin.describe_types()).digest
    except NotImplementedYet:
        return ""


async def _ask_node(options: Options, name: str, address: str) -> NodeFacts:
    try:
        async with asyncio.timeout(options.timeout_s), options.node(address) as admin:
            status = await admin.get_status()
            return NodeFacts(name=name, status=status, types_digest=await _digest(admin))
    except GoverseError as error:
        return NodeFacts(name=name, error=error.message)
    except TimeoutError:
        return NodeFacts(name=name, error=f"no answer within {options.timeout_s:g} s")
