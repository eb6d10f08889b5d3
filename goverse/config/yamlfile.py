"""YAML with line numbers. Scalars stay text: what ``off`` or ``010`` means is the key's to say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from goverse.config.faults import Fault

_MAX_BYTES = 1024 * 1024
# Sections nest two deep, the rows of a table two more; an alias that contains itself, deeper.
_MAX_DEPTH = 8
_NULL = "tag:yaml.org,2002:null"


@dataclass(frozen=True)
class Raw:
    """A value as it was written: text, a list or a mapping. Null is the empty text.

    :param line: in its file, from 1; 0 if it is not from a file.
    """

    value: str | list[Raw] | dict[str, Raw]
    line: int = 0

    def without_lines(self) -> Raw:
        if isinstance(self.value, list):
            return Raw([item.without_lines() for item in self.value])
        if isinstance(self.value, dict):
            return Raw({name: item.without_lines() for name, item in self.value.items()})
        return Raw(self.value)


def read(path: Path, faults: list[Fault]) -> Raw:
    """The content of a file, as far as it can be read; what is wrong is added to ``faults``."""
    file = str(path)
    try:
        with path.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
        text = content.decode("utf-8")
    except OSError as error:
        faults.append(Fault(file, 0, "", f"cannot be read: {error.strerror}"))
        return Raw({})
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        faults.append(Fault(file, line, "", "is not UTF-8", "save it as UTF-8"))
        return Raw({})
    if len(content) > _MAX_BYTES:
        faults.append(Fault(file, 0, "", f"is larger than {_MAX_BYTES} bytes"))
        return Raw({})
    found = parse(text, file, faults)
    if found.value and not isinstance(found.value, dict):
        message = "is not a mapping of sections"
        faults.append(Fault(file, found.line, "", message, "begin with a section: 'cluster:'"))
        return Raw({})
    return found


def parse(text: str, file: str, faults: list[Fault]) -> Raw:
    """One YAML document; nothing, and a fault, where it is not YAML."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        faults.append(Fault(file, line, "", "has a control character"))
        return Raw("")
    try:
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        faults.append(Fault(file, line, "", f"is not YAML: {error.problem or error.context}"))
        return Raw("")
    except yaml.YAMLError as error:
        faults.append(Fault(file, 0, "", f"is not YAML: {error}"))
        return Raw("")
    except RecursionError:
        faults.append(Fault(file, 0, "", "is nested too deep"))
        return Raw("")
    finally:
        loader.dispose()
    return Raw("") if node is None else _raw(node, file, (), faults)


def _raw(node: Any, file: str, path: tuple[str, ...], faults: list[Fault]) -> Raw:
    line = node.start_mark.line + 1
    if len(path) > _MAX_DEPTH:
        fault = Fault(file, line, path[0], "is nested too deep")
        if fault not in faults:  # an alias that contains itself would have no end of them
            faults.append(fault)
        return Raw("", line)
    if isinstance(node, yaml.ScalarNode):
        # The text of a plain scalar, whatever YAML would make of it.
        return Raw("" if node.tag == _NULL else node.value, line)
    if isinstance(node, yaml.SequenceNode):
        items = [
            _raw(item, file, (*path, str(number)), faults) for number, item in enumerate(node.value)
        ]
        return Raw(items, line)
    mapping: dict[str, Raw] = {}
    for key_node, value_node in node.value:
        key_line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            message = "has a key that is not a word"
            faults.append(Fault(file, key_line, ".".join(path), message))
            continue
        here = (*path, key_node.value)
        if key_node.value in mapping:
            first = mapping[key_node.value].line
            message, right = f"stands here twice, first on line {first}", "keep one of them"
            faults.append(Fault(file, key_line, ".".join(here), message, right))
            continue
        value = _raw(value_node, file, here, faults)
        # The line of the key: where a reader looks, also when the value is empty or a block.
        mapping[key_node.value] = Raw(value.value, key_line)
    return Raw(mapping, line)
