"""Files, variables and flags that are no configuration: every fault is named, nothing else."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from goverse.config.faults import ConfigError
from goverse.config.load import load
from goverse.config.schema import keys
from tests.fuzz.property import fuzzed

NAMES = tuple(keys())

texts = st.one_of(
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            "on",
            "off",
            "0",
            "-1",
            "1e400",
            "nan",
            "10s",
            "5",
            "64MiB",
            "::1",
            "host:99999",
            "*",
            "etcd://",
            "memory://",
            "[]",
            "{}",
            "null",
            "~",
            "\u202e",
            "1_000",
            "0x10",
            "2024-01-01",
        ]
    ),
)
raw = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.dates()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)
entries = st.dictionaries(st.sampled_from(NAMES), raw, max_size=6)
variables = st.dictionaries(
    st.one_of(
        st.sampled_from([f"GOVERSE_{name.replace('.', '__').upper()}" for name in NAMES]),
        st.sampled_from(["GOVERSE_NODE_ID", "GOVERSE_GATE_PORT", "LOG_LEVEL", "POD_IP"]),
        st.text(alphabet="ABC_Z", max_size=12).map(lambda text: f"GOVERSE_{text}"),
    ),
    texts,
    max_size=4,
)


def _load(text: bytes, environ: Mapping[str, str], flags: Mapping[str, str]) -> None:
    with tempfile.NamedTemporaryFile(suffix=".yaml") as file:
        file.write(text)
        file.flush()
        try:
            load(Path(file.name), environ, flags)
        except ConfigError as error:
            assert str(error).strip()


@fuzzed(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet="a:- \n[]{}&*!|>'\"%@`#,?\t", max_size=60).map(str.encode),
    )
)
def random_files(text: bytes) -> None:
    _load(text, {}, {})


@fuzzed(entries, variables, st.dictionaries(st.sampled_from(NAMES), texts, max_size=3))
def strange_values(given_: dict[str, Any], environ: dict[str, str], flags: dict[str, str]) -> None:
    tree: dict[str, Any] = {}
    for name, value in given_.items():
        *folders, last = name.split(".")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
            if not isinstance(place, dict):
                return
        place[last] = value
    _load(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "replace"), environ, flags)
