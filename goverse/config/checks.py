"""What must hold of values that were understood: ranges, choices, pairs that belong together."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal

from goverse.config.addresses import parse_address
from goverse.config.faults import BadValue, Fault
from goverse.config.given import Given
from goverse.config.schema import Kind, keys
from goverse.config.settings import Settings
from goverse.config.values import format_duration, format_size, parse_capacity
from goverse.ids import NUM_SLOTS, check_id, check_member_name, check_type

Process = Literal["node", "gate"]

OFF = "off"
_LEVELS = ("debug", "info", "warning", "error")
_FORMATS = ("text", "json")
_SHUTDOWN_MODES = ("permanent", "restart")
_STRATEGIES = ("rendezvous", "count", "load")
_SCOPES = ("cluster", "shard", "node")

#: Durations for which none at all is a meaningful wish.
_MAY_BE_ZERO = (
    "cluster.stability_duration",
    "cluster.restart_grace",
    "cluster.rebalance_cooldown",
    "node.ready_grace",
    "node.drain_timeout",
    "node.move_timeout",
    "gate.shutdown_notice",
)


def check(
    settings: Settings,
    chosen: Mapping[str, Given],
    faulty: Collection[str],
    process: Process | None,
) -> list[Fault]:
    """Everything that is wrong. Keys in ``faulty`` were not understood: nothing is said of them."""
    checker = _Checker(settings, chosen, faulty)
    checker.ranges()
    checker.cluster()
    checker.members()
    checker.addresses(process)
    checker.storage()
    checker.limits()
    checker.words()
    checker.autoload()
    return checker.faults


class _Checker:
    def __init__(
        self, settings: Settings, chosen: Mapping[str, Given], faulty: Collection[str]
    ) -> None:
        self._settings = settings
        self._chosen = chosen
        self._faulty = faulty
        self.faults: list[Fault] = []

    def require(self, holds: bool, paths: tuple[str, ...], message: str, right: str) -> None:
        """Report ``message`` at the first of ``paths`` that was given, if it does not hold."""
        if holds or any(path in self._faulty for path in paths):
            return
        path = next((path for path in paths if path in self._chosen), paths[0])
        given = self._chosen.get(path)
        file, line = (given.file, given.raw.line) if given else ("", 0)
        self.faults.append(Fault(file, line, path, message, right))

    def attempt(self, path: str, parse: Callable[[str], object], text: str) -> None:
        """Report what ``parse`` says of ``text``, the value at ``path``."""
        try:
            parse(text)
        except BadValue as error:
            self.require(False, (path,), error.message, error.right)
        except ValueError as error:
            self.require(False, (path,), str(error), "")

    def ranges(self) -> None:
        for key in keys().values():
            value = key.get(self._settings)
            if key.kind is Kind.DURATION and key.path not in _MAY_BE_ZERO:
                self.require(value > 0, (key.path,), "must be longer than 0s", "")
            elif key.kind in (Kind.INTEGER, Kind.SIZE):
                self.require(value >= 1, (key.path,), f"{value} is below 1", "write 1 or more")
            elif key.kind is Kind.NUMBER:
                self.require(value > 0, (key.path,), f"{value} is not above 0", "")

    def cluster(self) -> None:
        cluster = self._settings.cluster
        shards = cluster.initial_num_shards
        self.require(
            (shards.bit_count() == 1 and shards <= NUM_SLOTS) or shards < 1,
            ("cluster.initial_num_shards",),
            f"{shards} is not a power of two up to {NUM_SLOTS}",
            f"the nearest is {_nearest_power(shards)}",
        )
        self.require(
            cluster.coordinator in ("etcd://", "memory://"),
            ("cluster.coordinator",),
            f"{cluster.coordinator!r} is no coordinator",
            "write etcd:// (its addresses go to cluster.etcd.endpoints) or memory://",
        )
        self.require(
            cluster.imbalance_threshold < 1,
            ("cluster.imbalance_threshold",),
            f"{cluster.imbalance_threshold} is not below 1",
            "write a part of a node's share, like 0.1",
        )
        if cluster.coordinator == "etcd://":
            ttl = format_duration(cluster.lease_ttl_s)
            self.require(
                cluster.lease_ttl_s >= 1 and cluster.lease_ttl_s % 1 == 0,
                ("cluster.lease_ttl",),
                f"{ttl} is not what etcd can count, which is whole seconds",
                "write 1s or more, without a fraction",
            )
            self.etcd()
        else:
            self.require(
                cluster.lease_ttl_s >= 1, ("cluster.lease_ttl",), "is below 1s", "write 1s or more"
            )

    def etcd(self) -> None:
        etcd = self._settings.cluster.etcd
        for endpoint in etcd.endpoints:
            self.attempt("cluster.etcd.endpoints", parse_address, endpoint)
        prefix = etcd.prefix
        self.require(
            prefix.startswith("/") and not prefix.endswith("/") and "//" not in prefix,
            ("cluster.etcd.prefix",),
            f"{prefix!r} is no prefix",
            "begin with a slash and end without one, like /goverse",
        )
        pair = ("cluster.etcd.username", "cluster.etcd.password")
        self.require(
            bool(etcd.username) == bool(etcd.password),
            pair,
            "needs the other of the two",
            "give user name and password",
        )
        pair = ("cluster.etcd.cert_file", "cluster.etcd.key_file")
        self.require(
            bool(etcd.cert_file) == bool(etcd.key_file),
            pair,
            "needs the other of the two",
            "give certificate and key",
        )
        self.require(
            bool(etcd.ca_file) or not etcd.cert_file,
            ("cluster.etcd.cert_file", "cluster.etcd.ca_file"),
            "is used with TLS only, which ca_file turns on",
            "give cluster.etcd.ca_file",
        )

    def members(self) -> None:
        for section, name in (("node", self._settings.node.id), ("gate", self._settings.gate.id)):
            if name:
                self.attempt(f"{section}.id", check_member_name, name)
        if "node.capacity" not in self._faulty:
            self.attempt("node.capacity", parse_capacity, self._settings.node.capacity)

    def addresses(self, process: Process | None) -> None:
        node, gate = self._settings.node, self._settings.gate
        if process != "gate":
            listening = {"node.listen": node.listen, "node.ops_listen": node.ops_listen}
            self.listening(listening, insecure=node.insecure)
            self.advertise("node.advertise", node.advertise)
        if process != "node":
            listening = {
                "gate.listen": gate.listen,
                "gate.http_listen": gate.http_listen,
                "gate.ops_listen": gate.ops_listen,
            }
            self.listening(listening, insecure=gate.insecure)
            self.advertise("gate.advertise", gate.advertise)

    def listening(self, places: Mapping[str, str], *, insecure: bool) -> None:
        section = next(iter(places)).partition(".")[0]
        taken: dict[int, str] = {}
        for path, text in places.items():
            if text == OFF and not path.endswith(".listen"):
                continue
            try:
                address = parse_address(text)
            except BadValue as error:
                self.require(False, (path,), error.message, error.right)
                continue
            self.require(
                insecure or address.is_loopback,
                (path, f"{section}.insecure"),
                f"{text} can be reached from other machines, and without TLS anybody there "
                "can call",
                f"listen on 127.0.0.1, or say --insecure ({section}.insecure: true) "
                "if you trust the network",
            )
            other = taken.setdefault(address.port, path) if address.port else path
            self.require(
                other == path,
                (path, other),
                f"{other} and {path} have the same port {address.port}",
                "give each its own",
            )

    def advertise(self, path: str, text: str) -> None:
        if not text:
            return
        try:
            address = parse_address(text, default_port=0)
        except BadValue as error:
            self.require(False, (path,), error.message, error.right)
            return
        self.require(
            not address.is_wildcard,
            (path,),
            f"{text} is not an address that others can connect to",
            "write the one that they reach this process by",
        )

    def storage(self) -> None:
        url = self._settings.storage.url
        if not url:
            return
        scheme, separator, rest = url.partition("://")
        self.require(
            bool(separator) and scheme.replace("+", "").isalnum(),
            ("storage.url",),
            "is no URL",
            "write one like postgresql://user@host:5432/database or sqlite:///path/to/file",
        )
        user, at, _ = rest.partition("/")[0].rpartition("@")
        # The URL is printed and logged; what is wrong here is therefore not repeated.
        self.require(
            not (at and ":" in user) and "password=" not in rest,
            ("storage.url",),
            "has a password in it",
            "write that to storage.password_file or GOVERSE_POSTGRES_PASSWORD",
        )

    def limits(self) -> None:
        limits = self._settings.limits
        self.require(
            limits.heartbeat_timeout_s > limits.heartbeat_interval_s,
            ("limits.heartbeat_timeout", "limits.heartbeat_interval"),
            f"a timeout of {format_duration(limits.heartbeat_timeout_s)} cannot be met by a "
            f"heartbeat every {format_duration(limits.heartbeat_interval_s)}",
            "make heartbeat_timeout longer than heartbeat_interval",
        )
        for small, low, large, high in (
            (
                "limits.max_chunk_bytes",
                limits.max_chunk_bytes,
                "limits.max_batch_bytes",
                limits.max_batch_bytes,
            ),
            (
                "limits.max_push_bytes",
                limits.max_push_bytes,
                "limits.max_push_queue_bytes",
                limits.max_push_queue_bytes,
            ),
            (
                "limits.max_payload_bytes",
                limits.max_payload_bytes,
                "limits.max_inflight_bytes",
                limits.max_inflight_bytes,
            ),
        ):
            self.require(
                low <= high,
                (small, large),
                f"{small} of {format_size(low)} is above {large} of {format_size(high)}",
                f"make {large} at least as large",
            )

    def words(self) -> None:
        for path, word, choices in (
            ("log.level", self._settings.log.level, _LEVELS),
            ("log.format", self._settings.log.format, _FORMATS),
            ("node.shutdown_mode", self._settings.node.shutdown_mode, _SHUTDOWN_MODES),
            ("cluster.strategy", self._settings.cluster.strategy, _STRATEGIES),
        ):
            right = f"write one of {', '.join(choices)}"
            self.require(word in choices, (path,), f"{word!r} is not known", right)

    def autoload(self) -> None:
        for number, row in enumerate(self._settings.objects.autoload):
            path = "objects.autoload"
            here = f"item {number}:"
            self.require(
                row.scope in _SCOPES,
                (path,),
                f"{here} scope {row.scope!r} is not known",
                f"write one of {', '.join(_SCOPES)}",
            )
            for what, test in (("type", check_type), ("name", check_id)):
                try:
                    test(getattr(row, what))
                except ValueError as error:
                    self.require(False, (path,), f"{here} {error}", f"give its {what}")


def _nearest_power(number: int) -> int:
    if number < 1:
        return 1
    below = 1 << (number.bit_length() - 1)
    nearest = below if number - below <= 2 * below - number else 2 * below
    return min(nearest, NUM_SLOTS)
