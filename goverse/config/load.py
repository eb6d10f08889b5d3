"""From a file, the environment and flags to `Settings`, or to everything that is wrong with them.

Flag > environment > file > default; empty means unset.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from goverse.config.addresses import Address, parse_address
from goverse.config.checks import Process, check
from goverse.config.faults import BadValue, ConfigError, Fault
from goverse.config.given import (
    FILE_SUFFIX,
    Given,
    Layer,
    from_environment,
    from_file,
    from_flags,
)
from goverse.config.schema import Key, Kind, keys, row_keys
from goverse.config.settings import Settings
from goverse.config.values import (
    parse_duration,
    parse_flag,
    parse_integer,
    parse_number,
    parse_size,
)
from goverse.config.yamlfile import Raw, parse, read

_PARSE: dict[Kind, Callable[[str], Any]] = {
    Kind.TEXT: str,
    Kind.FLAG: parse_flag,
    Kind.INTEGER: parse_integer,
    Kind.NUMBER: parse_number,
    Kind.DURATION: parse_duration,
    Kind.SIZE: parse_size,
}
_MAX_SECRET_BYTES = 65_536


@dataclass(frozen=True)
class Loaded:
    """A configuration that can be used.

    :param warnings: sentences for the log.
    :param sources: where each key's value came from: a path with its line, ``environment NAME``,
        ``flag`` or ``default``.
    """

    settings: Settings
    warnings: tuple[str, ...]
    sources: Mapping[str, str]


def load(
    path: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    *,
    process: Process | None = None,
) -> Loaded:
    """Read and check everything. Raises `ConfigError` with all faults.

    :param path: the YAML file; None for none.
    :param flags: by dotted key, as text: ``{"node.listen": "127.0.0.1:0"}``.
    :param process: whose configuration it is. What the other one may listen on is then not
        judged: the same file serves both, and each has flags of its own.
    """
    faults: list[Fault] = []
    layers = [from_flags(flags), from_environment(environ)]
    if path is not None:
        layers.append(from_file(read(path, faults), str(path)))
    for layer in reversed(layers):
        faults.extend(layer.faults)
    chosen = _choose(layers, faults)
    values, faulty = _convert_all(chosen, faults)
    _fall_back(values, chosen, environ, faults)
    settings = Settings()
    for key, value in values.items():
        settings = keys()[key].set(settings, value)
    faults.extend(check(settings, chosen, faulty, process))
    if faults:
        raise ConfigError(_in_order(faults))
    sources = {name: chosen[name].place if name in chosen else "default" for name in keys()}
    return Loaded(settings, tuple(w for layer in layers for w in layer.warnings), sources)


def _choose(layers: list[Layer], faults: list[Fault]) -> dict[str, Given]:
    """Each key's value from the highest layer that has one, secrets out of their files."""
    chosen: dict[str, Given] = {}
    for key in keys().values():
        companion = key.path + FILE_SUFFIX if key.secret else key.path
        for layer in layers:
            direct = layer.values.get(key.path)
            by_file = layer.values.get(companion) if key.secret else None
            if direct and by_file:
                message = f"is given twice, also by {direct.place}"
                faults.append(
                    Fault(by_file.file, by_file.raw.line, companion, message, "keep one of them")
                )
            if direct or by_file:
                if found := direct or _read_secret(by_file, companion, faults):
                    chosen[key.path] = found
                break
    return chosen


def _read_secret(given: Given | None, path: str, faults: list[Fault]) -> Given | None:
    if given is None or not isinstance(given.raw.value, str):
        return None
    name = given.raw.value
    try:
        with Path(name).open(encoding="utf-8") as stream:
            text = stream.read(_MAX_SECRET_BYTES).rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        message = f"{name} cannot be read: {reason}"
        faults.append(Fault(given.file, given.raw.line, path, message))
        return None
    return Given(Raw(text, given.raw.line), given.file)


def _convert_all(
    chosen: Mapping[str, Given], faults: list[Fault]
) -> tuple[dict[str, Any], frozenset[str]]:
    values: dict[str, Any] = {}
    # A secret whose file cannot be read is faulty itself, not absent.
    faulty = {name for fault in faults for name in (fault.key, fault.key.removesuffix(FILE_SUFFIX))}
    for path, given in chosen.items():
        before = len(faults)
        value = _convert(keys()[path], given.raw, given.file, faults)
        if len(faults) == before:
            values[path] = value
        else:
            faulty.add(path)
    return values, frozenset(faulty)


def _convert(key: Key, raw: Raw, file: str, faults: list[Fault], prefix: str = "") -> Any:
    path = prefix + key.path

    def fault(message: str, right: str, line: int = raw.line) -> None:
        faults.append(Fault(file, line, path, message, right))

    if key.kind is Kind.TABLE:
        return _table(key, raw, file, faults)
    if key.kind is Kind.TEXTS:
        return _texts(raw, fault)
    if not isinstance(raw.value, str):
        fault(f"is {_shape(raw)}", f"write {key.kind.value}")
        return None
    try:
        return _PARSE[key.kind](raw.value)
    except BadValue as error:
        fault("cannot be read" if key.secret else error.message, error.right)
        return None


def _shape(raw: Raw) -> str:
    if isinstance(raw.value, str):
        return "text"
    return "a list" if isinstance(raw.value, list) else "a mapping"


def _texts(raw: Raw, fault: Callable[..., None]) -> tuple[str, ...]:
    if isinstance(raw.value, str) and raw.line == 0:
        # From the environment or a flag: separated by commas.
        return tuple(part.strip() for part in raw.value.split(",") if part.strip())
    if not isinstance(raw.value, list):
        fault(f"is {_shape(raw)}, not a list", "write a list, like [a, b]")
        return ()
    texts = []
    for item in raw.value:
        if isinstance(item.value, str) and item.value:
            texts.append(item.value)
        else:
            what = "an empty item" if item.value == "" else f"an item that is {_shape(item)}"
            fault(f"has {what}", "write a list of words", item.line)
    return tuple(texts)


def _table(key: Key, raw: Raw, file: str, faults: list[Fault]) -> tuple[Any, ...]:
    assert key.row is not None
    if isinstance(raw.value, str) and raw.line == 0:
        # From the environment or a flag: the same YAML on one line.
        found: list[Fault] = []
        raw = parse(raw.value, file, found).without_lines()
        if found:
            faults.extend(replace(fault, line=0, key=key.path) for fault in found)
            return ()
    allowed = row_keys(key.row)
    right = f"write a list of mappings with {', '.join(allowed)}"
    if not isinstance(raw.value, list):
        faults.append(Fault(file, raw.line, key.path, f"is {_shape(raw)}, not a list", right))
        return ()
    rows = []
    for number, item in enumerate(raw.value):
        here = f"{key.path}[{number}]"
        if not isinstance(item.value, dict):
            faults.append(Fault(file, item.line, here, f"is {_shape(item)}", right))
            continue
        cells = {}
        for name, cell in item.value.items():
            if name not in allowed:
                message = "there is no such key"
                faults.append(Fault(file, cell.line, f"{here}.{name}", message, right))
            elif cell.value != "":
                cells[allowed[name].attributes[0]] = _convert(
                    allowed[name], cell, file, faults, here + "."
                )
        rows.append(key.row(**{k: v for k, v in cells.items() if v is not None}))
    return tuple(rows)


def _fall_back(
    values: dict[str, Any],
    chosen: dict[str, Given],
    environ: Mapping[str, str],
    faults: list[Fault],
) -> None:
    """What Kubernetes tells a pod about itself stands in for what nobody said."""
    if name := environ.get("POD_NAME"):
        for path in ("node.id", "gate.id"):
            if path not in chosen:
                values[path] = name
                chosen[path] = Given(Raw(name), "environment POD_NAME")
    if host := environ.get("POD_IP"):
        for section in ("node", "gate"):
            path = f"{section}.advertise"
            if path in chosen:
                continue
            try:
                listen = values.get(f"{section}.listen", keys()[f"{section}.listen"].default)
                values[path] = str(Address(host, parse_address(listen).port))
            except BadValue:
                continue  # the check of the listen address says it better
            chosen[path] = Given(Raw(host), "environment POD_IP")


def _in_order(faults: list[Fault]) -> list[Fault]:
    """By place, so that a file's faults read from top to bottom; each once."""
    return sorted(dict.fromkeys(faults), key=lambda fault: (fault.file, fault.line, fault.key))
