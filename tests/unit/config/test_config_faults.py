"""Each bad file gets a clear error: file, line, key, what is wrong and what would be right."""

from pathlib import Path

import pytest

from goverse.config.faults import ConfigError, Fault
from goverse.config.load import load


def faults(path: Path, content: str | bytes | None = None) -> tuple[Fault, ...]:
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError) as caught:
        load(path, {}, {})
    return caught.value.faults


BAD = [
    ("cluster:\n  lease_ttl: 10\n", 2, "cluster.lease_ttl", "'10' has no unit", "write 10s"),
    ("cluster:\n  lease_ttl: 500ms\n", 2, "cluster.lease_ttl", "whole seconds", "1s or more"),
    ("cluster:\n  lease_ttl: 1.5s\n", 2, "cluster.lease_ttl", "whole seconds", "1s or more"),
    (
        "cluster:\n  coordinator: memory://\n  lease_ttl: 900ms\n",
        3,
        "cluster.lease_ttl",
        "below 1s",
        "1s or more",
    ),
    ("cluster:\n  leese_ttl: 10s\n", 2, "cluster.leese_ttl", "no such key", "cluster.lease_ttl?"),
    ("cluster:\n  lease_ttl_s: 10\n", 2, "cluster.lease_ttl_s", "no such key", "lease_ttl?"),
    ("node:\n  lease_ttl: 10s\n", 2, "node.lease_ttl", "no such key", "cluster.lease_ttl?"),
    (
        "cluster:\n\n  initial_num_shards: 100\n",
        3,
        "cluster.initial_num_shards",
        "100 is not a power of two up to 65536",
        "nearest is 128",
    ),
    (
        "cluster: {initial_num_shards: 131072}",
        1,
        "cluster.initial_num_shards",
        "not a power of two",
        "nearest is 65536",
    ),
    ("cluster: {initial_num_shards: 0}", 1, "cluster.initial_num_shards", "below 1", "1 or more"),
    (
        "cluster: {initial_num_shards: [8]}",
        1,
        "cluster.initial_num_shards",
        "is a list",
        "a whole number",
    ),
    (
        "cluster: {coordinator: 'etcd://a:1'}",
        1,
        "cluster.coordinator",
        "no coordinator",
        "cluster.etcd.endpoints",
    ),
    ("cluster: {coordinator: zookeeper}", 1, "cluster.coordinator", "no coordinator", "etcd://"),
    ("cluster: {etcd: {prefix: goverse/}}", 1, "cluster.etcd.prefix", "no prefix", "/goverse"),
    (
        "cluster: {etcd: {endpoints: 'a:1'}}",
        1,
        "cluster.etcd.endpoints",
        "is text, not a list",
        "[a, b]",
    ),
    (
        "cluster:\n  etcd:\n    endpoints:\n      - a:1\n      - [b]\n",
        5,
        "cluster.etcd.endpoints",
        "an item that is a list",
        "a list of words",
    ),
    (
        "cluster: {etcd: {endpoints: ['http://a:1']}}",
        1,
        "cluster.etcd.endpoints",
        "is a URL",
        "host:port",
    ),
    ("cluster: {etcd: {username: u}}", 1, "cluster.etcd.username", "the other", "password"),
    ("cluster: {etcd: {key_file: k}}", 1, "cluster.etcd.key_file", "the other", "certificate"),
    (
        "cluster: {etcd: {key_file: k, cert_file: c}}",
        1,
        "cluster.etcd.cert_file",
        "with TLS only",
        "ca_file",
    ),
    (
        "limits:\n  heartbeat_interval: 3s\n",
        2,
        "limits.heartbeat_interval",
        "a timeout of 3s cannot be met by a heartbeat every 3s",
        "make heartbeat_timeout longer",
    ),
    (
        "limits:\n  heartbeat_timeout: 500ms\n",
        2,
        "limits.heartbeat_timeout",
        "cannot be met",
        "make heartbeat_timeout longer",
    ),
    (
        "limits: {max_chunk_bytes: 2MiB}",
        1,
        "limits.max_chunk_bytes",
        "of 2MiB is above limits.max_batch_bytes of 1MiB",
        "at least as large",
    ),
    (
        "limits: {max_inflight_bytes: 1MiB}",
        1,
        "limits.max_inflight_bytes",
        "of 64MiB is above limits.max_inflight_bytes of 1MiB",
        "at least as large",
    ),
    ("limits: {max_payload_bytes: 64MB}", 1, "limits.max_payload_bytes", "unknown unit", "64MiB"),
    ("limits: {max_sessions: 0}", 1, "limits.max_sessions", "0 is below 1", "1 or more"),
    ("limits: {connection_timeout: 0s}", 1, "limits.connection_timeout", "longer than 0s", ""),
    ("limits: {retry_budget_per_s: -1}", 1, "limits.retry_budget_per_s", "not above 0", ""),
    ("node: {capacity: heavy}", 1, "node.capacity", "'heavy' is not a number", "or auto"),
    ("node: {capacity: 0}", 1, "node.capacity", "0 is not above 0", "or auto"),
    ("limits: {retry_budget_per_s: x}", 1, "limits.retry_budget_per_s", "not a number", "like 1"),
    ("cluster: {imbalance_threshold: 1}", 1, "cluster.imbalance_threshold", "not below 1", "0.1"),
    ("cluster: {strategy: even}", 1, "cluster.strategy", "'even' is not known", "count, load"),
    ("node: {capacity: .nan}", 1, "node.capacity", "is not a number", "like 1 or 0.5"),
    ("node: {insecure: perhaps}", 1, "node.insecure", "neither true nor false", "true or false"),
    ("node: {id: 'no spaces'}", 1, "node.id", "must be 1 to 128 letters", ""),
    ("node: {listen: '48000'}", 1, "node.listen", "has no port", "host:port"),
    ("node: {listen: off}", 1, "node.listen", "has no port", "host:port"),
    ("node: {listen: '127.0.0.1:48001'}", 1, "node.listen", "have the same port 48001", "its own"),
    ("node: {advertise: '0.0.0.0:1'}", 1, "node.advertise", "others can connect to", "reach"),
    ("log:\n  level: loud\n", 2, "log.level", "'loud' is not known", "debug, info, warning"),
    ("log: {format: xml}", 1, "log.format", "'xml' is not known", "text, json"),
    ("log: info\n", 1, "log", "is a section, not a value", "below it"),
    ("log: [info]\n", 1, "log", "is a section, not a value", "below it"),
    ("stores: {}\n", 1, "stores", "no such key", "storage"),
    ("objects: {autoload: Lobby}", 1, "objects.autoload", "not a list", "type, name, scope"),
    ("objects:\n  autoload:\n    - Lobby\n", 3, "objects.autoload[0]", "is text", "type, name"),
    (
        "objects:\n  autoload:\n    - type: Lobby\n      nme: x\n",
        4,
        "objects.autoload[0].nme",
        "no such key",
        "type, name, scope",
    ),
    (
        "objects: {autoload: [{type: Lobby, name: a, scope: moon}]}",
        1,
        "objects.autoload",
        "scope 'moon' is not known",
        "cluster, shard, node",
    ),
    ("objects: {autoload: [{type: Lobby}]}", 1, "objects.autoload", "id is empty", "give its name"),
    (
        "objects: {autoload: [{type: 9, name: a}]}",
        1,
        "objects.autoload",
        "must be an identifier",
        "give its type",
    ),
    ("node:\n  id: a\n  id: b\n", 3, "node.id", "twice, first on line 2", "keep one"),
    ("node: {id: a\n", 2, "", "is not YAML", ""),
    ("node:\n\tid: a\n", 2, "", "is not YAML", ""),
    ("---\nnode: {}\n---\nnode: {}\n", 3, "", "is not YAML", ""),
    ("node: &n {id: *n}", 1, "node", "is nested too deep", ""),
    ("&n [*n]", 1, "", "is not a mapping of sections", ""),
    ("- node\n", 1, "", "is not a mapping of sections", "begin with a section"),
    ("node\n", 1, "", "is not a mapping of sections", "begin with a section"),
    ("node: {[a]: b}\n", 1, "node", "has a key that is not a word", ""),
    ("node: {id: a}\n\x00", 2, "", "has a control character", ""),
    (b"node:\n  id: \xff\n", 2, "", "is not UTF-8", "save it as UTF-8"),
    ("[" * 4000, 0, "", "is nested too deep", ""),
    ("#" * (1024 * 1024 + 1), 0, "", "is larger than 1048576 bytes", ""),
    ("node: {capacity: !!python/object/apply:os.getcwd [x]}", 1, "node.capacity", "is a list", ""),
]


@pytest.mark.parametrize(("content", "line", "key", "message", "right"), BAD)
def test_a_bad_file_says_where_what_and_what_would_be_right(
    tmp_path: Path, content: str | bytes, line: int, key: str, message: str, right: str
) -> None:
    path = tmp_path / "bad.yaml"
    found = faults(path, content)
    matching = [
        fault
        for fault in found
        if fault.line == line
        and fault.key == key
        and message in fault.message
        and right in fault.right
    ]
    assert matching, "\n".join(map(str, found))
    assert all(fault.file in (str(path), "") for fault in found)


def test_an_absent_file_and_a_folder(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path / "absent.yaml")
    assert str(fault) == f"{tmp_path}/absent.yaml: cannot be read: No such file or directory"
    (fault,) = faults(tmp_path)
    assert str(fault) == f"{tmp_path}: cannot be read: Is a directory"


def test_all_faults_are_reported_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "cluster:\n"
        "  lease_ttl: 10\n"
        "  lease_tll: 10s\n"
        "node:\n"
        "  listen: 0.0.0.0:48000\n"
        "limits:\n"
        "  heartbeat_timeout: 1ms\n"
        "  max_sessions: many\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(path, {"GOVERSE_LOG__LEVEL": "loud"}, {"gate.http_listen": "8080"})
    assert [(fault.file, fault.line, fault.key) for fault in caught.value.faults] == [
        (str(path), 2, "cluster.lease_ttl"),
        (str(path), 3, "cluster.lease_tll"),
        (str(path), 5, "node.listen"),
        (str(path), 7, "limits.heartbeat_timeout"),
        (str(path), 8, "limits.max_sessions"),
        ("environment GOVERSE_LOG__LEVEL", 0, "log.level"),
        ("flag", 0, "gate.http_listen"),
    ]
    text = str(caught.value)
    assert text.startswith("7 faults:\n  ")
    assert f"\n  {path}:3: cluster.lease_tll: there is no such key; did you mean" in text


def test_a_value_that_was_not_understood_makes_no_second_fault(tmp_path: Path) -> None:
    # heartbeat_timeout is compared with heartbeat_interval, which has no value here.
    (fault,) = faults(tmp_path / "bad.yaml", "limits: {heartbeat_interval: often}")
    assert fault.key == "limits.heartbeat_interval"


def test_a_secret_is_never_quoted(tmp_path: Path) -> None:
    found = faults(tmp_path / "bad.yaml", "cluster: {etcd: {password: [s3cret]}, x: 1}")
    assert found
    assert not any("s3cret" in str(fault) for fault in found)
