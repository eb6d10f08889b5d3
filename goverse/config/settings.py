"""Every setting: one class per concern, one docstring per field.

Attributes ending in ``_s`` are seconds; in YAML and in the environment the same key is written
without the suffix and with a unit (``lease_ttl: 10s``). Attributes ending in ``_bytes`` keep their
name and may have a unit (``max_payload_bytes: 64MiB``). Loading is in `goverse.config.load`.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class EtcdSettings:
    """How to reach etcd."""

    endpoints: tuple[str, ...] = ("localhost:2379",)
    """host:port of every member; all of them are tried."""

    prefix: str = "/goverse"
    """All keys of this cluster live below it."""

    username: str = ""
    """User name, where etcd has authentication switched on."""

    password: str = field(default="", repr=False, metadata={"secret": True})
    """Its password."""

    ca_file: str = ""
    """PEM file with the authorities that etcd's certificate is checked against; turns TLS on."""

    cert_file: str = ""
    """PEM file with this process's certificate, where etcd asks for one."""

    key_file: str = ""
    """PEM file with the key of that certificate."""

    operation_timeout_s: float = 60.0
    """Longest wait for one operation."""


@dataclass(frozen=True, kw_only=True)
class ClusterSettings:
    """What nodes and gates must agree on."""

    coordinator: str = "etcd://"
    """Backend by URL scheme: ``etcd://`` (see ``etcd``) or ``memory://`` (one process only)."""

    etcd: EtcdSettings = field(default_factory=EtcdSettings)
    """How to reach etcd."""

    initial_num_shards: int = 8192
    """Shards of a cluster made by this process: a power of two up to 65,536. An existing cluster
    keeps its own."""

    lease_ttl_s: float = 10.0
    """How long a member that fell silent keeps its shards."""

    stability_duration_s: float = 5.0
    """How long membership must be unchanged before the first plan and before moves for balance."""

    strategy: str = "rendezvous"
    """How the leader places shards: rendezvous (by the nodes' names), count (as many for each node
    as its capacity says) or load (as much load)."""

    imbalance_threshold: float = 0.1
    """How far from its share a node may be, as a part of it, before count and load move shards."""

    rebalance_batch_size: int = 256
    """How many shards may be moving for balance at one time."""

    rebalance_per_s: float = 1_000.0
    """How many shards may begin to move for balance each second."""

    rebalance_cooldown_s: float = 30.0
    """How long a shard that count or load has moved for balance is left where it is."""

    load_interval_s: float = 5.0
    """How often the leader asks every node for its load, with strategy load."""

    stuck_after_s: float = 10.0
    """How long a shard may be on its way before it is reported as stuck and planned around; never
    shorter than ``lease_ttl``."""

    max_unclaimed: int = 3
    """How many shards a node may leave unclaimed for ``stuck_after`` before it is given none."""

    stuck_pause_s: float = 60.0
    """How long it is given none; twice as long each time it happens again, up to sixteen times."""

    restart_grace_s: float = 30.0
    """How long the shards of a node that stopped for a restart wait for it."""

    loop_stall_limit_s: float = 10.0
    """How long the event loop may hang before this process stops renewing its lease."""


@dataclass(frozen=True, kw_only=True)
class NodeSettings:
    """One node process."""

    id: str = ""
    """Name of this node; empty: POD_NAME, else hostname and port."""

    listen: str = "127.0.0.1:48000"
    """Where links and the admin service are served."""

    advertise: str = ""
    """host:port that others reach it by; empty: POD_IP, else the listen address, or the host's name
    where that is every address."""

    ops_listen: str = "127.0.0.1:48001"
    """Where health, readiness and metrics are served; ``off`` for nowhere."""

    capacity: str = "auto"
    """Share of the shards relative to other nodes: a number, or auto for the processors that this
    process may use, by its quota and affinity."""

    ready_grace_s: float = 10.0
    """How long a shard may be targeted here and unclaimed before the node is not ready."""

    drain_timeout_s: float = 2.0
    """How long a closing shard waits for running turns."""

    latch_max_hold_s: float = 30.0
    """How long a turn may run on while its shard is wanted elsewhere. Until then a move that its
    turns hold up is called off and tried again; then they are cancelled, and what does not end is
    cut off."""

    latch_warn_after_s: float = 1.0
    """How long a turn may hold up the move of its shard before the log names it."""

    move_timeout_s: float = 5.0
    """How long a closing shard waits for the state of its volatile objects to reach its next node;
    0: it stays behind."""

    shutdown_mode: str = "permanent"
    """What a stopping node does with its shards: permanent (others take them first) or restart
    (they wait for it to come back, for ``cluster.restart_grace``)."""

    shutdown_timeout_s: float = 20.0
    """How long a stopping node may take to give up its shards."""

    insecure: bool = False
    """Allow listening beyond loopback without TLS."""


@dataclass(frozen=True, kw_only=True)
class GateSettings:
    """One gate process."""

    id: str = ""
    """Name of this gate; empty: POD_NAME, else hostname and port."""

    listen: str = "127.0.0.1:49000"
    """Where client sessions and gate.GateService are served."""

    advertise: str = ""
    """host:port that others reach it by; empty: POD_IP, else the listen address, or the host's name
    where that is every address."""

    http_listen: str = "127.0.0.1:8080"
    """Where HTTP is served; ``off`` for nowhere."""

    ops_listen: str = "127.0.0.1:49001"
    """Where health, readiness and metrics are served; ``off`` for nowhere."""

    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may call over HTTP, such as https://app.example; ``*`` is all."""

    event_heartbeat_s: float = 15.0
    """How often an event stream says that it is alive when there is nothing else to say."""

    resume_grace_s: float = 30.0
    """How long a client whose event stream broke keeps its id, and what is pushed to it."""

    shutdown_timeout_s: float = 10.0
    """How long a stopping gate lets the calls end that its clients have made."""

    shutdown_notice_s: float = 3.0
    """How long a stopping gate goes on answering over HTTP, each time as the last on a connection;
    less if no connection is left before; 0: it ends those that are idle at once."""

    insecure: bool = False
    """Allow listening beyond loopback without TLS."""


@dataclass(frozen=True, kw_only=True)
class StorageSettings:
    """Where objects and reliable calls are kept."""

    url: str = ""
    """Backend by URL scheme: postgresql://user@host:5432/database,
    mysql://user@host:3306/database (MariaDB), cockroachdb:// (untested), sqlite:///path/to/file,
    memory:// (one process only, gone with it), or another that is installed; empty: none, and only
    volatile objects. Never with a password."""

    password: str = field(default="", repr=False, metadata={"secret": True})
    """The password of the URL's user."""

    max_connections: int = 4
    """Connections of one process that carry objects and calls. Two more raise fences."""

    connect_timeout_s: float = 5.0
    """Longest wait for a connection to the store."""

    operation_timeout_s: float = 10.0
    """Longest wait for one transaction or read."""


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """Deadlines and sizes; every queue, buffer and wait has one."""

    default_call_timeout_s: float = 30.0
    """Deadline of a call whose caller states none."""

    default_create_timeout_s: float = 10.0
    """Deadline of a create whose caller states none."""

    default_delete_timeout_s: float = 10.0
    """Deadline of a delete whose caller states none."""

    connection_timeout_s: float = 30.0
    """Longest wait for a connection to be made."""

    heartbeat_interval_s: float = 1.0
    """How often a link says that it is alive."""

    heartbeat_timeout_s: float = 3.0
    """A link that was silent this long is dead."""

    max_payload_bytes: int = 64 * 1024 * 1024
    """Largest encoded arguments or result."""

    max_chunk_bytes: int = 256 * 1024
    """Payloads above this travel in chunks of this size."""

    max_batch_bytes: int = 1024 * 1024
    """Largest message of a link, except for a single chunk."""

    max_inflight_calls: int = 65_536
    """Calls that wait for their reply on one link between members."""

    max_inflight_bytes: int = 256 * 1024 * 1024
    """Bytes of calls and replies in flight on one link."""

    max_session_calls: int = 8_192
    """Calls of one client session that wait for their reply."""

    max_sessions: int = 10_000
    """Clients of one gate: sessions and event streams."""

    max_waiting_calls: int = 65_536
    """Calls of one process that wait for a shard to have an owner."""

    max_mailbox_calls: int = 16_384
    """Calls that wait for their turn on one object."""

    max_push_bytes: int = 256 * 1024
    """Largest encoded message that an object may push to clients."""

    max_push_messages: int = 1_024
    """Messages that wait for one client, at its gate and again in the client itself."""

    max_push_queue_bytes: int = 4 * 1024 * 1024
    """Bytes of the messages that wait for one client at its gate."""

    max_uncommitted_turns: int = 4_096
    """Turns of one durable object that wait to be committed."""

    max_uncommitted_bytes: int = 256 * 1024 * 1024
    """State and results of one node that wait to be committed."""

    max_state_bytes: int = 8 * 1024 * 1024
    """Largest encoded state of a durable object, and of a volatile one that moves along with its
    shard."""

    max_moved_bytes: int = 256 * 1024 * 1024
    """State that has come to one node with shards and that nobody has called for yet."""

    max_reliable_calls: int = 65_536
    """Reliable calls of one node that are being accepted, wait for their turn, or run."""

    max_reliable_bytes: int = 256 * 1024 * 1024
    """Their arguments."""

    max_delayed_calls: int = 65_536
    """Delayed calls of one node in memory: the ids of those that are due next."""

    max_missed_ticks: int = 100_000
    """Missed ticks of one repeated call that are run late, if each is to be; older ones are not."""

    max_issued_calls: int = 1_000
    """Reliable calls that one turn may issue."""

    max_call_attempts: int = 10
    """Attempts of a reliable call that ended their process before it is parked."""

    retry_budget_per_s: float = 1_000.0
    """Calls that one process may send again each second, with a burst of ten seconds' worth."""


@dataclass(frozen=True, kw_only=True)
class SecuritySettings:
    """Who may do what."""

    admin_token_file: str = ""
    """File with mode 0600 whose first line lets a caller beyond loopback change things."""


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """What is logged and how."""

    level: str = "info"
    """debug, info, warning or error."""

    format: str = "text"
    """text or json."""

    max_queued_records: int = 10_000
    """Records waiting to be written; more are dropped and counted."""


@dataclass(frozen=True, kw_only=True)
class MetricsSettings:
    """What is told at ``/metrics``."""

    per_shard: bool = False
    """Also the objects of each shard, by its number: as many lines as a node has shards."""


@dataclass(frozen=True, kw_only=True)
class AutoloadSettings:
    """An object that is active without being called."""

    type: str = ""
    """Object type."""

    name: str = ""
    """The id for scope ``cluster``; otherwise the part after ``shard#<n>/`` or ``node#<id>/``."""

    scope: str = "cluster"
    """cluster (one), shard (one on every shard) or node (one on every node)."""


@dataclass(frozen=True, kw_only=True)
class ObjectSettings:
    """The objects that a node hosts."""

    modules: tuple[str, ...] = ()
    """Modules or paths of Python files to load, besides the entry-point group goverse.objects."""

    idle_timeout_s: float = 600.0
    """An object that was not called this long is deactivated."""

    autoload: tuple[AutoloadSettings, ...] = ()
    """Objects that are active without being called."""

    expose_errors: bool = False
    """Tell callers the text of unexpected exceptions. For development."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The whole file."""

    cluster: ClusterSettings = field(default_factory=ClusterSettings)
    """What nodes and gates must agree on."""

    node: NodeSettings = field(default_factory=NodeSettings)
    """One node process."""

    gate: GateSettings = field(default_factory=GateSettings)
    """One gate process."""

    storage: StorageSettings = field(default_factory=StorageSettings)
    """Where objects and reliable calls are kept."""

    security: SecuritySettings = field(default_factory=SecuritySettings)
    """Who may do what."""

    limits: LimitSettings = field(default_factory=LimitSettings)
    """Deadlines and sizes; every queue, buffer and wait has one."""

    log: LogSettings = field(default_factory=LogSettings)
    """What is logged and how."""

    metrics: MetricsSettings = field(default_factory=MetricsSettings)
    """What is told at ``/metrics``."""

    objects: ObjectSettings = field(default_factory=ObjectSettings)
    """The objects that a node hosts."""
