"""What a file, the environment and flags give, by key: one layer each, before anything is read
into values."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from goverse.config.faults import Fault
from goverse.config.schema import keys, sections
from goverse.config.yamlfile import Raw

#: A secret can also stand in a file of its own, named by this key's companion.
FILE_SUFFIX = "_file"

#: Short names that operators know. The full name wins where both are set.
ALIASES = {
    "GOVERSE_ETCD_ENDPOINTS": "cluster.etcd.endpoints",
    "GOVERSE_ETCD_PREFIX": "cluster.etcd.prefix",
    "GOVERSE_IMBALANCE_THRESHOLD": "cluster.imbalance_threshold",
    "GOVERSE_NODE_ID": "node.id",
    "GOVERSE_NUM_SHARDS": "cluster.initial_num_shards",
    "GOVERSE_POSTGRES_PASSWORD": "storage.password",
    "GOVERSE_POSTGRES_PASSWORD_FILE": "storage.password_file",
    "GOVERSE_REBALANCE_BATCH_SIZE": "cluster.rebalance_batch_size",
    "GOVERSE_SHUTDOWN_MODE": "node.shutdown_mode",
    "GOVERSE_STABILITY_DURATION": "cluster.stability_duration",
    "LOG_FORMAT": "log.format",
    "LOG_LEVEL": "log.level",
}

#: Names that other parts of the project read.
ELSEWHERE = ("GOVERSE_CONFIG", "GOVERSE_SERVER")


@dataclass(frozen=True)
class Given:
    """One key's value as it was given.

    :param file: a path, ``environment NAME`` or ``flag``.
    """

    raw: Raw
    file: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.raw.line}" if self.raw.line else self.file


@dataclass
class Layer:
    """Everything from one place, with what is wrong and what is odd about it."""

    values: dict[str, Given] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def put(self, path: str, given: Given) -> None:
        """Keep a value unless it is empty: empty means unset."""
        if given.raw.value not in ("", [], {}):
            self.values[path] = given


def all_paths() -> tuple[str, ...]:
    """Every key that can be given, companions of secrets included."""
    return tuple(
        path
        for key in keys().values()
        for path in ((key.path, key.path + FILE_SUFFIX) if key.secret else (key.path,))
    )


def unknown(file: str, line: int, path: str) -> Fault:
    """The fault of a key that does not exist, with the likeliest one that does."""
    known = [*all_paths(), *sorted(sections())]
    close = difflib.get_close_matches(path, known, n=1, cutoff=0.6)
    if not close:
        # The right name in the wrong section is the commonest slip that looks nothing alike.
        last = path.rpartition(".")[2]
        names = {known_path.rpartition(".")[2]: known_path for known_path in reversed(known)}
        close = [names[n] for n in difflib.get_close_matches(last, names, n=1, cutoff=0.75)]
    right = f"did you mean {close[0]}?" if close else ""
    if not right and "." not in path:
        right = f"the sections are {', '.join(sorted(s for s in sections() if '.' not in s))}"
    return Fault(file, line, path, "there is no such key", right)


def from_file(root: Raw, file: str) -> Layer:
    """Sort a file's content by key."""
    layer = Layer()
    _descend(root, file, "", layer, frozenset(all_paths()))
    return layer


def _descend(raw: Raw, file: str, path: str, layer: Layer, known: Iterable[str]) -> None:
    if raw.value == "":
        return  # an empty section sets nothing
    if not isinstance(raw.value, dict):
        message, right = "is a section, not a value", "put its keys below it, indented"
        layer.faults.append(Fault(file, raw.line, path, message, right))
        return
    for name, value in raw.value.items():
        here = f"{path}.{name}" if path else name
        if here in sections():
            _descend(value, file, here, layer, known)
        elif here in known:
            layer.put(here, Given(value, file))
        else:
            layer.faults.append(unknown(file, value.line, here))


def from_environment(environ: Mapping[str, str]) -> Layer:
    """Sort environment variables by key. Other programs' variables are none of our business."""
    layer = Layer()
    names = {"GOVERSE_" + path.replace(".", "__").upper(): path for path in all_paths()}
    for alias, path in ALIASES.items():
        if alias in environ:
            layer.put(path, Given(Raw(environ[alias]), f"environment {alias}"))
    strangers = []
    for name in sorted(environ):
        file = f"environment {name}"
        if name in names:
            path = names[name]
            short = layer.values.get(path)
            layer.put(path, Given(Raw(environ[name]), file))
            if short is not None and environ[name] and short.raw.value != environ[name]:
                layer.warnings.append(f"{file} overrides {short.file}, which differs")
        elif name.startswith("GOVERSE_") and "__" in name:
            path = name.removeprefix("GOVERSE_").replace("__", ".").lower()
            layer.faults.append(_unknown_variable(file, name, path, names))
        elif name.startswith("GOVERSE_") and name not in ALIASES and name not in ELSEWHERE:
            close = difflib.get_close_matches(name, [*ALIASES, *ELSEWHERE], n=1, cutoff=0.85)
            strangers.append(f"{name} (did you mean {close[0]}?)" if close else name)
    if strangers:
        # Kubernetes injects names like GOVERSE_GATE_PORT for a service called goverse-gate.
        layer.warnings.append(f"environment variables that set nothing: {', '.join(strangers)}")
    return layer


def _unknown_variable(file: str, name: str, path: str, names: Mapping[str, str]) -> Fault:
    if path in sections():
        return Fault(file, 0, path, "is a section, not a value", f"set {name}__<KEY>")
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    right = f"did you mean {close[0]}?" if close else ""
    return Fault(file, 0, path, "there is no such key", right)


def from_flags(flags: Mapping[str, str]) -> Layer:
    """Sort command-line flags, which come by dotted key."""
    layer = Layer()
    known = frozenset(all_paths())
    for path, text in flags.items():
        if path in known:
            layer.put(path, Given(Raw(text), "flag"))
        else:
            layer.faults.append(unknown("flag", 0, path))
    return layer
