"""What every command shares: its options, and the node that answers it."""

from __future__ import annotations

import asyncio
import functools
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import click

from goverse.admin.api import Admin, ClusterStatus
from goverse.cluster.state import ClusterState
from goverse.errors import GoverseError, Unavailable
from goverse.security.operators import TokenFileError, read_token
from goverse_cli.exits import CliError, Exit, as_cli_error
from goverse_cli.output import FORMATS, note

DEFAULT_SERVER = "localhost:48000"
DEFAULT_ETCD = "localhost:2379"
DEFAULT_TIMEOUT_S = 10.0

# Finding out that a node does not answer must leave time for the next one.
_PROBE_S = 2.0

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Remote(Admin, Protocol):
    """An `Admin` behind a connection."""

    async def close(self) -> None: ...


class Directory(Protocol):
    """What etcd knows, for when nodes must be found or none answers."""

    async def node_addresses(self) -> Sequence[str]:
        """Raises Unavailable."""
        ...

    async def get_status(self) -> ClusterStatus:
        """What can be answered from etcd alone. Raises Unavailable."""
        ...

    async def read_state(self) -> ClusterState:
        """All of the cluster's keys. Raises Unavailable."""
        ...

    async def close(self) -> None: ...


@dataclass
class Outside:
    """What the commands reach for; tests hand in their own."""

    connect: Callable[[str, str, float], Awaitable[Remote]]
    """Address, token, timeout in seconds. Raises Unavailable when nobody answers."""

    directory: Callable[[Sequence[str], str, float], Awaitable[Directory]]
    """Endpoints of etcd and prefix (empty: as configured), timeout in seconds."""


@dataclass
class Options:
    """The options that every command takes, wherever they stand on the line."""

    outside: Outside
    environ: Mapping[str, str] = field(default_factory=dict)
    server: str = ""
    etcd_endpoints: tuple[str, ...] = ()
    etcd_prefix: str = ""
    output: str = "table"
    timeout_s: float = DEFAULT_TIMEOUT_S
    timeout_given: bool = False
    token_file: str = ""

    def patience_s(self, default_s: float) -> float:
        """The timeout of a command that does long work: as given, or its own default."""
        return self.timeout_s if self.timeout_given else default_s

    @property
    def token(self) -> str:
        try:
            return read_token(self.token_file) if self.token_file else ""
        except TokenFileError as error:
            raise CliError(str(error), Exit.USAGE) from error

    def where(self) -> tuple[str, tuple[str, ...]]:
        """A node's address or etcd's endpoints, as told. An option on the line wins over the
        environment, and a node over etcd; both empty: nothing was told."""
        if self.server or self.etcd_endpoints:
            return self.server, self.etcd_endpoints
        return self._from_environment(Address(), "GOVERSE_SERVER"), self.endpoints()

    def endpoints(self) -> tuple[str, ...]:
        """etcd's endpoints, as told; empty: its default place."""
        if self.etcd_endpoints:
            return self.etcd_endpoints
        found: tuple[str, ...] = self._from_environment(Endpoints(), "GOVERSE_ETCD_ENDPOINTS")
        return found

    def _from_environment(self, kind: Any, name: str) -> Any:
        try:
            return kind.convert(self.environ.get(name, ""), None, None)
        except click.BadParameter as error:
            raise CliError(f"{name}: {error.message}", Exit.USAGE) from error

    @asynccontextmanager
    async def admin(self) -> AsyncIterator[Admin]:
        """The first node that answers: the one told, else those registered in the etcd told,
        else this machine's default node, else those registered in etcd at its default place."""
        remote = await self._find()
        try:
            yield remote
        finally:
            await remote.close()

    async def _find(self) -> Remote:
        server, endpoints = self.where()
        if server:
            return await self._connect(server)
        tried: list[str] = []
        if not endpoints:
            try:
                return await self._connect(DEFAULT_SERVER)
            except Unavailable:
                tried.append(DEFAULT_SERVER)
        async with self.etcd() as directory:
            try:
                addresses = await directory.node_addresses()
            except Unavailable as error:
                tried.append(f"etcd ({error.message})")
                addresses = ()
        for address in addresses:
            try:
                return await self._connect(address)
            except Unavailable:
                tried.append(address)
        raise CliError(
            f"no node answers; tried {', '.join(tried) or 'etcd, which lists none'}",
            Exit.UNAVAILABLE,
            "start one (goverse-cli dev app.py), or say where it is: --server host:port, "
            "GOVERSE_SERVER, or --etcd-endpoints",
        )

    async def _connect(self, address: str) -> Remote:
        return await self.outside.connect(address, self.token, min(self.timeout_s, _PROBE_S))

    @asynccontextmanager
    async def node(self, address: str) -> AsyncIterator[Admin]:
        """The node at ``address`` and no other."""
        remote = await self._connect(address)
        try:
            yield remote
        finally:
            await remote.close()

    @asynccontextmanager
    async def etcd(self, endpoints: Sequence[str] | None = None) -> AsyncIterator[Directory]:
        """etcd as it was told, or at ``endpoints``."""
        directory = await self.outside.directory(
            self.endpoints() if endpoints is None else endpoints,
            self.etcd_prefix,
            min(self.timeout_s, _PROBE_S),
        )
        try:
            yield directory
        finally:
            await directory.close()


class Seconds(click.ParamType):  # type: ignore[type-arg]
    """A duration with a unit: 500ms, 10s, 2m."""

    name = "duration"
    _FORM = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m)")
    _UNITS: ClassVar[dict[str, float]] = {"ms": 0.001, "s": 1.0, "m": 60.0}

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        form = self._FORM.fullmatch(str(value))
        seconds = float(form[1]) * self._UNITS[form[2]] if form else 0.0
        if not 0 < seconds <= 86_400:
            raise click.BadParameter(
                f"{value!r} is not a duration; write 10s, 500ms or 2m", ctx, param
            )
        return seconds


class Endpoints(click.ParamType):  # type: ignore[type-arg]
    """host:port, several separated by commas."""

    name = "host:port,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        parts = tuple(part.strip() for part in value.split(",") if part.strip())
        for part in parts:
            check_address(part, param, ctx)
        return parts


class Address(click.ParamType):  # type: ignore[type-arg]
    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return check_address(value, param, ctx) if value else ""


def check_address(
    value: str, param: click.Parameter | None = None, ctx: click.Context | None = None
) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65_536:
        raise click.BadParameter(f"{value!r} is not host:port", ctx, param)
    return value


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """Store an option that was given; the innermost place on the line wins."""
    options = ctx.find_object(Options)
    if value is not None and options is not None and not ctx.resilient_parsing:
        setattr(options, str(param.name), value)
        options.timeout_given |= param.name == "timeout_s"


_SHARED = (
    (("--server",), Address(), "Ask this node. [env: GOVERSE_SERVER]"),
    (
        ("--etcd-endpoints",),
        Endpoints(),
        "Find a node in this etcd. [env: GOVERSE_ETCD_ENDPOINTS]",
    ),
    (("--etcd-prefix",), click.STRING, "Prefix of the cluster's keys. [env: GOVERSE_ETCD_PREFIX]"),
    (("-o", "--output"), click.Choice(FORMATS), "table (for people), json or yaml."),
    (("--timeout", "timeout_s"), Seconds(), "Longest wait, with a unit (default 10s)."),
    (
        ("--token-file",),
        click.Path(dir_okay=False),
        "File with the operators' token, mode 0600.",
    ),
)


def shared_options(command: F) -> F:
    """Add the options that every command has, before or after its name."""
    for names, type, help in reversed(_SHARED):
        option = click.option(*names, type=type, callback=_keep, expose_value=False, help=help)
        command = option(command)
    return command


def run_async(command: Callable[..., Coroutine[Any, Any, T]]) -> Callable[..., T]:
    """Make a click callback of a coroutine function; its errors become messages and exit codes."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> T:
        options = click.get_current_context().find_object(Options)
        assert options is not None
        try:
            return asyncio.run(command(options, *args, **kwargs))
        except GoverseError as error:
            raise as_cli_error(error) from error

    return run


def warn(text: str) -> None:
    note(f"Warning: {text}")
