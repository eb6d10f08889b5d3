"""Network namespaces: processes that can be cut off from each other. Linux, as root.

Each named place is a namespace with one address on a bridge, and no way beyond it. This process
stands at the bridge itself, under the name of `HERE`. All names carry this process's id, so that
what a killed run has left behind is known, and is taken away by the next one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from goverse.testing.processes import Place

HERE = "here"
_PREFIX = "goverse"
_OURS = re.compile(rf"^{_PREFIX}-(\d+)-\S+", re.MULTILINE)
_LINKS = re.compile(r"\b(gv(\d+)(?:b|v\d+))\b")

_CHAINS = """
add table inet goverse
add chain inet goverse input { type filter hook input priority 0; }
add chain inet goverse output { type filter hook output priority 0; }
"""


class NamespacesUnavailable(RuntimeError):
    """This machine cannot make them."""


def _program(name: str) -> str:
    found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if found is None:
        raise NamespacesUnavailable(f"{name} is not installed; scripts/setup-test says how")
    return found


def _run(*command: str, text: str = "") -> str:
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NamespacesUnavailable(
            f"{' '.join(command)} failed ({done.stderr.strip()}). Network namespaces need Linux "
            "and root, and cannot be made inside most containers"
        )
    return done.stdout


class Namespaces:
    """Made by `open_namespaces`."""

    def __init__(self, names: Sequence[str]) -> None:
        self._ip, self._nft = _program("ip"), _program("nft")
        self._pid = os.getpid()
        self._network = self._free_network()
        self._hosts = {name: f"{self._network}.{n}" for n, name in enumerate((HERE, *names), 1)}
        self._dropped: set[tuple[str, str]] = set()

    def _free_network(self) -> str:
        # 198.18.0.0/15 is set aside for measurements between machines: nobody routes it.
        taken = _run(self._ip, "-4", "-o", "address")
        for step in range(512):
            number = (self._pid + step) % 512
            network = f"198.{18 + number // 256}.{number % 256}"
            if f" {network}." not in taken:
                return network
        raise NamespacesUnavailable("every network of 198.18.0.0/15 is in use on this machine")

    def open(self) -> None:
        clean_up_leftovers()
        bridge = f"gv{self._pid}b"
        _run(self._ip, "link", "add", bridge, "type", "bridge")
        _run(self._ip, "address", "add", f"{self._hosts[HERE]}/24", "dev", bridge)
        _run(self._ip, "link", "set", bridge, "up")
        for number, name in enumerate(self._hosts):
            if name != HERE:
                self._add(name, f"gv{self._pid}v{number}", bridge)

    def _add(self, name: str, outside: str, bridge: str) -> None:
        space, ip = self._space(name), self._ip
        _run(ip, "netns", "add", space)
        peer = ("peer", "name", "eth0", "netns", space)
        _run(ip, "link", "add", outside, "type", "veth", *peer)
        _run(ip, "link", "set", outside, "master", bridge, "up")
        _run(ip, "-n", space, "link", "set", "lo", "up")
        _run(ip, "-n", space, "address", "add", f"{self._hosts[name]}/24", "dev", "eth0")
        _run(ip, "-n", space, "link", "set", "eth0", "up")
        self._rules(name, _CHAINS)

    def _space(self, name: str) -> str:
        return f"{_PREFIX}-{self._pid}-{name}"

    def _rules(self, name: str, text: str) -> None:
        _run(*self.place(name).prefix, self._nft, "-f", "-", text=text)

    def host(self, name: str) -> str:
        return self._hosts[name]

    def place(self, name: str) -> Place:
        prefix = (self._ip, "netns", "exec", self._space(name))
        return Place(self._hosts[name], prefix)

    def cut(self, source: str, target: str) -> None:
        """What ``source`` sends to ``target`` is lost, silently."""
        self._dropped.add((source, target))
        self._apply(source, target)

    def heal(self, source: str, target: str) -> None:
        self._dropped.discard((source, target))
        self._apply(source, target)

    def _apply(self, source: str, target: str) -> None:
        """Where it arrives; here, where everybody's packets pass, that would be no place for it.
        All rules of one place at once, so that no moment has half of them."""
        place = source if target == HERE else target
        rules = ["flush chain inet goverse input", "flush chain inet goverse output"]
        for sender, receiver in sorted(self._dropped):
            if receiver == place:
                rules.append(f"add rule inet goverse input ip saddr {self._hosts[sender]} drop")
            elif receiver == HERE and sender == place:
                rules.append(f"add rule inet goverse output ip daddr {self._hosts[HERE]} drop")
        self._rules(place, "\n".join([*rules, ""]))

    def close(self) -> None:
        _remove(self._ip, self._pid)


def _remove(ip: str, pid: int) -> None:
    """Everything that carries the id of one process. What is not there is no matter."""
    for match in _OURS.finditer(_run(ip, "netns", "list")):
        if int(match[1]) == pid:
            with suppress(NamespacesUnavailable):
                _run(ip, "netns", "delete", match[0])
    # Links go with their namespaces, but later, and their names are needed again.
    for match in _LINKS.finditer(_run(ip, "-o", "link")):
        if int(match[2]) == pid:
            with suppress(NamespacesUnavailable):
                _run(ip, "link", "delete", match[1])


def clean_up_leftovers() -> None:
    """Take away what processes have left that are not alive any more."""
    ip = _program("ip")
    found = {int(match[1]) for match in _OURS.finditer(_run(ip, "netns", "list"))}
    found |= {int(match[2]) for match in _LINKS.finditer(_run(ip, "-o", "link"))}
    for pid in sorted(found):
        if not Path(f"/proc/{pid}").exists():
            _remove(ip, pid)


@contextmanager
def open_namespaces(*names: str) -> Iterator[Namespaces]:
    """A namespace for each name. Raises NamespacesUnavailable."""
    spaces = Namespaces(names)
    try:
        spaces.open()
        yield spaces
    finally:
        spaces.close()
