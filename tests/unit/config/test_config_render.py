"""The example file, and what check-config prints."""

import re
from pathlib import Path

import yaml

from goverse.config.load import load
from goverse.config.render import example, render
from goverse.config.schema import keys
from goverse.config.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "config" / "cluster.example.yaml"


def uncommented(text: str) -> str:
    return re.sub(r"^( *)#(\S)", r"\1\2", text, flags=re.MULTILINE)


def test_the_example_is_current() -> None:
    assert EXAMPLE.read_text() == example(), "run scripts/example-config"


def test_the_example_as_it_is_sets_nothing() -> None:
    loaded = load(EXAMPLE, {}, {})
    assert loaded.settings == Settings()
    assert set(loaded.sources.values()) == {"default"}


def test_the_example_uncommented_is_the_defaults_and_names_every_key(tmp_path: Path) -> None:
    path = tmp_path / "cluster.yaml"
    path.write_text(uncommented(example()))
    assert load(path, {}, {}).settings == Settings()
    tree = yaml.safe_load(path.read_text())
    for key in keys():
        node = tree
        for part in key.split("."):
            assert part in node, key
            node = node[part]


def test_every_key_of_the_example_is_explained() -> None:
    lines = example().splitlines()
    for number, line in enumerate(lines):
        if re.match(r" *#?[a-z_]+:( |$)", line):
            assert lines[number - 1].lstrip().startswith("# "), line
            assert lines[number - 1].endswith((".", ":")), lines[number - 1]


def test_what_is_printed_loads_as_the_same_and_says_where_it_came_from(tmp_path: Path) -> None:
    environ = {
        "GOVERSE_CLUSTER__LEASE_TTL": "3s",
        "GOVERSE_OBJECTS__AUTOLOAD": "[{type: A, name: 'a: #b'}]",
        "GOVERSE_GATE__ALLOWED_ORIGINS": "https://a.example,https://b.example",
        "GOVERSE_CLUSTER__ETCD__USERNAME": "off",
        "GOVERSE_LIMITS__MAX_CHUNK_BYTES": "1000",
    }
    first = load(
        None, {**environ, "GOVERSE_CLUSTER__ETCD__PASSWORD": "x"}, {"node.capacity": "0.5"}
    )
    text = render(first.settings, first.sources)
    assert "  lease_ttl: 3s  # environment GOVERSE_CLUSTER__LEASE_TTL\n" in text
    assert "  capacity: '0.5'  # flag\n" in text
    assert "  ready_grace: 10s\n" in text
    path = tmp_path / "printed.yaml"
    path.write_text(text.replace("********", "x"))
    assert load(path, {}, {}).settings == first.settings


def test_secrets_are_masked_in_whatever_is_shown() -> None:
    environ = {"GOVERSE_CLUSTER__ETCD__PASSWORD": "s3cret", "GOVERSE_CLUSTER__ETCD__USERNAME": "u"}
    loaded = load(None, environ, {})
    assert loaded.settings.cluster.etcd.password == "s3cret"
    shown = render(loaded.settings, loaded.sources)
    assert "s3cret" not in shown
    assert "password: '********'" in shown
    assert "s3cret" not in repr(loaded)
