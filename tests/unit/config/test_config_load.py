"""Flag over environment over file over default, and where each value came from."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goverse.config.faults import ConfigError
from goverse.config.given import ALIASES
from goverse.config.load import load
from goverse.config.schema import Key, Kind, keys
from goverse.config.settings import AutoloadSettings, Settings
from goverse.config.values import format_duration, format_size


def write(folder: Path, text: str) -> Path:
    path = folder / "cluster.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def faults(*args: Any, **kwargs: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(*args, **kwargs)
    return str(caught.value)


def test_without_anything_the_defaults_hold() -> None:
    loaded = load(None, {}, {})
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}
    assert loaded.warnings == ()


def test_flag_over_environment_over_file_over_default(tmp_path: Path) -> None:
    path = write(tmp_path, "node:\n  id: from-file\ncluster:\n  lease_ttl: 4s\n")
    environ = {"GOVERSE_NODE__ID": "from-environment"}

    assert load(path, {}, {}).settings.node.id == "from-file"
    assert load(path, environ, {}).settings.node.id == "from-environment"
    loaded = load(path, environ, {"node.id": "from-flag"})
    assert loaded.settings.node.id == "from-flag"
    assert loaded.settings.cluster.lease_ttl_s == 4
    assert loaded.sources["node.id"] == "flag"
    assert loaded.sources["cluster.lease_ttl"] == f"{path}:4"
    assert loaded.sources["cluster.coordinator"] == "default"


def test_empty_means_unset(tmp_path: Path) -> None:
    path = write(
        tmp_path, "node:\n  id: from-file\n  advertise:\n  capacity: ''\ngate:\nobjects: {}\n"
    )
    loaded = load(path, {"GOVERSE_NODE__ID": ""}, {"node.id": ""})
    assert loaded.settings.node.id == "from-file"
    assert loaded.settings.node.capacity == "auto"
    assert loaded.sources["node.capacity"] == "default"


def test_lists_are_separated_by_commas_outside_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "cluster: {etcd: {endpoints: [a:1, 'b:2']}}")
    assert load(path, {}, {}).settings.cluster.etcd.endpoints == ("a:1", "b:2")
    environ = {"GOVERSE_CLUSTER__ETCD__ENDPOINTS": "c:3, d:4,"}
    assert load(path, environ, {}).settings.cluster.etcd.endpoints == ("c:3", "d:4")


def test_scalars_mean_what_their_key_says_and_not_what_yaml_makes_of_them(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        "node: {ops_listen: off, id: 010, insecure: yes}\n"
        "gate: {id: 1_000.0}\n"
        "cluster: {initial_num_shards: '4096'}\n",
    )
    settings = load(path, {}, {}).settings
    assert settings.node.ops_listen == "off"
    assert settings.node.id == "010"
    assert settings.node.insecure is True
    assert settings.gate.id == "1_000.0"
    assert settings.cluster.initial_num_shards == 4096


def test_aliases_are_the_names_that_operators_know() -> None:
    environ = {
        "GOVERSE_ETCD_ENDPOINTS": "a:1,b:2",
        "GOVERSE_ETCD_PREFIX": "/other",
        "GOVERSE_IMBALANCE_THRESHOLD": "0.25",
        "GOVERSE_NODE_ID": "n7",
        "GOVERSE_NUM_SHARDS": "64",
        "GOVERSE_POSTGRES_PASSWORD": "s3cret",
        "GOVERSE_REBALANCE_BATCH_SIZE": "9",
        "GOVERSE_SHUTDOWN_MODE": "restart",
        "GOVERSE_STABILITY_DURATION": "200ms",
        "LOG_FORMAT": "json",
        "LOG_LEVEL": "debug",
    }
    assert set(environ) == set(ALIASES) - {"GOVERSE_POSTGRES_PASSWORD_FILE"}
    loaded = load(None, environ, {})
    assert loaded.settings.cluster.etcd.endpoints == ("a:1", "b:2")
    assert loaded.settings.cluster.etcd.prefix == "/other"
    assert loaded.settings.node.id == "n7"
    assert loaded.settings.cluster.initial_num_shards == 64
    assert loaded.settings.cluster.stability_duration_s == 0.2
    assert loaded.settings.cluster.rebalance_batch_size == 9
    assert loaded.settings.cluster.imbalance_threshold == 0.25
    assert loaded.settings.node.shutdown_mode == "restart"
    assert loaded.settings.storage.password == "s3cret"
    assert (loaded.settings.log.format, loaded.settings.log.level) == ("json", "debug")
    assert loaded.warnings == ()


def test_the_password_of_the_store_can_be_in_a_file_and_never_in_the_url(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("s3cret\n")
    loaded = load(None, {"GOVERSE_POSTGRES_PASSWORD_FILE": str(tmp_path / "password")}, {})
    assert loaded.settings.storage.password == "s3cret"
    for url in ("postgresql://me:s3cret@db/x", "postgresql://db/x?password=s3cret"):
        with pytest.raises(ConfigError, match="has a password in it") as caught:
            load(None, {}, {"storage.url": url})
        assert "s3cret" not in str(caught.value)


def test_the_full_name_wins_over_its_alias_and_says_so() -> None:
    loaded = load(None, {"LOG_LEVEL": "debug", "GOVERSE_LOG__LEVEL": "error"}, {})
    assert loaded.settings.log.level == "error"
    assert loaded.warnings == (
        "environment GOVERSE_LOG__LEVEL overrides environment LOG_LEVEL, which differs",
    )
    assert load(None, {"LOG_LEVEL": "info", "GOVERSE_LOG__LEVEL": "info"}, {}).warnings == ()


def test_names_that_kubernetes_injects_get_one_warning() -> None:
    environ = {
        "GOVERSE_GATE_PORT": "tcp://10.0.0.1:80",
        "GOVERSE_GATE_SERVICE_HOST": "10.0.0.1",
        "GOVERSE_ETCD_ENDPOINT": "a:1",
        "GOVERSE_SERVER": "localhost:48000",
        "PATH": "/bin",
    }
    (warning,) = load(None, environ, {}).warnings
    assert warning == (
        "environment variables that set nothing: GOVERSE_ETCD_ENDPOINT "
        "(did you mean GOVERSE_ETCD_ENDPOINTS?), GOVERSE_GATE_PORT, GOVERSE_GATE_SERVICE_HOST"
    )


def test_a_variable_of_our_own_form_that_sets_nothing_is_an_error() -> None:
    text = faults(None, {"GOVERSE_NODE__LISTN": "x", "GOVERSE_CLUSTER__ETCD": "y"}, {})
    assert "environment GOVERSE_NODE__LISTN: node.listn: there is no such key" in text
    assert "did you mean GOVERSE_NODE__LISTEN?" in text
    assert "GOVERSE_CLUSTER__ETCD: cluster.etcd: is a section" in text


def test_in_a_pod_the_name_and_the_address_come_from_it() -> None:
    environ = {"POD_NAME": "goverse-3", "POD_IP": "10.1.2.3"}
    loaded = load(None, environ, {"node.listen": "127.0.0.1:7000"})
    assert loaded.settings.node.id == loaded.settings.gate.id == "goverse-3"
    assert loaded.settings.node.advertise == "10.1.2.3:7000"
    assert loaded.settings.gate.advertise == "10.1.2.3:49000"
    assert loaded.sources["node.advertise"] == "environment POD_IP"
    explicit = load(None, environ, {"node.id": "n1", "node.advertise": "lb:1"})
    assert explicit.settings.node.id == "n1"
    assert explicit.settings.node.advertise == "lb:1"
    six = load(None, {"POD_IP": "fd00::1"}, {})
    assert six.settings.node.advertise == "[fd00::1]:48000"


def test_a_secret_can_stand_in_a_file_of_its_own(tmp_path: Path) -> None:
    secret = tmp_path / "password"
    secret.write_text("hush\n")
    user = {"GOVERSE_CLUSTER__ETCD__USERNAME": "u"}
    by_environment = {"GOVERSE_CLUSTER__ETCD__PASSWORD_FILE": str(secret), **user}
    assert load(None, by_environment, {}).settings.cluster.etcd.password == "hush"
    path = write(tmp_path, f"cluster: {{etcd: {{password_file: {secret}, username: u}}}}")
    assert load(path, {}, {}).settings.cluster.etcd.password == "hush"
    # A higher layer wins, however it gives the secret.
    direct = {"GOVERSE_CLUSTER__ETCD__PASSWORD": "other"}
    assert load(path, direct, {}).settings.cluster.etcd.password == "other"

    both = faults(None, {**by_environment, **direct}, {})
    assert "cluster.etcd.password_file: is given twice" in both
    assert "hush" not in both
    assert "other" not in both
    absent = faults(None, {"GOVERSE_CLUSTER__ETCD__PASSWORD_FILE": "/nonexistent", **user}, {})
    assert "/nonexistent cannot be read: No such file or directory" in absent
    assert absent.count("cluster.etcd") == 1


def test_tables_come_from_the_file_or_as_yaml_on_one_line(tmp_path: Path) -> None:
    rows = "[{type: Lobby, name: main}, {type: Cleaner, name: c, scope: shard}]"
    expected = (
        AutoloadSettings(type="Lobby", name="main"),
        AutoloadSettings(type="Cleaner", name="c", scope="shard"),
    )
    path = write(tmp_path, f"objects:\n  autoload: {rows}\n")
    assert load(path, {}, {}).settings.objects.autoload == expected
    assert load(None, {"GOVERSE_OBJECTS__AUTOLOAD": rows}, {}).settings.objects.autoload == expected


def test_a_listener_is_judged_for_the_process_that_opens_it() -> None:
    flags = {"node.listen": "0.0.0.0:48000"}
    message = faults(None, {}, flags, process="node")
    assert message == (
        "the configuration has a fault:\n"
        "  flag: node.listen: 0.0.0.0:48000 can be reached from other machines, and without TLS "
        "anybody there can call; listen on 127.0.0.1, or say --insecure (node.insecure: true) "
        "if you trust the network"
    )
    assert faults(None, {}, flags) == message
    load(None, {}, flags, process="gate")
    load(None, {}, {**flags, "node.insecure": "true"}, process="node")


@pytest.mark.parametrize(
    "path", ["node.listen", "node.ops_listen", "gate.listen", "gate.http_listen", "gate.ops_listen"]
)
def test_every_listener_beyond_loopback_is_refused_without_insecure(path: str) -> None:
    for address in ("0.0.0.0:1234", "[::]:1234", "10.0.0.1:1234", "example.com:1234"):
        assert f"flag: {path}: {address} can be reached" in faults(None, {}, {path: address})
    for address in ("localhost:1234", "127.0.0.1:0", "[::1]:1234"):
        load(None, {}, {path: address})


def test_L28_the_number_of_shards_only_makes_a_cluster() -> None:
    # Nothing in the configuration overrides what an existing cluster has: processes cannot be
    # told different numbers, only be told what a new cluster begins with.
    about_shards = [path for path in keys() if "num_shards" in path]
    assert about_shards == ["cluster.initial_num_shards"]
    assert "did you mean cluster.initial_num_shards?" in faults(
        None, {}, {"cluster.num_shards": "64"}
    )


def test_L32_what_is_configured_and_not_understood_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "security:\n  rules: [allow all]\naccess:\n  - allow\n")
    text = faults(path, {}, {})
    assert f"{path}:2: security.rules: there is no such key" in text
    assert f"{path}:3: access: there is no such key; the sections are cluster, gate" in text


def _texts(key: Key) -> st.SearchStrategy[str]:
    """Values that pass every check, written as in the environment."""
    if key.kind is Kind.DURATION:
        seconds = 5 if key.path == "limits.heartbeat_timeout" else 1
        return st.integers(seconds, 600).map(float).map(format_duration)
    if key.kind is Kind.SIZE:
        return st.just(format_size(key.default))
    if key.kind is Kind.FLAG:
        return st.sampled_from(["true", "false"])
    if key.path == "cluster.imbalance_threshold":
        return st.integers(1, 9).map(lambda n: f"0.{n}")
    if key.kind is Kind.NUMBER:
        return st.integers(1, 9).map(str)
    if key.path == "cluster.initial_num_shards":
        return st.integers(0, 16).map(lambda n: str(2**n))
    return st.integers(1, 99_999).map(str)


NUMERIC = [
    key
    for key in keys().values()
    if key.kind not in (Kind.TEXT, Kind.TEXTS, Kind.TABLE)
    and key.path not in ("limits.heartbeat_interval", "limits.heartbeat_timeout")
]


@given(st.data())
def test_whatever_is_set_is_what_is_loaded(data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.sampled_from(NUMERIC), unique_by=lambda key: key.path))
    environ = {key.environment_name: data.draw(_texts(key)) for key in chosen}
    loaded = load(None, environ, {})
    names = {key.path: key.environment_name for key in chosen}
    for path, key in keys().items():
        if path in names:
            assert loaded.sources[path] == f"environment {names[path]}"
        else:
            assert loaded.sources[path] == "default"
            assert key.get(loaded.settings) == key.default


@given(st.dictionaries(st.sampled_from(sorted(keys())), st.text(max_size=20), max_size=6))
def test_any_text_for_any_key_is_loaded_or_refused_with_its_key(flags: dict[str, str]) -> None:
    try:
        load(None, {}, flags)
    except ConfigError as error:
        for fault in error.faults:
            assert re.sub(r"\[.*", "", fault.key) in keys()
            assert fault.message
